import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tumorlens.data.splits import folds_in, hold_out, splits_in
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import read_groups, read_table


def test_hold_out_is_stratified_deterministic_and_never_divides_a_group() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [500, 300, 50]))
    groups = np.empty(850, dtype=np.int64)
    for label in range(3):  # groups of up to five images of one class
        members = np.flatnonzero(labels == label)
        groups[members] = label * 1000 + rng.integers(0, len(members) // 2, len(members))
    held = hold_out(labels, groups, 0.1, seed=4)
    assert np.bincount(labels[held]).tolist() == [50, 30, 5]
    assert not set(groups[held]) & set(groups[~held])
    assert (held == hold_out(labels, groups, 0.1, seed=4)).all()
    assert not (held == hold_out(labels, groups, 0.1, seed=5)).all()


def test_small_class_still_gives_one_and_a_single_image_none() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    held = hold_out(labels, np.arange(6), 0.1, seed=0)
    assert np.bincount(labels[held], minlength=3).tolist() == [1, 1, 0]


def _read(path: Path, fold: int | None = None) -> dict[str, str]:
    return splits_in(f"--splits {path}", *read_table(path, "--splits", ("path",)), fold)


def _write(folder: Path, text: str) -> Path:
    path = folder / "splits.csv"
    path.write_text(text)
    return path


def test_split_column_is_taken_as_written(tmp_path: Path) -> None:
    path = _write(tmp_path, "path,split\na/1.png,train\na\\2.png,valid\na/3.png,test\na/4.png,\n")
    assert _read(path) == {"a/1.png": "train", "a/2.png": "valid", "a/3.png": "test"}


def test_fold_tests_one_run_of_the_next_validates_the_rest_trains(tmp_path: Path) -> None:
    rows = [f"{run}.png,{run % 5},{run}" for run in range(10)] + ["purged.png,,"]
    path = _write(tmp_path, "path,fold,run\n" + "\n".join(rows))
    splits = _read(path, fold=4)
    assert {name for name, split in splits.items() if split == "test"} == {"4.png", "9.png"}
    assert {name for name, split in splits.items() if split == "valid"} == {"0.png"}
    assert {name for name, split in splits.items() if split == "train"} == {
        f"{run}.png" for run in (1, 2, 3, 5, 6, 7, 8)
    }


def test_fold_without_runs_validates_on_undivided_groups_of_the_next(tmp_path: Path) -> None:
    rows = [f"{index}.png,{index % 3},g{index // 6}" for index in range(60)]
    splits = _read(_write(tmp_path, "path,fold,group\n" + "\n".join(rows)), fold=0)
    assert Counter(splits.values())["test"] == 20
    assert 8 <= Counter(splits.values())["valid"] <= 10
    valid = {int(name[:-4]) for name, split in splits.items() if split == "valid"}
    assert {index % 3 for index in valid} == {1}
    for index in valid:  # the other image of its group in this fold
        duplicates = [other for other in range(60) if other // 6 == index // 6 and other % 3 == 1]
        assert set(duplicates) <= valid


def test_fold_without_blocks_divides_no_patient(tmp_path: Path) -> None:
    rows = [f"{index}.png,{index % 3},p{index // 9}" for index in range(90)]
    splits = _read(_write(tmp_path, "path,fold,patient\n" + "\n".join(rows)), fold=0)
    valid = {int(name[:-4]) // 9 for name, split in splits.items() if split == "valid"}
    train = {
        int(n[:-4]) // 9 for n, split in splits.items() if split == "train" and int(n[:-4]) % 3 == 1
    }
    assert valid
    assert not valid & train


def test_fold_train_trains_in_every_fold_and_is_never_scored(tmp_path: Path) -> None:
    path = _write(tmp_path, "path,fold,run\na.png,train,\nb.png,0,0\nc.png,1,1\nd.png,1,3\n")
    for fold in (0, 1):
        assert _read(path, fold)["a.png"] == "train"
    assert folds_in(path) == ((0, 1), False)


def test_table_of_the_real_patients_works_as_it_is(real_data: Path) -> None:
    splits = _read(real_data / "patients.csv", fold=0)
    assert Counter(splits.values()) == {"train": 5034, "valid": 677, "test": 1304}


@pytest.mark.parametrize(
    ("text", "fold", "words"),
    [
        ("name,split\nx,train", None, "no column `path`; found name, split"),
        ("path,which\nx,train", None, "has the columns path, which; expected path, split"),
        ("path,fold\nx,1", None, "name one with --fold"),
        ("path,split\nx,train", 1, "no column `fold`"),
        ("path,split\nx,teach", None, "x has the split `teach`; expected train, valid, test"),
        ("path,split\nx,train\nx,test", None, "lists x more than once"),
        ("path,fold\nx,one", 1, "x has the fold `one`; expected a whole number"),
        ("path,fold\nx,0\ny,1", 7, "has the folds 0, 1, not 7; name one with --fold 0"),
        ("", None, "no column `path`; found nothing"),
    ],
)
def test_wrong_files_get_one_sentence(
    tmp_path: Path, text: str, fold: int | None, words: str
) -> None:
    with pytest.raises(TumorlensError, match=words):
        _read(_write(tmp_path, text), fold)


def test_missing_and_binary_files_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="no such file"):
        _read(tmp_path / "gone.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(TumorlensError, match="cannot be read as CSV"):
        _read(tmp_path / "binary.csv")


def test_groups_file_names_groups(tmp_path: Path) -> None:
    path = _write(tmp_path, "path,group\na.png,one\nb.png,\n")
    assert read_groups(path) == {"a.png": "one"}


@pytest.mark.parametrize("fold", ["0.0", "0"])
def test_folds_and_splits_are_understood_as_programs_write_them(tmp_path: Path, fold: str) -> None:
    text = (
        f"path,Fold,RUN\na.png,{fold},{fold}\nb.png,1.0,1.0\nc.png,1,3.0\nd.png,train,\ne.png,,\n"
    )
    found = _read(_write(tmp_path, text), 0)
    assert found == {"a.png": "test", "b.png": "valid", "c.png": "train", "d.png": "train"}
    text = "path,split\na,Training\nb,VAL\nc,validation\nd,Testing\ne,\n"
    expected = {"a": "train", "b": "valid", "c": "valid", "d": "test"}
    assert _read(_write(tmp_path, text)) == expected


def test_groups_of_either_form_of_unicode_are_found(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(unicodedata.normalize("NFD", "path,group\né.png,one\n"), encoding="utf-8")
    assert read_groups(path).get(unicodedata.normalize("NFC", "é.png")) == "one"
