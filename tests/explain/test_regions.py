from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.errors import TumorlensError
from tumorlens.explain.regions import read_boxes

HEADER = "path,label,box_x0,box_y0,box_x1,box_y1,group\n"


def _csv(tmp_path: Path, rows: str, header: str = HEADER) -> Path:
    file = tmp_path / "boxes.csv"
    file.write_text(header + rows)
    return file


def test_columns_are_found_by_name_and_rows_without_a_box_are_left_out(tmp_path: Path) -> None:
    rows = "a.png,glioma,0.25,0.5,0.75,1.0,g1\nb.png,notumor,,,,,g2\n"
    found = read_boxes(_csv(tmp_path, rows))
    assert "a.png" in found
    assert "b.png" not in found
    region = found.region("a.png", 4, 8)
    expected = np.zeros((4, 8))
    expected[2:, 2:6] = 1  # x is along the width
    assert (region == expected).all()
    outline = found.outline("a.png", 4, 8)
    assert outline.boxes == ((0.25, 0.5, 0.75, 1.0),)
    assert outline.mask is None
    assert found.outline("b.png", 4, 8) is None


def test_box_edge_divides_a_pixel_and_two_boxes_are_united(tmp_path: Path) -> None:
    rows = "a.png,x,0,0,0.125,1,\na.png,x,0.5,0,1,1,\n"
    region = read_boxes(_csv(tmp_path, rows)).region("a.png", 1, 4)
    assert region.tolist() == [[0.5, 0, 1, 1]]


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ("a.png,x,30,20,80,90,\n", HEADER, "line 2 has the box 30, 20, 80, 90; expected fractions"),
        ("a.png,x,0.5,0.2,0.4,0.9,\n", HEADER, "left before right"),
        ("a.png,x,0.5,,0.6,0.9,\n", HEADER, "line 2"),
        (
            "a.png,1\n",
            "path,box\n",
            "has no column `box_x0`, `box_y0`, `box_x1`, `box_y1`; found path",
        ),
        ("a.png,x,,,,,\n", HEADER, "no row has a box"),
    ],
)
def test_faults_are_told_with_file_and_line(
    tmp_path: Path, rows: str, header: str, words: str
) -> None:
    with pytest.raises(TumorlensError, match=words) as told:
        read_boxes(_csv(tmp_path, rows, header))
    assert "--boxes" in str(told.value)


def test_missing_file_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="no such file; expected a CSV with columns path"):
        read_boxes(tmp_path / "none.csv")
    with pytest.raises(TumorlensError, match="no mask in this folder"):
        read_boxes(tmp_path)


def test_masks_lie_as_their_images_do_and_the_suffix_may_differ(tmp_path: Path) -> None:
    mask = np.zeros((20, 40), dtype=np.uint8)
    mask[5:10, 10:30] = 255
    (tmp_path / "test/glioma").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "test/glioma/a.png")
    found = read_boxes(tmp_path)
    assert "test/glioma/a.jpg" in found
    assert "test/glioma/b.jpg" not in found
    assert (found.region("test/glioma/a.jpg", 20, 40) == mask / 255).all()
    assert found.region("test/glioma/a.jpg", 10, 20).sum() == pytest.approx(25, rel=0.15)
    outline = found.outline("test/glioma/a.jpg", 20, 40)
    assert (outline.mask == mask / 255).all()
    assert outline.boxes == ()


def test_black_mask_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(TumorlensError, match="the mask a.png marks nothing"):
        read_boxes(tmp_path).region("a.png", 8, 8)
