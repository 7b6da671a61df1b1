import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score

from tumorlens.explain.map_metrics import (
    BORDER,
    SIDE,
    SKULL,
    THRESHOLDS,
    TOLERANCE,
    attribution,
    border,
    centre_map,
    fit,
    frame,
    head,
    skull,
)
from tumorlens.explain.overlay import on_image
from tumorlens.phantom.dataset import phantom_slice


def _square(top: int, left: int, side: int) -> np.ndarray:
    region = np.zeros((SIDE, SIDE))
    region[top : top + side, left : left + side] = 1
    return region


def test_map_that_is_the_box_is_perfect() -> None:
    region = _square(40, 60, 50)
    found = fit(region * 3.0, region)
    assert found.energy_pointing_game == pytest.approx(1)
    assert found.box_area_share == pytest.approx(2500 / SIDE**2)
    assert found.pointing_game == 1
    assert found.average_precision == pytest.approx(1)
    assert found.overlap == pytest.approx(np.ones(len(THRESHOLDS)))


def test_even_map_is_at_chance() -> None:
    region = _square(40, 60, 50)
    found = fit(np.full(region.shape, 0.2), region)
    assert found.energy_pointing_game == pytest.approx(found.box_area_share)
    assert found.average_precision == pytest.approx(found.box_area_share)
    assert found.overlap == pytest.approx(np.full(len(THRESHOLDS), found.box_area_share))


def test_map_of_nothing_is_at_chance_and_points_nowhere() -> None:
    found = fit(np.zeros((SIDE, SIDE)), _square(0, 0, 100))
    assert found.energy_pointing_game == found.box_area_share == found.average_precision
    assert found.pointing_game == 0


@pytest.mark.parametrize(("away", "hit"), [(TOLERANCE, 1.0), (TOLERANCE + 1, 0.0)])
def test_pointing_game_has_a_tolerance(away: int, hit: float) -> None:
    relevance = np.full((SIDE, SIDE), 0.1)
    relevance[50, 99 + away] = 1
    assert fit(relevance, _square(40, 60, 40)).pointing_game == hit


def test_chance_of_pointing_is_the_area_within_reach() -> None:
    region = _square(100, 100, 20)
    corners = sum(
        1
        for row in range(1, TOLERANCE + 1)
        for column in range(1, TOLERANCE + 1)
        if row**2 + column**2 <= TOLERANCE**2
    )
    expected = 20 * 20 + 4 * 20 * TOLERANCE + 4 * corners
    assert fit(np.ones(region.shape), region).pointing_area_share == pytest.approx(
        expected / SIDE**2
    )


def test_average_precision_is_scikit_learns_and_iou_is_counted_by_hand() -> None:
    rng = np.random.default_rng(0)
    region = np.zeros((90, SIDE))
    region[20:60, 30:100] = 1
    relevance = rng.random(region.shape) + 0.6 * region
    found = fit(relevance, region)
    expected = average_precision_score(region.ravel() > 0, relevance.ravel())
    assert found.average_precision == pytest.approx(expected, abs=2e-3)
    for at in (3, 9, 15):
        picked = relevance >= THRESHOLDS[at] * relevance.max()
        both, either = (picked & (region > 0)).sum(), (picked | (region > 0)).sum()
        assert found.overlap[at] == pytest.approx(both / either, abs=1e-9)


def test_energy_counts_the_part_of_a_pixel_that_a_box_covers() -> None:
    region = np.zeros((10, 10))
    region[2, 2], region[2, 3] = 1, 0.25
    assert fit(np.ones((10, 10)), region).energy_pointing_game == pytest.approx(1.25 / 100)


def test_frame_keeps_proportions_and_padding_is_left_out() -> None:
    assert frame(512, 512) == (SIDE, SIDE)
    assert frame(100, 400) == (56, SIDE)
    relevance = np.zeros((7, 7), dtype=np.float32)
    relevance[0] = 1  # all of it on the padding above a wide image
    assert on_image(relevance, 56, SIDE, 224).max() == 0


def _disk(radius: int, row: int = 112, column: int = 112) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_head_is_the_bright_disk_with_its_dark_inside_and_without_writing_in_the_corner() -> None:
    disk = _disk(80)
    grey = np.where(disk, 120, 4).astype(np.uint8)
    grey[_disk(20)] = 0  # fluid
    grey[5:15, 5:40] = 255  # writing
    found = head(grey)
    assert (found ^ disk).mean() < 0.01
    assert not found[5:15, 5:40].any()


def test_nothing_that_stands_out_counts_as_head_everywhere() -> None:
    assert head(np.full((30, 40), 7, dtype=np.uint8)).all()
    assert head(np.zeros((30, 40), dtype=np.uint8)).all()


def test_tumor_of_a_phantom_lies_in_its_head() -> None:
    made = phantom_slice(3, "meningioma", SIDE, duplicate=False)
    found = head(made.image)
    assert 0.25 < found.mean() < 0.9
    assert (made.mask & ~found).sum() <= 0.02 * made.mask.sum()


def test_even_map_has_the_areas_shares_and_a_squares_spread() -> None:
    disk = _disk(80)
    found = attribution(np.full(disk.shape, 3.0), disk)
    assert found.outside_head == pytest.approx((~disk).mean())
    assert found.border == pytest.approx(border(disk.shape).mean())
    assert found.border == pytest.approx(1 - (1 - 2 * BORDER / SIDE) ** 2)
    assert found.skull == pytest.approx(skull(disk).mean())
    assert found.entropy == pytest.approx(1)
    assert found.spread == pytest.approx(np.sqrt(1 / 6), rel=1e-3)
    assert attribution(np.zeros(disk.shape), disk).empty


def test_map_of_one_pixel_has_no_spread_and_lies_where_it_lies() -> None:
    disk = _disk(80)
    for row, column, expected in (
        (112, 112, (0, 0, 0)),
        (112, 34, (0, 0, 1)),  # two pixels below the outline
        (40, 40, (1, 0, 0)),
        (112, 2, (1, 1, 0)),
    ):
        relevance = np.zeros(disk.shape)
        relevance[row, column] = 0.3
        found = attribution(relevance, disk)
        assert (found.outside_head, found.border, found.skull) == expected
        assert found.entropy == found.spread == 0


def test_skull_band_is_as_deep_as_said_and_not_along_the_pictures_edge() -> None:
    depth = int(SKULL * 160)
    disk = _disk(80)
    band = skull(disk)
    assert band[112, 33:45].sum() == depth
    cut = _disk(80, row=223)  # half a head: the image ends in its middle
    assert not skull(cut)[-1, 100:124].any()


def test_centre_baseline_is_highest_in_the_middle_of_the_head() -> None:
    disk = _disk(50, row=80, column=140)
    found = centre_map(disk)
    assert np.unravel_index(found.argmax(), found.shape) == (80, 140)
    assert ndimage.center_of_mass(found) == pytest.approx((80, 140), abs=0.5)
