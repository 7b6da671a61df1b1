import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.audit.audit import Audit, PatientCounts, audit
from tumorlens.data.folder import scan
from tumorlens.data.hashing import TRANSFORMS, apply
from tumorlens.data.patients import FileTable
from tumorlens.data.readers import read_grey, resize
from tumorlens.data.splits import SplitFolder, assigned
from tumorlens.errors import TumorlensError


def _save(image: np.ndarray, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image)).save(path, **options)


def _listed(found: Audit) -> set[tuple[str, str, str]]:
    pairs = found.pairs
    return {
        (found.paths[one], found.paths[other], transform)
        for one, other, transform in zip(
            pairs.first, pairs.second, pairs.transform.tolist(), strict=True
        )
    }


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 6, "valid": 3, "test": 3}, size=96)


def test_clean_folder_has_no_pair_no_leak_and_no_conflict(folder: Path) -> None:
    found = audit(folder)
    assert len(found.paths) == 48
    assert len(found.pairs) == 0
    assert list(found.leaks()) == []
    assert [found.count_of(check) for check in ("leak", "conflict", "unreadable")] == [0, 0, 0]
    assert found.balance()["valid"] == dict.fromkeys(
        ("glioma", "meningioma", "notumor", "pituitary"), 3
    )
    assert len(set(found.groups.tolist())) == 48


def test_leak_is_told_by_class_and_kind_and_worst_comes_first(folder: Path) -> None:
    first, second = sorted((folder / "train" / "glioma").iterdir())[:2]
    _save(apply(read_grey(first), "flip_lr"), folder / "test" / "glioma" / "a.png")
    (folder / "test" / "glioma" / "b.png").write_bytes(second.read_bytes())
    _save(apply(read_grey(second), "rot90_cw"), folder / "test" / "pituitary" / "c.jpg", quality=90)
    found = audit(folder)
    ((split, other, duplicates),) = found.leaks()
    assert (split, other) == ("test", "train")
    assert [found.paths[index] for index in duplicates.image] == [
        "test/pituitary/c.jpg",  # labels differ
        "test/glioma/b.png",  # the same bytes
        "test/glioma/a.png",
    ]
    assert [found.paths[index] for index in duplicates.duplicate] == [
        "train/glioma/glioma001.png",
        "train/glioma/glioma001.png",
        "train/glioma/glioma000.png",
    ]
    assert found.leak_table(split, duplicates)["glioma"] == {
        "images": 5,
        "with_near_duplicate": 2,
        "exact": 1,
        "re-encoded": 0,
        "mirrored": 1,
        "turned": 0,
    }
    assert found.leak_counts(found.splits == split, duplicates)["turned"] == 1
    assert found.count_of("leak") == 3
    assert found.count_of("conflict") == 2  # c.jpg with the original, and with its byte copy
    copy_of_both = {path for pair in _listed(found) for path in pair[:2]}
    assert len(copy_of_both) == 5


def test_several_copies_in_training_are_one_leaked_image(folder: Path) -> None:
    original = next((folder / "train" / "notumor").iterdir())
    for number in range(3):
        (folder / "train" / "notumor" / f"again{number}.png").write_bytes(original.read_bytes())
    (folder / "valid" / "notumor" / "leaked.png").write_bytes(original.read_bytes())
    found = audit(folder)
    ((split, other, duplicates),) = found.leaks()
    assert (split, other, len(duplicates)) == ("valid", "train", 1)
    assert duplicates.others.tolist() == [3]
    within = found.duplicates("train", "train")
    assert len(within) == 3  # each image but the first of its group
    assert (within.duplicate < within.image).all()


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("L"))


