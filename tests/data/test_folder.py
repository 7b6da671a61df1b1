import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tumorlens.audit.audit import audit
from tumorlens.data.dataset import load_for_training
from tumorlens.data.folder import refuse, scan
from tumorlens.data.splits import resolve
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "there is no such folder"),
        (lambda root: root.write_text("x"), "is a file, not a folder"),
        (lambda root: root.mkdir(), "no image found"),
        (
            lambda root: (root / "train" / "glioma").mkdir(parents=True),
            "no image found, only train/",
        ),
    ],
)
def test_layouts_not_understood_are_refused_with_the_expected_one(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    root = tmp_path / "data"
    make(root)
    with pytest.raises(TumorlensError, match=f"--data_dir .*{words}.*expected train/ valid/"):
        scan(root)


def test_split_of_a_data_folder_is_named_as_such(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "valid": 1})
    with pytest.raises(TumorlensError, match=f"is one split of {root}; give --data_dir {root},"):
        load_for_training(resolve(root / "train"), 32)
    (root / "valid").rename(root / "others")
    with pytest.raises(TumorlensError, match="class folders without train/"):
        load_for_training(resolve(root / "train"), 32)


def test_images_without_class_folders_are_named_as_such(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "valid": 1})
    with pytest.raises(TumorlensError, match="2 images without a class folder around"):
        scan(root / "train" / "glioma")


def test_refusal_lists_every_fault_up_to_fifty() -> None:
    refuse(Path("data"), [])
    with pytest.raises(TumorlensError) as refused:
        refuse(Path("data"), [f"fault {number}" for number in range(60)])
    assert "60 faults" in str(refused.value)
    assert "fault 49" in str(refused.value)
    assert "and 10 more" in str(refused.value)


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path)


def _link(place: Path, target: Path) -> None:
    place.symlink_to(target, target_is_directory=target.is_dir())


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("train/normal", "train/healthy", "valid/glioma"), "healthy/ and train/normal/ are both"),
        (("train/Glioma", "train/glioma_tumor", "test/glioma"), "are both class glioma"),
        (("no tumor", "no_tumor", "glioma"), "no tumor/ and no_tumor/ are both class notumor"),
        (("train/a", "Training/a", "test/a"), "Training/ and train/ are both the train split"),
        (("train/a", "valid/a", "val/a"), "val/ and valid/ are both the valid split"),
        (("train/a", "test/a", "TESTING/a"), "TESTING/ and test/ are both the test split"),
        (("train/HGG", "valid/hgg"), "one class is spelled HGG, hgg; name its folders alike"),
        (("archive/Training/a", "archive/Testing/a"), r"archive/ has Testing/, .*/data/archive\."),
        (("x (1)/yes", "x (1)/no"), r"x \(1\)/ has no/, yes/ in it; give --data_dir .*x \(1\)\."),
        (("yes", "no", "set/yes", "set/no"), "set/ has no/, yes/ in it, which are beside it too"),
        (("glioma/train", "glioma/test", "a/train"), "a/ has train/ in it, but a split has class"),
        (
            ("train/train/a", "train/test/a", "test/a"),
            "train/test/ is a split in a split; move it up",
        ),
    ],
)
def test_folders_that_would_be_merged_or_misread_are_refused(
    tmp_path: Path, folders: tuple[str, ...], words: str
) -> None:
    for number, folder in enumerate(folders):
        _image(tmp_path / "data" / folder / f"{number}.png")
    with pytest.raises(TumorlensError, match=f"--data_dir .*({words})"):
        scan(tmp_path / "data")
    with pytest.raises(TumorlensError, match=words):
        audit(tmp_path / "data")


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("yes", "no"), ("no", "yes")),
        (("tumor", "healthy", "Normal"), ("Normal", "healthy", "tumor")),
        (("glioma", "no"), ("glioma", "notumor")),
        (("train/healthy", "train/pituitary", "test/normal"), ("notumor", "pituitary")),
        (("glioma/patient1", "glioma/patient2"), ("glioma",)),
    ],
)
def test_no_is_a_class_of_its_own_beside_unknown_classes(
    tmp_path: Path, folders: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    for folder in folders:
        _image(tmp_path / folder / "a.png")
    assert scan(tmp_path).classes == classes


@pytest.mark.parametrize("split", ["train", "Testing", "val"])
def test_one_split_alone_is_a_layout(tmp_path: Path, split: str) -> None:
    _image(tmp_path / split / "glioma" / "a.png")
    assert scan(tmp_path).layout == {"train": "train", "Testing": "test", "val": "valid"}[split]


@pytest.mark.parametrize("place", ["", "train", "train/glioma", "train/glioma/deep"])
def test_what_file_managers_leave_is_passed_over_anywhere(tmp_path: Path, place: str) -> None:
    for split in ("train/glioma/deep", "train/notumor", "test/glioma", "test/notumor"):
        _image(tmp_path / split / "a.png")
    names = (".DS_Store", "._a.png", "Thumbs.db", "Thumbs.db:encryptable", "ehthumbs.db")
    for name in (*names, "desktop.ini", "Icon\r"):
        (tmp_path / place / name).write_bytes(b"x")
    for folder in ("@eaDir", "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN"):
        _image(tmp_path / place / folder / "glioma" / "thumb.png")
    found = scan(tmp_path)
    assert [file.path for file in found.files] == [
        "test/glioma/a.png",
        "test/notumor/a.png",
        "train/glioma/deep/a.png",
        "train/notumor/a.png",
    ]
    assert (found.faults, found.unused_sentence()) == ((), "")


def test_linked_folders_are_followed_once(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"train": 2, "valid": 1}, classes=("glioma", "notumor"))
    _image(tmp_path / "elsewhere" / "deep" / "new.png")
    _link(root / "train" / "glioma" / "patient7", tmp_path / "elsewhere")
    _link(tmp_path / "elsewhere" / "back", root)  # a loop
    _link(root / "train" / "glioma" / "again", root / "train")  # another
    _link(root / "valid" / "pituitary", root / "train" / "notumor")
    found = scan(root)
    assert len(found.files) == 7
    assert "train/glioma/patient7/deep/new.png" in [file.path for file in found.files]
    assert "links to folders listed already (3, such as " in found.unused_sentence()
    assert found.classes == ("glioma", "notumor")


