import numpy as np
import pytest

from tumorlens.training.batches import EpochSampler, training_batches, validation_batches

INDICES = np.arange(100, 203)


def _share(rank: int, world: int, share: int, epoch: int = 0, seed: int = 0) -> list[int]:
    sampler = EpochSampler(INDICES, share, rank, world, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


def test_two_processes_see_the_batches_of_one_in_turn() -> None:
    alone = np.array(_share(0, 1, 4)[:96]).reshape(-1, 2, 4)
    first, second = (np.array(_share(rank, 2, 4)).reshape(-1, 4) for rank in (0, 1))
    assert first.tolist() == alone[:, 0].tolist()
    assert second.tolist() == alone[:, 1].tolist()
    assert not set(first.ravel()) & set(second.ravel())


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert _share(0, 1, 8, epoch=3) == _share(0, 1, 8, epoch=3)
    assert _share(0, 1, 8, epoch=3) != _share(0, 1, 8, epoch=4)
    assert _share(0, 1, 8, seed=1) != _share(0, 1, 8, seed=2)
    assert set(_share(0, 1, 8)) <= set(INDICES.tolist())


@pytest.mark.parametrize("world", [1, 2, 3])
def test_no_validation_image_is_counted_twice_or_left_out(world: int) -> None:
    images = np.zeros((300, 2, 2), dtype=np.uint8)
    labels = np.zeros(300, dtype=np.int64)
    seen = []
    for rank in range(world):
        batches = validation_batches(images, labels, INDICES, batch_size=16, rank=rank, world=world)
        seen += [index for _, _, indices in batches for index in indices.tolist()]
    assert sorted(seen) == INDICES.tolist()


def test_batches_are_whole_and_carry_their_own_labels() -> None:
    images = np.arange(300, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 3), dtype=np.uint8)
    labels = np.arange(300) % 4
    batches = list(training_batches(images, labels, INDICES, 10, seed=1))
    assert len(batches) == 10
    for images, targets, indices in batches:
        assert images.shape == (10, 3, 3)
        assert (images[:, 0, 0] == indices % 256).all()
        assert (targets == indices % 4).all()