CHANGES = {
    "jpeg40": lambda image: _jpeg(image, 40),
    "half": lambda image: resize(image, image.shape[0] // 2, image.shape[1] // 2),
    "brighter": lambda image: np.clip(image * 1.2 + 20.0, 0, 255).astype(np.uint8),
    "contrast": lambda image: (image * 0.6 + 20).astype(np.uint8),
    "brighter and jpeg40": lambda image: _jpeg(
        np.clip(image * 1.15 + 15.0, 0, 255).astype(np.uint8), 40
    ),
}


@pytest.fixture(scope="module")
def slices() -> list[np.ndarray]:
    """Hundred phantom slices, no two of them of one head."""
    from tumorlens.phantom.dataset import phantom_slice

    labels = ("glioma", "meningioma", "notumor", "pituitary")
    return [
        phantom_slice(seed, labels[seed % 4], 128, duplicate=False).image for seed in range(100)
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_and_turned_slices_are_found_under_their_transform(
    tmp_path: Path, slices: list[np.ndarray], change: str
) -> None:
    names = list(TRANSFORMS)
    expected = set()
    for number, image in enumerate(slices[:16]):
        _save(image, tmp_path / f"{number:03d}a.png")
        transform = names[number % len(names)]
        _save(CHANGES[change](apply(image, transform)), tmp_path / f"{number:03d}b.png")
        expected.add((f"{number:03d}a.png", f"{number:03d}b.png", transform))
    assert _listed(audit(tmp_path)) == expected


def test_unreadable_files_are_named_and_the_rest_is_audited(folder: Path) -> None:
    (folder / "train" / "glioma" / "empty.png").write_bytes(b"")
    (folder / "test" / "glioma" / "text.jpg").write_text("no image")
    (folder / "train" / "glioma" / "notes.txt").write_text("hello")
    found = audit(folder)
    assert list(found.unreadable) == ["test/glioma/text.jpg", "train/glioma/empty.png"]
    assert "0 bytes" in found.unreadable["train/glioma/empty.png"]
    assert len(found.paths) == 48
    assert any("notes.txt" in fault for fault in found.other_faults)
    assert found.count_of("unreadable") == 2


def test_any_folder_will_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.asarray(
        Image.fromarray(rng.integers(0, 255, (9, 12), dtype=np.uint8)).resize((120, 90))
    )
    _save(image, tmp_path / "a.png")
    _save(apply(image, "flip_ud"), tmp_path / "deep" / "er" / "b.tif")
    found = audit(tmp_path)
    # `deep` looks like a class folder; the image outside any is said to be left out.
    assert "a.png" in found.other_faults[0]
    (tmp_path / "deep" / "er" / "b.tif").rename(tmp_path / "b.tif")
    found = audit(tmp_path)
    assert _listed(found) == {("a.png", "b.tif", "flip_ud")}
    assert found.labels.tolist() == ["", ""]
    assert found.shortcuts == ()


def test_training_folder_alone_is_audited_with_its_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("glioma_tumor", "no tumor"):
        _save(rng.integers(0, 255, (40, 40), dtype=np.uint8), tmp_path / "train" / label / "x.png")
    assert audit(tmp_path).labels.tolist() == ["glioma", "notumor"]


def test_folder_without_images_and_missing_folder_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="no image found, only an empty folder"):
        audit(tmp_path)
    with pytest.raises(TumorlensError, match="there is no such folder"):
        audit(tmp_path / "gone")


def test_assignment_takes_the_place_of_the_folders(folder: Path) -> None:
    one = next((folder / "train" / "glioma").iterdir())
    (folder / "train" / "glioma" / "duplicate.png").write_bytes(one.read_bytes())
    path = one.relative_to(folder).as_posix()
    assert audit(folder).count_of("leak") == 0
    found = audit(
        assigned(
            scan(folder),
            {path: "test", "train/glioma/duplicate.png": "train"},
            "--splits",
            every_file=True,
        )
    )
    assert found.count_of("leak") == 1
    assert Counter(found.splits.tolist()) == {"": 47, "test": 1, "train": 1}


def test_patients_in_two_splits_are_counted_by_class(folder: Path) -> None:
    names = {
        "train/glioma/glioma000.png": "anna",
        "test/glioma/glioma009.png": "anna",
        "test/glioma/glioma010.png": "anna",
        "valid/notumor/notumor006.png": "bob",
        "test/notumor/notumor009.png": "bob",
        "test/pituitary/pituitary009.png": "carl",
    }
    table = FileTable("p.csv", {path: {"patient": name} for path, name in names.items()}, ())
    found = audit(SplitFolder(scan(folder), table))
    test_train, test_valid = found.patient_overlap
    assert (test_train.split, test_train.other) == ("test", "train")
    assert test_train.by_class["glioma"] == PatientCounts(images=3, known=2, shared=2, patients=1)
    assert test_train.by_class["notumor"] == PatientCounts(images=3, known=1, shared=0, patients=0)
    assert test_train.whole == PatientCounts(images=12, known=4, shared=2, patients=1)
    assert (test_valid.other, test_valid.whole.shared) == ("valid", 1)
    assert found.count_of("patients") == 5
    record = json.loads(json.dumps(found.to_dict()))["patients"]
    assert (record["patients"], record["patients_in_several_splits"]) == (3, 2)
    assert audit(folder).count_of("patients") == 0
    assert audit(folder).to_dict()["patients"] is None


def test_record_is_plain_json(folder: Path) -> None:
    one = next((folder / "train" / "glioma").iterdir())
    (folder / "test" / "notumor" / "duplicate.png").write_bytes(one.read_bytes())
    record = json.loads(json.dumps(audit(folder).to_dict()))
    assert record["near_duplicates"]["by_kind"]["exact"] == 1
    assert record["leaks"][0]["by_class"]["notumor"]["with_near_duplicate"] == 1
    assert record["conflicts"][0]["labels"] == ["notumor", "glioma"]
    assert {shortcut["property"] for shortcut in record["shortcuts"]} >= {"colour mode", "border"}
