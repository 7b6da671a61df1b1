import numpy as np
import pytest
from scipy import ndimage

from tumorlens.explain.map_metrics import BORDER, SKULL, border, centre_map, head, look, skull
from tumorlens.explain.measures import SIDE
from tumorlens.phantom.dataset import phantom_slice


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
    made = phantom_slice(3, "meningioma", SIDE, twin=False)
    found = head(made.image)
    assert 0.25 < found.mean() < 0.9
    assert (made.mask & ~found).sum() <= 0.02 * made.mask.sum()


def test_even_map_has_the_areas_shares_and_a_squares_spread() -> None:
    disk = _disk(80)
    found = look(np.full(disk.shape, 3.0), disk)
    assert found.outside_head == pytest.approx((~disk).mean())
    assert found.border == pytest.approx(border(disk.shape).mean())
    assert found.border == pytest.approx(1 - (1 - 2 * BORDER / SIDE) ** 2)
    assert found.skull == pytest.approx(skull(disk).mean())
    assert found.entropy == pytest.approx(1)
    assert found.spread == pytest.approx(np.sqrt(1 / 6), rel=1e-3)
    assert look(np.zeros(disk.shape), disk).empty


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
        found = look(relevance, disk)
        assert (found.outside_head, found.border, found.skull) == expected
        assert found.entropy == found.spread == 0


def test_skull_band_is_as_deep_as_said_and_not_along_the_pictures_edge() -> None:
    depth = int(SKULL * 160)
    disk = _disk(80)
    band = skull(disk)
    assert band[112, 33:45].sum() == depth
    cut = _disk(80, row=223)  # half a head: the picture ends in its middle
    assert not skull(cut)[-1, 100:124].any()


def test_centre_baseline_is_highest_in_the_middle_of_the_head() -> None:
    disk = _disk(50, row=80, column=140)
    found = centre_map(disk)
    assert np.unravel_index(found.argmax(), found.shape) == (80, 140)
    assert ndimage.center_of_mass(found) == pytest.approx((80, 140), abs=0.5)
