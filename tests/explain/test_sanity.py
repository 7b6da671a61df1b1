from collections.abc import Callable

import numpy as np
import pytest
import torch

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import Session
from tumorlens.explain.gradcam import Way, maps_of
from tumorlens.explain.sanity import between, cascade, floor, similarity, ssim, steps
from tumorlens.models.build import build_model

RNG = np.random.default_rng(0)


def test_ssim_is_its_formula_window_by_window() -> None:
    one, other = RNG.random((12, 15)), RNG.random((12, 15))
    found = []
    for row in range(12 - 6):
        for column in range(15 - 6):
            a, b = (x[row : row + 7, column : column + 7].ravel() for x in (one, other))
            covariance = np.cov(a, b)
            found.append(
                (2 * a.mean() * b.mean() + 1e-4)
                * (2 * covariance[0, 1] + 9e-4)
                / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
                / (covariance[0, 0] + covariance[1, 1] + 9e-4)
            )
    assert ssim(one, other) == pytest.approx(np.mean(found))
    assert ssim(one, one) == pytest.approx(1)


def test_same_map_is_alike_opposite_map_is_not_and_an_even_map_has_no_order() -> None:
    maps = RNG.random((3, 4, 4)).astype(np.float32)
    same = similarity(maps, 5 * maps, 64)
    assert same["ssim"] == pytest.approx([1, 1, 1])
    assert same["rank"] == pytest.approx([1, 1, 1])
    assert similarity(maps, 1 - maps, 64)["rank"] == pytest.approx([-1, -1, -1])
    assert np.isnan(similarity(maps, np.zeros_like(maps), 64)["rank"]).all()


def test_rank_correlation_averages_the_ranks_of_equal_cells() -> None:
    one = np.array([[[0, 0, 1, 2], [2, 2, 3, 0]]], dtype=np.float32)
    other = np.array([[[5, 1, 1, 0], [3, 3, 2, 4]]], dtype=np.float32)
    ranks = (
        np.array([2, 2, 4, 6, 6, 6, 8, 2.0]),
        np.array([8, 2.5, 2.5, 1, 5.5, 5.5, 4, 7.0]),
    )
    expected = np.corrcoef(*ranks)[0, 1]
    assert similarity(one, other, 64)["rank"][0] == pytest.approx(expected, abs=1e-12)


def test_maps_of_different_layers_are_compared_by_their_places() -> None:
    fine = np.zeros((1, 8, 8), dtype=np.float32)
    coarse = np.zeros((1, 4, 4), dtype=np.float32)
    fine[0, 2, 4] = coarse[0, 1, 2] = 1
    near = similarity(fine, coarse, 64)
    far = similarity(fine, np.ascontiguousarray(coarse[:, ::-1]), 64)
    assert near["ssim"][0] > far["ssim"][0]
    assert near["rank"][0] > far["rank"][0]


def test_floor_pairs_each_map_with_another_images() -> None:
    maps = np.eye(4, dtype=np.float32).reshape(4, 2, 2)
    assert (floor(maps, 64)["rank"] < 0).all()
    assert (floor(np.repeat(maps[:1], 4, axis=0), 64)["rank"] == 1).all()


def test_cascade_makes_one_part_more_random_at_each_step(bright: Checkpoint) -> None:
    original = {name: value.clone() for name, value in bright.weights.items()}
    fresh = build_model("resnet18", 2, seed=1_000_003).state_dict()
    seen = []
    for step, network in cascade(bright):
        seen.append(step)
        for name, value in network.state_dict().items():
            done = name.startswith(tuple(f"{part}." for part in seen))
            done |= step == "conv1" and name.startswith("bn1.")
            assert torch.equal(value, (fresh if done else original)[name]), (step, name)
    assert seen == list(steps(bright.network()))
    assert seen[:3] == ["fc", "layer4.1", "layer4.0"]
    assert seen[-2:] == ["layer1.0", "conv1"]
    assert all(torch.equal(value, original[name]) for name, value in bright.weights.items())


def test_maps_fall_apart_when_the_weights_are_random(
    bright: Checkpoint,
    squares: np.ndarray,
    session_on: Callable[[torch.nn.Module, np.ndarray], Session],
) -> None:
    def maps(network: torch.nn.Module) -> np.ndarray:
        return maps_of(session_on(network, squares), Way("layer2"))

    before = maps(bright.network())
    *_, (_, last) = cascade(bright)
    assert similarity(before, maps(bright.network()), 64)["ssim"].min() == pytest.approx(1)
    assert similarity(before, maps(last), 64)["ssim"].max() < 0.5


def test_agreement_is_the_mean_over_pairs() -> None:
    one, two, three = RNG.random((3, 2, 4, 4)).astype(np.float32)
    found = between([one, two, three], 64)
    pairs = [similarity(a, b, 64) for a, b in ((one, two), (one, three), (two, three))]
    assert found["rank"] == pytest.approx(np.mean([pair["rank"] for pair in pairs], axis=0))
    assert found["ssim"] == pytest.approx(np.mean([pair["ssim"] for pair in pairs], axis=0))
    assert between([one, one], 64)["rank"] == pytest.approx([1, 1])
