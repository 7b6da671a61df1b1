import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tumorlens.explain.measures import SIDE, THRESHOLDS, TOLERANCE, fit, frame, in_frame


def _square(top: int, left: int, side: int) -> np.ndarray:
    region = np.zeros((SIDE, SIDE))
    region[top : top + side, left : left + side] = 1
    return region


def test_map_that_is_the_box_is_perfect() -> None:
    region = _square(40, 60, 50)
    found = fit(region * 3.0, region)
    assert found.energy == pytest.approx(1)
    assert found.area == pytest.approx(2500 / SIDE**2)
    assert found.hit == 1
    assert found.precision == pytest.approx(1)
    assert found.overlap == pytest.approx(np.ones(len(THRESHOLDS)))


def test_even_map_is_at_chance() -> None:
    region = _square(40, 60, 50)
    found = fit(np.full(region.shape, 0.2), region)
    assert found.energy == pytest.approx(found.area)
    assert found.precision == pytest.approx(found.area)
    assert found.overlap == pytest.approx(np.full(len(THRESHOLDS), found.area))


def test_map_of_nothing_is_at_chance_and_points_nowhere() -> None:
    found = fit(np.zeros((SIDE, SIDE)), _square(0, 0, 100))
    assert found.empty
    assert found.energy == found.area == found.precision
    assert found.hit == 0


@pytest.mark.parametrize(("away", "hit"), [(TOLERANCE, 1.0), (TOLERANCE + 1, 0.0)])
def test_pointing_game_has_a_tolerance(away: int, hit: float) -> None:
    relevance = np.full((SIDE, SIDE), 0.1)
    relevance[50, 99 + away] = 1
    assert fit(relevance, _square(40, 60, 40)).hit == hit


def test_chance_of_pointing_is_the_area_within_reach() -> None:
    region = _square(100, 100, 20)
    corners = sum(
        1
        for row in range(1, TOLERANCE + 1)
        for column in range(1, TOLERANCE + 1)
        if row**2 + column**2 <= TOLERANCE**2
    )
    expected = 20 * 20 + 4 * 20 * TOLERANCE + 4 * corners
    assert fit(np.ones(region.shape), region).hit_by_chance == pytest.approx(expected / SIDE**2)


def test_average_precision_is_scikit_learns_and_iou_is_counted_by_hand() -> None:
    rng = np.random.default_rng(0)
    region = np.zeros((90, SIDE))
    region[20:60, 30:100] = 1
    relevance = rng.random(region.shape) + 0.6 * region
    found = fit(relevance, region)
    expected = average_precision_score(region.ravel() > 0, relevance.ravel())
    assert found.precision == pytest.approx(expected, abs=2e-3)
    for at in (3, 9, 15):
        picked = relevance >= THRESHOLDS[at] * relevance.max()
        both, either = (picked & (region > 0)).sum(), (picked | (region > 0)).sum()
        assert found.overlap[at] == pytest.approx(both / either, abs=1e-9)


def test_energy_counts_the_part_of_a_pixel_that_a_box_covers() -> None:
    region = np.zeros((10, 10))
    region[2, 2], region[2, 3] = 1, 0.25
    assert fit(np.ones((10, 10)), region).energy == pytest.approx(1.25 / 100)


def test_frame_keeps_proportions_and_padding_is_left_out() -> None:
    assert frame(512, 512) == (SIDE, SIDE)
    assert frame(100, 400) == (56, SIDE)
    relevance = np.zeros((7, 7), dtype=np.float32)
    relevance[0] = 1  # all of it on the padding above a wide picture
    assert in_frame(relevance, 56, SIDE, 224).max() == 0
