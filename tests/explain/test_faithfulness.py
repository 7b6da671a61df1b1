from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tumorlens.checkpoint.session import Session
from tumorlens.explain.faithfulness import AT, GAMES, ORDERS, areas_below, faithfulness

Opener = Callable[[nn.Module, np.ndarray], Session]


class Brightness(nn.Module):
    """Logit 0 is the image's mean brightness, logit 1 is 0.1."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([mean, torch.full_like(mean, 0.1)], dim=1)


@pytest.fixture
def maps(squares: np.ndarray) -> np.ndarray:
    """(4, 8, 8) as of a layer of stride 8, cell i centred on pixel 8 i: hot on the square."""
    return (squares[:, ::8, ::8] > 128).astype(np.float32)


def test_true_map_beats_random_places_and_its_own_inverse(
    session_on: Opener, squares: np.ndarray, maps: np.ndarray
) -> None:
    session = session_on(Brightness(), squares)
    good = faithfulness(session, maps)
    bad = faithfulness(session, 1 - maps)
    assert (areas_below(good["deletion"]["map"]) < areas_below(good["deletion"]["random"])).all()
    assert (areas_below(good["insertion"]["map"]) > areas_below(good["insertion"]["random"])).all()
    assert (areas_below(good["deletion"]["map"]) < areas_below(bad["deletion"]["map"])).all()
    assert (areas_below(good["insertion"]["map"]) > areas_below(bad["insertion"]["map"])).all()


def test_curves_run_between_the_picture_and_the_baseline(
    session_on: Opener, squares: np.ndarray, maps: np.ndarray
) -> None:
    found = faithfulness(session_on(Brightness(), squares), maps)
    brightness = squares.mean(axis=(1, 2)) / 255
    whole = 1 / (1 + np.exp(0.1 - brightness))  # logits: mean brightness and 0.1
    nothing = 1 / (1 + np.exp(0.1))
    for order in ORDERS:
        deletion, insertion = (found[game][order] for game in GAMES)
        assert deletion[:, 0] == pytest.approx(whole, abs=1e-6)
        assert deletion[:, -1] == pytest.approx(nothing, abs=1e-6)
        assert insertion[:, -1] == pytest.approx(deletion[:, 0], abs=1e-6)
    # bright pixels gone, the score only falls
    assert (np.diff(found["deletion"]["map"], axis=1) <= 1e-7).all()
    assert AT[0] == 0
    assert AT[-1] == 1


def test_probabilities_are_calibrated_where_there_is_a_temperature(
    session_on: Opener, squares: np.ndarray, maps: np.ndarray
) -> None:
    session = session_on(Brightness(), squares)
    session = replace(session, checkpoint=replace(session.checkpoint, temperature=0.25))
    whole = faithfulness(session, maps)["deletion"]["map"][:, 0]
    brightness = squares.mean(axis=(1, 2)) / 255
    assert whole == pytest.approx(1 / (1 + np.exp((0.1 - brightness) / 0.25)), abs=1e-5)


def test_same_seed_gives_the_same_curves(
    session_on: Opener, squares: np.ndarray, maps: np.ndarray
) -> None:
    session = session_on(Brightness(), squares[:1])
    runs = [faithfulness(session, maps[:1], seed=seed) for seed in (1, 1, 2)]
    curves = [run["deletion"]["random"] for run in runs]
    assert (curves[0] == curves[1]).all()
    assert (curves[0] != curves[2]).any()
