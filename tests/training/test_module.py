from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tumorlens.data.augment import NONE
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.models.build import build_model
from tumorlens.settings import TrainSettings
from tumorlens.training.module import (
    Classifier,
    EpochSampler,
    training_batches,
    validation_batches,
)
from tumorlens.training.recipes import RECIPES, Recipe, resolve


def _classifier(schedule: str) -> Classifier:
    recipe = Recipe(32, 4, 8, 0.01, schedule, 5, NONE)
    return Classifier(build_model("resnet18", 3), 3, Preprocessing(32, 0.5, 0.2), recipe, 40, 0)


@pytest.mark.parametrize(
    ("schedule", "first", "highest", "last"),
    [
        ("one_cycle", 0.0004, 0.01, 1e-6),
        ("cosine", 0.01, 0.01, 1e-4),
        ("constant", 0.01, 0.01, 0.01),
    ],
)
def test_schedules_go_from_where_to_where(
    schedule: str, first: float, highest: float, last: float
) -> None:
    configured = _classifier(schedule).configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(first)
    assert max(rates) == pytest.approx(highest)
    assert rates[-1] <= last * 1.1


def test_indices_stay_on_the_cpu_where_augmentation_draws_by_them() -> None:
    batch = (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2).long(), torch.arange(2))
    moved = _classifier("constant").transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert [split.device.type for split in moved] == ["meta", "meta", "cpu"]


def test_decay_is_of_matrices_alone_and_sgd_has_nesterov_momentum() -> None:
    classifier = _classifier("one_cycle")
    classifier.recipe = replace(classifier.recipe, optimizer="sgd", weight_decay=0.01)
    optimizer = classifier.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    network = classifier.network
    assert decay[id(network.conv1.weight)] == decay[id(network.fc.weight)] == 0.01
    assert decay[id(network.bn1.weight)] == decay[id(network.fc.bias)] == 0.0
    assert len(decay) == len(list(network.parameters()))


def test_smoothed_label_of_a_sure_network_costs_what_was_spread() -> None:
    classifier = _classifier("constant")
    classifier.recipe = replace(classifier.recipe, label_smoothing=0.3)
    nn.init.zeros_(classifier.network.fc.weight)
    classifier.network.fc.bias.data = torch.tensor([50.0, 0.0, 0.0])
    batch = (torch.zeros(2, 32, 32, dtype=torch.uint8), torch.zeros(2).long(), torch.arange(2))
    # Two of three classes get a tenth each, and cost 50.
    assert classifier.training_step(batch, 0).item() == pytest.approx(10.0)


def test_running_mean_is_what_is_validated_and_kept_and_trains_nothing() -> None:
    recipe = Recipe(32, 4, 8, 0.01, "constant", 5, NONE, averaging=0.75)
    network = build_model("resnet18", 3)
    classifier = Classifier(network, 3, Preprocessing(32, 0.5, 0.2), recipe, 40, 0)
    batch = (torch.zeros(2, 32, 32, dtype=torch.uint8), torch.zeros(2).long(), torch.arange(2))
    for value in (1.0, 5.0):  # the first is taken as it is
        nn.init.constant_(network.fc.bias, value)
        classifier.on_train_batch_end(None, batch, 0)
    assert classifier.kept is not network
    assert classifier.kept.fc.bias.tolist() == [2.0, 2.0, 2.0]
    assert "average.module.fc.bias" in classifier.state_dict()
    trained = {
        id(p)
        for g in classifier.configure_optimizers()["optimizer"].param_groups
        for p in g["params"]
    }
    assert not any(id(p) in trained or p.requires_grad for p in classifier.kept.parameters())
    nn.init.zeros_(classifier.kept.fc.weight)
    classifier.kept.fc.bias.data = torch.tensor([9.0, 0.0, 0.0])
    classifier.eval()
    classifier.validation_step(batch, 0)
    assert classifier.valid_accuracy.compute() == 1


def test_validation_figures_are_of_all_batches_together() -> None:
    module = _classifier("constant")
    module.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 3))
    with torch.no_grad():
        module.network[1].weight.zero_()
        module.network[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    for labels in (torch.tensor([0, 0, 0]), torch.tensor([1])):
        images = torch.zeros(len(labels), 4, 4, dtype=torch.uint8)
        module.validation_step((images, labels, labels), 0)
    assert module.valid_accuracy.compute().item() == pytest.approx(0.75)
    right, wrong = (-torch.log_softmax(torch.tensor([1.0, 0, 0]), 0)[i].item() for i in (0, 1))
    assert module.valid_loss.compute().item() == pytest.approx((3 * right + wrong) / 4)


def test_flags_override_the_recipe_and_paper_is_the_published_one() -> None:
    paper = resolve(TrainSettings(model="resnet18", data_dir="data", recipe="paper"))
    assert (paper.image_size, paper.batch_size, paper.lr) == (224, 128, 2e-4)
    assert (paper.augmentation.flip, paper.augmentation.rotation) == (True, 10)
    assert (paper.augmentation.scale, paper.augmentation.contrast) == (0, 0)
    own = resolve(TrainSettings(model="resnet18", data_dir="data", epochs=3, lr=0.5))
    assert (own.epochs, own.lr) == (3, 0.5)
    assert own.batch_size == RECIPES["plain"].batch_size


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
