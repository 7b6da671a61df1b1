"""The trials of `experiments/display_recipe_search.py` that borrow from another class."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from fourier_amplitude import amplitudes, mixed
from histogram_matching import foreground_quantiles, histograms, matched

RNG = np.random.default_rng(0)
# Two classes: one dark, one bright, both with air around.
DARK = RNG.uniform(0.15, 0.4, (4, 24, 24))
BRIGHT = RNG.uniform(0.6, 1.0, (4, 24, 24))
VALUES = np.concatenate([DARK, BRIGHT])
VALUES[:, :4] = 0
IMAGES = (VALUES * 255).astype(np.uint8)
LABELS = np.repeat([0, 1], 4)


def _floats() -> torch.Tensor:
    return torch.from_numpy(IMAGES).float() / 255


def test_image_gets_the_distribution_of_another_class_and_keeps_its_order() -> None:
    table = histograms(IMAGES, LABELS, np.arange(8))
    found = matched(_floats(), torch.arange(8), table, 1.0, 0, 0)
    inside = found[:, 4:]
    assert inside[:4].median() > 0.7
    assert inside[4:].median() < 0.4
    assert (found[:, :4] == 0).all()  # air stays air
    before, after = _floats()[0, 4:].flatten(), inside[0].flatten()
    assert (after[before.argsort()].diff() >= -1e-5).all()


def test_draw_depends_on_the_image_and_not_on_its_batch() -> None:
    table = histograms(IMAGES, LABELS, np.arange(8))
    whole = matched(_floats(), torch.arange(8), table, 0.5, 1, 3)
    alone = matched(_floats()[5:6], torch.tensor([5]), table, 0.5, 1, 3)
    assert torch.allclose(whole[5], alone[0])
    assert torch.equal(whole, matched(_floats(), torch.arange(8), table, 0.5, 1, 3))
    assert not torch.equal(whole, _floats())


def test_one_class_alone_keeps_its_histograms() -> None:
    table = histograms(IMAGES, np.zeros(8, dtype=np.int64), np.arange(8))
    assert torch.equal(matched(_floats(), torch.arange(8), table, 1.0, 0, 0), _floats())


def test_quantiles_are_of_the_foreground_alone() -> None:
    found = foreground_quantiles(_floats())
    assert (found.diff(dim=1) >= 0).all()
    assert found[:4].min() > 0.12
    assert torch.isfinite(foreground_quantiles(torch.zeros(1, 8, 8))).all()


def test_image_gets_the_amplitude_of_another_class_and_keeps_its_phase() -> None:
    table = amplitudes(IMAGES, LABELS, np.arange(8))
    found = mixed(_floats()[:4], torch.arange(4), table, 1.0, 0, 0)
    # The amplitude at zero frequency is the sum of the pixels.
    middle = table.values.shape[1] // 2
    sums = table.values[4:, middle, middle]
    assert (found.sum(dim=(1, 2)).numpy() > sums.min() * 0.95).all()
    before, after = torch.fft.fft2(_floats()[:4]), torch.fft.fft2(found)
    assert (
        torch.cosine_similarity(
            before.angle().cos().flatten(1), after.angle().cos().flatten(1)
        ).min()
        > 0.8
    )
