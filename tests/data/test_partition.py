from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.audit.audit import audit
from tumorlens.data import cache
from tumorlens.data.duplicates import joined
from tumorlens.data.hashing import apply
from tumorlens.data.partition import in_folds, in_shares, partition, write_partition
from tumorlens.data.readers import read_grey
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.settings import SplitSettings


def _groups(rng: np.random.Generator, labels: np.ndarray, largest: int) -> np.ndarray:
    """Groups of up to `largest` images of one class, half of the images in none."""
    groups = np.arange(len(labels)) + 10_000
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        at = 0
        while at < len(members) // 2:
            size = int(rng.integers(2, largest + 1))
            groups[members[at : at + size]] = int(label) * 1000 + at
            at += size
    return groups


def _divided(labels: np.ndarray, groups: np.ndarray, shares: list[float], seed: int) -> np.ndarray:
    if len(set(shares)) == 1:
        return in_folds(labels, groups, len(shares), seed)
    return in_shares(labels, groups, shares, seed)


@pytest.mark.parametrize("shares", [[0.2] * 5, [0.7, 0.15, 0.15], [0.6, 0.4], [0.5, 0.5]])
def test_parts_are_stratified_and_divide_no_group(shares: list[float]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [400, 300, 60]))
    groups = _groups(rng, labels, largest=9)
    split = _divided(labels, groups, shares, seed=1)
    for label, total in enumerate([400, 300, 60]):
        counts = np.bincount(split[labels == label], minlength=len(shares))
        assert np.abs(counts - np.array(shares) * total).max() <= 1
    of_group = defaultdict(set)
    for group, where in zip(groups.tolist(), split.tolist(), strict=True):
        of_group[group].add(where)
    assert all(len(where) == 1 for where in of_group.values())


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.8, 0.2]])
def test_division_is_decided_by_its_seed(shares: list[float]) -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100)
    first = _divided(labels, groups, shares, seed=3)
    np.testing.assert_array_equal(first, _divided(labels, groups, shares, seed=3))
    assert (first != _divided(labels, groups, shares, seed=4)).any()


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.6, 0.4]])
def test_group_larger_than_its_share_stays_whole(shares: list[float]) -> None:
    labels = np.zeros(10, dtype=np.int64)
    groups = np.array([0] * 8 + [1, 2])
    split = _divided(labels, groups, shares, seed=0)
    assert len(set(split[:8].tolist())) == 1
    assert set(split.tolist()) == {0, 1}


def test_joined_groups_divide_neither_grouping() -> None:
    first = np.array([0, 0, 1, 1, 2, 3])
    second = np.array([5, 6, 6, 7, 8, 9])
    found = joined(first, second).tolist()
    assert found[0] == found[1] == found[2] == found[3]
    assert len({found[0], found[4], found[5]}) == 3


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    """Twenty images of each of two classes; six of class a are three images and their mirrors."""
    root = make_folder({"x": 20}, classes=("a", "b"), size=96)
    for name in ("a", "b"):
        (root / "x" / name).rename(root / name)
    (root / "x").rmdir()
    originals = sorted((root / "a").iterdir())
    for number in range(3):
        mirrored = np.ascontiguousarray(apply(read_grey(originals[number]), "flip_lr"))
        Image.fromarray(mirrored).save(originals[10 + number])
    return root


def test_folds_have_no_copy_in_two_and_the_file_is_what_splits_reads(
    folder: Path, tmp_path: Path
) -> None:
    found = partition(SplitSettings(folder, folds=4))
    assert [row["a"] for row in found.counts().values()] == [5, 5, 5, 5]
    assert [row["b"] for row in found.counts().values()] == [5, 5, 5, 5]
    assert sum(row["groups"] for row in found.counts().values()) == 37
    out = tmp_path / "splits.csv"
    write_partition(found, out)
    for fold in range(4):
        source = resolve(folder, out, fold)
        assert len(source.folder.files) == 40
        assert audit(source).count_of("leak") == 0


def test_split_has_the_shares_asked_for(folder: Path, tmp_path: Path) -> None:
    found = partition(SplitSettings(folder, valid=0.2, test=0.1))
    assert {name: row["a"] + row["b"] for name, row in found.counts().items()} == {
        "train": 28,
        "valid": 8,
        "test": 4,
    }
    out = tmp_path / "splits.csv"
    write_partition(found, out)
    assert audit(resolve(folder, out)).count_of("leak") == 0
    write_partition(partition(SplitSettings(folder, seed=1)), out)  # its own kind is replaced


def test_no_test_part_when_none_is_wanted(folder: Path) -> None:
    assert set(partition(SplitSettings(folder, test=0)).counts()) == {"train", "valid"}


def test_given_groups_stay_together_with_their_copies(folder: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    (tmp_path / "groups.csv").write_text(
        "path,group\n" + "".join(f"{path},p{index // 4}\n" for index, path in enumerate(paths[:20]))
    )
    found = partition(SplitSettings(folder, folds=2, groups=tmp_path / "groups.csv"))
    split = dict(zip(found.paths, found.splits.tolist(), strict=True))
    for start in range(0, 20, 4):
        assert len({split[path] for path in paths[start : start + 4]}) == 1
    assert split[paths[0]] == split[paths[10]]  # a near-duplicate in another given group
    assert "20 of 40 images" in found.notes[0]


def test_same_settings_same_split(folder: Path) -> None:
    first, again = (partition(SplitSettings(folder, folds=3, seed=5)) for _ in range(2))
    assert first.to_csv() == again.to_csv()


def test_faults_get_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="class a has 17 groups .* too few for 18 splits"):
        partition(SplitSettings(folder, folds=18))
    (tmp_path / "groups.csv").write_text("path,group\nelsewhere.png,1\n")
    with pytest.raises(TumorlensError, match="none of its images is in"):
        partition(SplitSettings(folder, groups=tmp_path / "groups.csv"))
    (tmp_path / "thesis.csv").write_text("year,page\n")
    with pytest.raises(TumorlensError, match="no splits file, so it is left alone"):
        write_partition(partition(SplitSettings(folder)), tmp_path / "thesis.csv")
    with pytest.raises(TumorlensError, match="is a folder"):
        write_partition(partition(SplitSettings(folder)), tmp_path)


def test_undecodable_file_stops_or_is_left_out(folder: Path) -> None:
    (folder / "a" / "broken.png").write_bytes(b"")
    with pytest.raises(TumorlensError, match="1 fault found.*--on_bad_image skip"):
        partition(SplitSettings(folder))
    found = partition(SplitSettings(folder, on_bad_image="skip"))
    assert list(found.skipped) == ["a/broken.png"]
    assert len(found.paths) == 40
    assert cache.contents()[0] == 40


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"folds": 1}, "--folds 1: expected 2 or more"),
        ({"valid": -0.1}, "--valid -0.1"),
        ({"valid": 0.5, "test": 0.5}, "leave nothing to train on"),
    ],
)
def test_settings_refuse_nonsense(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SplitSettings(Path("x"), **wrong)
