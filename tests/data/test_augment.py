import math
from dataclasses import Field, fields

import numpy as np
import pytest
import torch

from tumorlens.data.augment import NONE, Augmentation, augment, uniform

PICTURES = torch.rand(6, 20, 28, generator=torch.Generator().manual_seed(0))
INDICES = torch.tensor([4, 9, 2, 7, 100, 31])


def test_picture_depends_on_seed_epoch_and_index_alone() -> None:
    settings = Augmentation()
    together = augment(PICTURES, INDICES, settings, seed=3, epoch=5)
    for row in (0, 3, 5):
        alone = augment(PICTURES[row : row + 1], INDICES[row : row + 1], settings, seed=3, epoch=5)
        torch.testing.assert_close(alone[0], together[row])
    order = torch.tensor([5, 1, 0, 2, 4, 3])
    shuffled = augment(PICTURES[order], INDICES[order], settings, seed=3, epoch=5)
    torch.testing.assert_close(shuffled, together[order])
    for seed, epoch in ((4, 5), (3, 6)):
        assert not torch.allclose(augment(PICTURES, INDICES, settings, seed, epoch), together)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = augment(PICTURES, INDICES, Augmentation(), 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(augment(PICTURES, INDICES, Augmentation(), 0, 0), first)


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(augment(PICTURES, INDICES, NONE, 0, 0), PICTURES)


def test_flip_alone_gives_the_picture_or_its_mirror_image_about_half_of_the_time() -> None:
    settings = Augmentation(rotation=0, scale=0, shift=0, brightness=0, contrast=0)
    images = PICTURES[:1].expand(400, -1, -1)
    changed = augment(images, torch.arange(400), settings, 0, 0)
    mirrored = PICTURES[0].flip(1)
    is_same = [torch.allclose(image, PICTURES[0], atol=1e-5) for image in changed]
    is_mirror = [torch.allclose(image, mirrored, atol=1e-5) for image in changed]
    assert all(same != mirror for same, mirror in zip(is_same, is_mirror, strict=True))
    assert 150 < sum(is_mirror) < 250


def test_turning_a_rectangle_does_not_shear_it() -> None:
    # A disc stays a disc of the same area under rotation, whatever the frame's proportions.
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(90.0), indexing="ij")
    disc = (((y - 29.5) ** 2 + (x - 44.5) ** 2) < 15**2).float().expand(20, -1, -1)
    settings = Augmentation(flip=False, rotation=90, scale=0, shift=0, brightness=0, contrast=0)
    turned = augment(disc, torch.arange(20), settings, 0, 0)
    assert (turned - disc).abs().mean() < 0.01


def test_shift_moves_by_at_most_the_fraction_of_the_side() -> None:
    image = torch.zeros(200, 40, 80)
    image[:, 20, 40] = 1
    settings = Augmentation(flip=False, rotation=0, scale=0, shift=0.1, brightness=0, contrast=0)
    moved = augment(image, torch.arange(200), settings, 0, 0)
    rows = (moved.sum(2) * torch.arange(40)).sum(1) / moved.sum((1, 2)) - 20
    columns = (moved.sum(1) * torch.arange(80)).sum(1) / moved.sum((1, 2)) - 40
    assert 3 < rows.abs().max() <= 4.01
    assert 6 < columns.abs().max() <= 8.01


def test_brightness_and_contrast_stay_within_bounds() -> None:
    grey = torch.full((300, 4, 4), 0.5)
    settings = Augmentation(flip=False, rotation=0, scale=0, shift=0, brightness=0.1, contrast=0)
    values = augment(grey, torch.arange(300), settings, 0, 0)[:, 0, 0]
    assert values.min() >= 0.4
    assert values.max() <= 0.6
    assert values.std() > 0.04
    assert augment(PICTURES, INDICES, Augmentation(brightness=0.9), 0, 0).min() >= 0


