from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data.dataset import Dataset, load_for_scoring
from tumorlens.data.patients import Patients
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.subgroups import subgroup_columns, thirds

CLASSES = ("glioma", "notumor")


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Dataset:
    """14 images, of which the first is in colour."""
    root = make_folder({"test": 7}, classes=CLASSES)
    first = root / "test/glioma/glioma000.png"
    Image.open(first).convert("RGB").save(first)
    found = resolve(root, None, None, None, size=32)
    return load_for_scoring(found, 32, CLASSES, split="auto")


def _table(data: Dataset, folder: Path, header: str, values: list[str]) -> Path:
    path = folder / "subgroups.csv"
    lines = [f"{name},{value}" for name, value in zip(data.paths, values, strict=False)]
    path.write_text("\n".join([f"path,{header}", *lines]))
    return path


def test_images_are_divided_by_colour_mode_and_brightness_without_a_table(data: Dataset) -> None:
    found, left_out = subgroup_columns(data, None)
    assert list(found) == ["colour mode", "brightness"]
    assert found["colour mode"].tolist() == ["colour"] + ["grey"] * 13
    brightest = found["brightness"][np.argmax(data.images.mean(axis=(1, 2)))]
    assert brightest.startswith("third 3, above")
    assert np.unique(found["brightness"], return_counts=True)[1].tolist() == [5, 4, 5]
    assert left_out == ""


def test_categories_stay_numbers_and_boxes_become_thirds(data: Dataset, tmp_path: Path) -> None:
    values = [f"{'ab'[i % 2]},{i},0,0,0.5,{(i + 1) / 14}" for i in range(13)]
    header = "scanner,age,box_x0,box_y0,box_x1,box_y1"
    found, _ = subgroup_columns(data, _table(data, tmp_path, header, values))
    assert found["scanner"].tolist() == [*"abababababab", "a", ""]  # the last is not listed
    assert found["age"][[0, 4, 5, 12, 13]].tolist() == [
        *("third 1, to 4", "third 1, to 4", "third 2, to 8", "third 3, above 8", "")
    ]
    assert found["tumor size"][0].startswith("third 1, to 0.")
    assert "box_x0" not in found


def test_columns_of_the_patients_table_divide_unless_the_file_has_them(
    data: Dataset, tmp_path: Path
) -> None:
    n = len(data.paths)
    columns = {"site": np.full(n, "north"), "serial": np.array([f"s{i}" for i in range(n)])}
    known = replace(data, patients=Patients("t", np.full(n, "p"), columns))
    found, left_out = subgroup_columns(known, None)
    assert set(found["site"]) == {"north"}
    assert left_out == "No subgroups by serial: more than 12 values, no numbers."
    found, _ = subgroup_columns(known, _table(data, tmp_path, "site", ["south"] * n))
    assert set(found["site"]) == {"south"}


@pytest.mark.parametrize(
    ("header", "values", "words"),
    [
        ("patient", ["p"] * 14, "has no column that divides the images; found path, patient"),
        ("serial", [f"s{i}" for i in range(14)], "has no column that divides the images"),
        ("site", [], "lists none of the images; it has no row, the data folder has test/glioma"),
        ("box_x0,box_y0,box_x1,box_y1", ["0,0,wide,1"], "a box's edge is no number"),
    ],
)
def test_file_without_use_is_one_sentence(
    data: Dataset, tmp_path: Path, header: str, values: list[str], words: str
) -> None:
    with pytest.raises(TumorlensError, match=words) as refused:
        subgroup_columns(data, _table(data, tmp_path, header, values))
    assert str(refused.value).startswith("--subgroups ")


def test_thirds_of_numbers_and_none_of_nothing() -> None:
    assert thirds(np.array([1.0, np.nan, 2, 3])).tolist() == [
        *("third 1, to 1.67", "", "third 2, to 2.33", "third 3, above 2.33")
    ]
    assert thirds(np.full(2, np.nan)).tolist() == ["", ""]
