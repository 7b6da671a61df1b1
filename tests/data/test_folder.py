from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens.data.dataset import load_for_training
from tumorlens.data.folder import class_faults, refuse, scan, whole_of
from tumorlens.errors import TumorlensError


def test_project_layout_has_three_parts(make_folder: Callable[..., Path]) -> None:
    folder = scan(make_folder({"train": 3, "valid": 2, "test": 1}))
    assert folder.layout == "train valid test"
    assert folder.classes == ("glioma", "meningioma", "notumor", "pituitary")
    assert [len(folder.of_split(split)) for split in ("train", "valid", "test")] == [12, 8, 4]
    assert folder.files[0].path == "test/glioma/glioma005.png"
    assert folder.faults == ()


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "test")])
def test_public_layout_has_training_and_test(
    make_folder: Callable[..., Path], names: tuple[str, str]
) -> None:
    folder = scan(make_folder({names[0]: 3, names[1]: 2}))
    assert folder.layout == "train test"
    assert len(folder.of_split("test")) == 8


def test_class_folders_alone_have_no_parts(make_folder: Callable[..., Path]) -> None:
    folder = scan(make_folder({".": 2}))
    assert folder.layout == "classes"
    assert {file.split for file in folder.files} == {""}


def test_known_classes_are_recognised_under_other_names(make_folder: Callable[..., Path]) -> None:
    names = ("Glioma_Tumor", "meningioma tumor", "no_tumor", "PITUITARY")
    folder = scan(make_folder({"train": 1, "valid": 1}, classes=names))
    assert folder.classes == ("glioma", "meningioma", "notumor", "pituitary")
    other = scan(make_folder({"train": 1, "valid": 1}, classes=("HGG", "LGG"), name="other"))
    assert other.classes == ("HGG", "LGG")


def test_litter_is_passed_over_and_strange_files_are_faults(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"train": 2, "valid": 1})
    (root / "train" / "glioma" / "Thumbs.db").touch()
    (root / "train" / "glioma" / ".DS_Store").touch()
    (root / "train" / "glioma" / "notes.txt").write_text("hello")
    (root / "train" / "glioma" / "deeper").mkdir()
    (root / "valid" / "glioma" / "glioma002.png").unlink()
    faults = scan(root).faults
    assert len(faults) == 2
    assert "notes.txt: not a PNG" in faults[0]
    assert "valid/glioma: no image of class glioma" in faults[1]


def test_missing_and_lonely_classes_are_faults(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "valid": 1})
    (root / "train" / "glioma" / "glioma001.png").unlink()
    (root / "valid" / "pituitary" / "pituitary002.png").unlink()
    faults = class_faults(scan(root), ["train", "valid"])
    assert len(faults) == 2
    assert "class glioma has one image only in train" in faults[0]
    assert "class pituitary has no image in valid" in faults[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "there is no such folder"),
        (lambda root: root.write_text("x"), "is a file, not a folder"),
        (lambda root: root.mkdir(), "no image found"),
        (lambda root: (root / "train" / "glioma").mkdir(parents=True), "found train/ alone"),
    ],
)
def test_layouts_not_understood_are_refused_with_the_expected_one(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    root = tmp_path / "data"
    make(root)
    with pytest.raises(TumorlensError, match=f"--data_dir .*{words}.*expected train/ valid/"):
        scan(root)


def test_part_of_a_data_folder_knows_its_whole(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "valid": 1})
    assert whole_of(root / "train") == root
    assert whole_of(root) is None
    assert whole_of(root / "train" / "glioma") is None
    with pytest.raises(TumorlensError, match="is one split of .*give --data_dir"):
        load_for_training(root / "train", 32)


def test_images_without_class_folders_are_named_as_such(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "valid": 1})
    with pytest.raises(TumorlensError, match="2 images without a class folder around them"):
        scan(root / "train" / "glioma")


def test_refusal_lists_every_fault_up_to_fifty() -> None:
    refuse(Path("data"), [])
    with pytest.raises(TumorlensError) as refused:
        refuse(Path("data"), [f"fault {number}" for number in range(60)])
    assert "60 faults" in str(refused.value)
    assert "fault 49" in str(refused.value)
    assert "and 10 more" in str(refused.value)