def test_masks_beside_images_are_counted_and_no_images(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 3, "test": 1}, classes=("glioma", "notumor"))
    for name in ("glioma000_mask.png", "glioma001-mask.png", "masks/glioma002.png"):
        _image(root / "train" / "glioma" / name)
    _image(root / "masks" / "train" / "glioma" / "glioma000.png")
    _image(root / "test" / "glioma" / "lonely_mask.png")  # beside no image: an image
    found = scan(root)
    assert len(found.of_split("train")) == 6
    assert len(found.of_split("test")) == 3
    expected = f"Not used of {root}: masks (4, such as masks/train/glioma/glioma000.png)."
    assert found.unused_sentence() == expected


def test_what_is_not_used_is_counted_by_reason(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "test": 1})
    for name in ("pred/1.png", "pred/2.png", "train/loose.png", "top.png"):
        _image(root / name)
    (root / "train" / "glioma" / "scan.nii").write_bytes(b"x")
    (root / "README.md").write_text("no image, and outside: nobody misses it")
    found = scan(root)
    assert "images outside the class folders (4, such as pred/1.png)" in found.unused_sentence()
    assert "files of other kinds (1, such as train/glioma/scan.nii)" in found.unused_sentence()
    assert "scan.nii" not in found.unused_sentence(faults=False)
    assert found.faults == (
        f"{root}/train/glioma/scan.nii: not a PNG, JPEG, TIFF, BMP, GIF or WebP image; move it "
        "elsewhere.",
    )


def test_folder_of_files_of_other_kinds_says_which(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "train" / "glioma").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "glioma" / f"{number}.dcm").write_bytes(b"x")
    with pytest.raises(TumorlensError, match=r"no image found that can be read, only 3 \.dcm"):
        scan(tmp_path)


def test_class_is_one_in_both_forms_of_unicode(tmp_path: Path) -> None:
    for split, form in (("train", "NFC"), ("test", "NFD")):
        _image(tmp_path / split / unicodedata.normalize(form, "méningiome") / "é.png")
        _image(tmp_path / split / "gliome" / "a.png")
    assert scan(tmp_path).classes == ("gliome", unicodedata.normalize("NFC", "méningiome"))


def test_two_files_of_one_name_in_two_forms_of_unicode_are_a_fault(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        _image(tmp_path / "glioma" / unicodedata.normalize(form, "é.png"))
    if len(list((tmp_path / "glioma").iterdir())) < 2:
        pytest.skip("this file system takes the two for one")
    (fault,) = scan(tmp_path).faults
    assert "another file has this name in another form of Unicode; rename one" in fault


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_tables_cannot_hold_are_faults_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "data"
    _image(root / "train" / "glioma" / "a.png")
    _image(root / "train" / "notumor" / "a.png")
    glioma = root / "train" / "glioma"
    (glioma / "a.png").rename(os.fsdecode(os.fsencode(glioma) + b"/\xe9.png"))
    _image(root / "train" / "glioma" / "b.png")
    _image(root / "train" / "glioma" / "c\\d.png")
    (root / "train" / "notumor").rename(os.fsdecode(os.fsencode(root / "train") + b"/kr\xe4nk"))
    found = scan(root)
    assert [file.path for file in found.files] == ["train/glioma/b.png"]
    why = "its name is not UTF-8 or has a backslash; rename it."
    names = ("train/glioma/c\\d.png", "train/glioma/\\udce9.png", "train/kr\\udce4nk")
    assert set(found.faults) == {f"{root}/{name}: {why}" for name in names}
    assert "names that are not UTF-8 or have a backslash (3, such as " in found.unused_sentence()
    found.unused_sentence().encode()
    whole = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    root.rename(whole)
    with pytest.raises(TumorlensError, match="its name is not UTF-8 or has a backslash; rename it"):
        scan(whole)


def test_folder_that_cannot_be_read_is_a_fault(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 2, "test": 1})
    (root / "train" / "glioma" / "closed").mkdir()
    listed = os.scandir

    def refusing(place: Path) -> Any:
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(place)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refusing)
        (fault,) = scan(root).faults
    assert fault == f"{root}/train/glioma/closed: cannot be read; check its permissions."


def test_link_to_itself_is_one_file_that_cannot_be_read(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 1, "valid": 1})
    (root / "loop").symlink_to("loop")
    (root / "train" / "glioma" / "loop.png").symlink_to("loop.png")
    found = scan(root)
    assert len(found.files) == 9
    assert "train/glioma/loop.png" in {file.path for file in found.files}