def test_gamma_bends_the_greys_between_black_and_white_only() -> None:
    settings = Augmentation(
        flip=False, rotation=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0.5
    )
    ramp = torch.linspace(0, 1, 64).reshape(1, 8, 8).repeat(50, 1, 1)
    bent = augment(ramp, torch.arange(50), settings, seed=0, epoch=0)
    assert torch.equal(bent[:, 0, 0], ramp[:, 0, 0])
    torch.testing.assert_close(bent[:, -1, -1], ramp[:, -1, -1])
    powers = bent[:, 4, 0].log() / ramp[:, 4, 0].log()
    torch.testing.assert_close(bent[:, 2, 5], ramp[:, 2, 5] ** powers)
    logarithms = powers.log().abs()
    assert 0.35 < float(logarithms.max()) <= 0.5 + 1e-5


def test_random_numbers_are_uniform_and_uncorrelated() -> None:
    drawn = uniform(7, 3, np.arange(20_000), 4)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(drawn.var(axis=0), 1 / 12, atol=0.003)
    correlation = np.corrcoef(np.hstack([drawn, uniform(7, 4, np.arange(20_000), 4)]).T)
    assert np.abs(correlation - np.eye(8)).max() < 0.03


@pytest.mark.parametrize("field", [item for item in fields(Augmentation) if item.name != "flip"])
def test_nonsense_is_refused_by_name(field: Field[float]) -> None:
    for value in (-0.1, 200.0, math.nan):
        with pytest.raises(ValueError, match=rf"^{field.name} is {value}"):
            Augmentation(**{field.name: value})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_moves_no_pixel(dtype: torch.dtype) -> None:
    alone = augment(PICTURES, INDICES, Augmentation(), seed=3, epoch=5)
    with torch.autocast("cpu", dtype=dtype):
        mixed = augment(PICTURES, INDICES, Augmentation(), seed=3, epoch=5)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, alone, rtol=0, atol=0)


SCANNER = {"curves": 1.0, "bias_field": 0.6, "resolution": 1.0, "noise": 0.2}


@pytest.mark.parametrize("name", SCANNER)
def test_what_a_scanner_does_depends_on_the_index_alone_and_keeps_the_range(name: str) -> None:
    settings = Augmentation(
        flip=False, rotation=0, scale=0, shift=0, brightness=0, contrast=0, **{name: SCANNER[name]}
    )
    together = augment(PICTURES, INDICES, settings, seed=3, epoch=5)
    assert not torch.allclose(together, PICTURES, atol=1e-3)
    assert together.min() >= 0
    assert together.max() <= 1
    for row in (0, 4):
        alone = augment(PICTURES[row : row + 1], INDICES[row : row + 1], settings, seed=3, epoch=5)
        torch.testing.assert_close(alone[0], together[row])


def test_intensity_curve_keeps_the_order_of_grey_values_and_both_ends() -> None:
    ramp = torch.linspace(0, 1, 64).expand(30, 4, 64)
    settings = Augmentation(
        flip=False, rotation=0, scale=0, shift=0, brightness=0, contrast=0, curves=1.0
    )
    found = augment(ramp, torch.arange(30), settings, 0, 0)[:, 1]
    assert (found.diff(dim=1) >= -1e-5).all()
    torch.testing.assert_close(found[:, 0], torch.zeros(30), atol=0.02, rtol=0)
    torch.testing.assert_close(found[:, -1], torch.ones(30), atol=0.02, rtol=0)
    assert found.std(dim=0).max() > 0.05  # each image has a curve of its own


def test_noise_has_the_deviation_that_was_drawn_and_comes_in_half_the_images() -> None:
    grey = torch.full((200, 24, 24), 0.5)
    settings = Augmentation(
        flip=False, rotation=0, scale=0, shift=0, brightness=0, contrast=0, noise=0.1
    )
    spread = (augment(grey, torch.arange(200), settings, 0, 0) - grey).std(dim=(1, 2))
    noisy = spread > 1e-6
    assert 70 < int(noisy.sum()) < 130
    assert spread.max() < 0.11
    assert 0.035 < float(spread[noisy].mean()) < 0.065
