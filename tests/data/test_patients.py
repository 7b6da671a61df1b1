from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tumorlens.data.dataset import load_for_training
from tumorlens.data.duplicates import joined
from tumorlens.data.folder import scan
from tumorlens.data.patients import (
    FileTable,
    Patients,
    carried,
    check_overlap,
    overlaps,
    read_patients,
    record,
    units,
)
from tumorlens.data.splits import SplitFolder, resolve
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import read_table


def _write(folder: Path, text: str) -> Path:
    path = folder / "patients.csv"
    path.write_text(text)
    return path


def test_person_and_exam_are_understood_and_other_columns_kept(tmp_path: Path) -> None:
    table = read_patients(
        _write(tmp_path, "path,person,exam,site\na\\1.png,anna,anna-1,north\na/2.png,,,\n")
    )
    shown = table.of(("a/1.png", "a/2.png", "a/3.png"), None)
    assert shown.names.tolist() == ["anna", "", ""]
    assert shown.columns["examination"].tolist() == ["anna-1", "", ""]
    assert set(shown.properties()) == {"examination", "site"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,who\nx,1", "has no column `patient`; expected a CSV"),
        ("file,patient\nx,1", "no column `path`; found file, patient"),
        ("path,patient\nx,1\nx,2", "lists x more than once"),
        ("path,patient,person\nx,1,2", "the column `patient` twice, by this or another name"),
    ],
)
def test_wrong_tables_get_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(TumorlensError, match=words):
        read_patients(_write(tmp_path, text))


def test_table_that_lists_none_of_the_images_is_refused(tmp_path: Path) -> None:
    table = read_patients(_write(tmp_path, "path,patient\nother/1.png,anna\n"))
    with pytest.raises(TumorlensError, match="lists none of the images; it has other/1.png"):
        table.of(("a/1.png",), None)


def test_splits_file_carries_its_own_patients(tmp_path: Path) -> None:
    splits = _write(tmp_path, "path,split,patient\nx.png,train,anna\n")
    table = carried(splits, *read_table(splits, "--splits", ("path",)))
    assert table is not None
    assert table.of(("x.png",), None).names.tolist() == ["anna"]
    assert carried(splits, [{"path": "x.png", "split": "train"}], ["path"]) is None


def test_units_are_patients_and_near_duplicates_of_a_patient_are_the_patient_s() -> None:
    groups = np.array([0, 0, 1, 2, 3, 3, 4])
    names = np.array(["anna", "", "anna", "bob", "", "", ""])
    found = units(groups, Patients("", names))
    # anna: 0, 2 and her near-duplicate 1; bob: 3; a group of unknown patients: 4, 5; one alone: 6.
    assert found.tolist() == [0, 0, 0, 1, 2, 2, 3]
    assert units(groups, None).tolist() == [0, 0, 1, 2, 3, 3, 4]


def test_joined_groups_divide_no_group() -> None:
    first, second = np.array([0, 0, 1, 1, 2]), np.array([5, 6, 6, 7, 8])
    assert joined(first, second).tolist() == [0, 0, 0, 0, 1]


def test_patient_in_two_splits_is_refused_by_name_and_count() -> None:
    names = np.array(["anna", "anna", "anna", "bob", "carl", "carl", ""])
    splits = np.array(["train", "test", "test", "train", "valid", "train", "test"])
    assert [one.patient for one in overlaps(names, splits)] == ["anna", "carl"]
    with pytest.raises(
        TumorlensError,
        match=r"2 patients are in more than one split, by 1 of 1 valid images and 2 of 3 test "
        r"images: anna \(1 train, 2 test\), carl \(1 train, 1 valid\)",
    ):
        check_overlap(names, splits, "p.csv", allowed=False)
    said = check_overlap(names, splits, "p.csv", allowed=True)
    assert said.startswith("Patients overlap (--allow_patient_overlap): 2 patients")
    assert check_overlap(names[3:4], splits[3:4], "p.csv", allowed=False) == ""


def _two_an_image(root: Path, folder: Path) -> Path:
    """A table in which each patient has two images of one class, by name in order."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [f"{path},{path.split('/')[1]}-{index // 2}" for index, path in enumerate(paths)]
    return _write(folder, "path,patient\n" + "\n".join(rows) + "\n")


def test_automatic_validation_keeps_patients_together(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder({"Training": 20, "Testing": 2})
    source = resolve(root, patients=_two_an_image(root, tmp_path))
    data = load_for_training(source, 32, seed=1)
    assert data.patients is not None
    assert overlaps(data.patients.names, data.splits) == []
    assert len(data.indices("valid")) == 8
    assert "patients and near-duplicates stay together" in data.protocol


def test_split_of_folders_that_divides_a_patient_is_refused_or_told(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"train": 4, "valid": 2, "test": 2}, classes=("a", "b"))
    rows = {"train/a/a000.png": {"patient": "anna"}, "test/a/a006.png": {"patient": "anna"}}
    source = SplitFolder(scan(root), FileTable("p.csv", rows, ("patient",)))
    with pytest.raises(TumorlensError, match=r"--patients p.csv: 1 patient is in more than one"):
        load_for_training(source, 32)
    data = load_for_training(source, 32, allow_patient_overlap=True)
    assert "anna (1 train, 1 test)" in data.overlap


def test_record_of_patients_reads_back_as_it_was() -> None:
    shown = Patients("p.csv", np.array(["anna", ""]), {"site": np.array(["north", ""])})
    kept = record(("1.png", "2.png"), shown)
    again = kept.of(("2.png", "1.png"), None)
    assert again.names.tolist() == ["", "anna"]
    assert again.sites is not None
    assert again.sites.tolist() == ["", "north"]


def test_table_without_one_patient_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("path,patient\ntrain/a/x.png,\n", encoding="utf-8")
    with pytest.raises(TumorlensError, match="its column `patient` is empty"):
        read_patients(path)
