import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data.dataset import class_faults, load, load_for_scoring, load_for_training
from tumorlens.data.folder import scan
from tumorlens.data.readers import read_grey
from tumorlens.data.splits import assigned, resolve
from tumorlens.errors import TumorlensError


def test_folders_say_which_image_is_for_what(make_folder: Callable[..., Path]) -> None:
    data = load_for_training(resolve(make_folder({"train": 4, "valid": 2, "test": 1})), 32)
    assert [len(data.indices(split)) for split in ("train", "valid", "test")] == [16, 8, 4]
    assert data.images.shape == (28, 32, 32)
    assert all(
        path.split("/")[1] == data.classes[label]
        for path, label in zip(data.paths, data.labels, strict=True)
    )


def test_public_layout_gives_up_a_tenth_of_each_class(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"Training": 20, "Testing": 2})
    data = load_for_training(resolve(root), 32, seed=1)
    assert np.bincount(data.labels[data.indices("valid")]).tolist() == [2, 2, 2, 2]
    assert len(data.indices("train")) == 72
    again, other = (
        load_for_training(resolve(root), 32, seed=1),
        load_for_training(resolve(root), 32, seed=2),
    )
    assert data.paths_of("valid") == again.paths_of("valid") != other.paths_of("valid")


@pytest.mark.parametrize(
    "splits", [{"train": 4, "valid": 2, "test": 1}, {"Training": 6, "Testing": 1}]
)
def test_none_is_set_aside_where_validation_images_train(
    make_folder: Callable[..., Path], splits: dict[str, int]
) -> None:
    data = load_for_training(resolve(make_folder(splits)), 32, train_on_valid=True)
    assert [len(data.indices(split)) for split in ("train", "valid", "test")] == [24, 0, 4]


def test_validation_images_that_train_need_not_show_every_class(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"train": 4, "valid": 2, "test": 1})
    shutil.rmtree(root / "valid" / "pituitary")
    with pytest.raises(TumorlensError, match="valid"):
        load_for_training(resolve(root), 32)
    data = load_for_training(resolve(root), 32, train_on_valid=True)
    assert np.bincount(data.labels[data.indices("train")]).tolist() == [6, 6, 6, 4]


def test_training_on_everything_is_refused_where_nothing_is_left_to_score(
    make_folder: Callable[..., Path],
) -> None:
    with pytest.raises(TumorlensError, match="has no test split"):
        load_for_training(resolve(make_folder({"train": 4, "valid": 2})), 32, train_on_valid=True)


def test_mirror_images_are_never_divided_between_training_and_validation(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"Training": 12, "Testing": 2})
    for path in sorted((root / "Training").rglob("*.png")):
        mirrored = np.fliplr(read_grey(path))
        Image.fromarray(mirrored).save(path.with_name(f"{path.stem}_mirrored.png"))
    data = load_for_training(resolve(root), 32)
    split = dict(zip(data.paths, data.splits, strict=True))
    pairs = [
        (path, path.replace(".png", "_mirrored.png"))
        for path in split
        if path.startswith("Training") and "mirrored" not in path
    ]
    assert len(pairs) == 48
    assert all(split[one] == split[two] for one, two in pairs)
    assert "valid" in split.values()


def test_assignment_overrides_the_folders(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 4, "valid": 1})
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assignment = {
        name: ("test" if "002" in name else "valid" if "001" in name else "train")
        for name in names
        if "004" not in name
    }
    data = load_for_training(assigned(scan(root), assignment, "--splits"), 32)
    assert set(data.paths) == set(assignment)
    assert dict(zip(data.paths, data.splits, strict=True)) == assignment
    with pytest.raises(TumorlensError, match=r"--splits: none of its images"):
        assigned(scan(root), {"elsewhere/x.png": "train"}, "--splits")


def test_all_faults_are_listed_at_once_and_skipping_records_them(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"train": 4, "valid": 2})
    (root / "train/glioma/glioma000.png").write_bytes(b"")
    (root / "train/glioma/glioma001.png").write_text("no image")
    (root / "valid/notumor/readme.txt").write_text("hello")
    with pytest.raises(TumorlensError) as refused:
        load_for_training(resolve(root), 32)
    for words in ("3 faults", "glioma000.png", "glioma001.png", "readme.txt", "--on_bad_image"):
        assert words in str(refused.value)
    data = load_for_training(resolve(root), 32, on_bad_image="skip")
    assert set(data.skipped) == {"train/glioma/glioma000.png", "train/glioma/glioma001.png"}
    assert len(data.paths) == 22
    assert data.images.all(axis=0).any()  # rows still belong to their paths
    index = data.paths.index("train/glioma/glioma002.png")
    assert data.labels[index] == 0
    assert data.images[index].any()


def test_missing_and_lonely_classes_are_faults(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "valid": 1})
    (root / "train" / "glioma" / "glioma001.png").unlink()
    (root / "valid" / "pituitary" / "pituitary002.png").unlink()
    faults = class_faults(load(resolve(root), 32))
    assert len(faults) == 2
    assert "class glioma has one image only in train" in faults[0]
    assert "class pituitary has no image in valid; found 1 of glioma, 1 of meningioma" in faults[1]


def test_skipping_does_not_excuse_an_empty_class(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 3, "valid": 1})
    (root / "valid/glioma/glioma003.png").write_text("no image")
    with pytest.raises(TumorlensError, match="class glioma has no image in valid"):
        load_for_training(resolve(root), 32, on_bad_image="skip")


def test_class_folders_alone_need_a_split(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(TumorlensError, match="tumorlens split"):
        load_for_training(resolve(make_folder({".": 3})), 32)


CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def test_scoring_takes_test_else_valid_else_everything(make_folder: Callable[..., Path]) -> None:
    for counts, split, images in (
        ({"train": 3, "valid": 2, "test": 1}, "test", 4),
        ({"train": 3, "valid": 2}, "valid", 8),
        ({".": 2}, "all", 8),
    ):
        root = make_folder(counts, name=split)
        data = load_for_scoring(resolve(root), 32, CLASSES)
        assert set(data.splits) == {split}
        assert len(data.labels) == images


def test_scoring_refuses_unknown_parts_and_classes(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 3, "valid": 2})
    with pytest.raises(
        TumorlensError, match=r"--split test: .* has no such split, only train, valid"
    ):
        load_for_scoring(resolve(root), 32, CLASSES, split="test")
    with pytest.raises(TumorlensError, match=r"does not know the class pituitary"):
        load_for_scoring(resolve(root), 32, CLASSES[:3])


def test_scoring_names_listed_files_that_are_gone(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 3, "test": 2})
    assignment = {
        path.relative_to(root).as_posix(): "test" for path in (root / "test").rglob("*.png")
    }
    (root / "test/glioma/glioma003.png").unlink()
    with pytest.raises(TumorlensError, match="glioma003.png: listed, but there is no such file"):
        load_for_scoring(assigned(scan(root), assignment, "--splits"), 32, CLASSES, split="test")


def test_order_of_labels_is_the_checkpoints(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "test": 1})
    backwards = CLASSES[::-1]
    data = load_for_scoring(resolve(root), 32, backwards)
    assert [backwards[label] for label in data.labels] == [
        path.split("/")[1] for path in data.paths
    ]


def test_splits_that_list_what_is_not_there_are_refused_in_training(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder({"train": 4, "valid": 2})
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [f"{path},{path.split('/')[0]}\n" for path in paths]
    table = tmp_path / "splits.csv"
    table.write_text("path,split\n" + "".join(rows).replace("glioma000", "gliona000", 1))
    source = resolve(root, table)
    with pytest.raises(TumorlensError, match=r"gliona000.png: listed, .* \(--splits .*csv\)"):
        load_for_training(source, 32)
    data = load_for_training(source, 32, on_bad_image="skip")
    assert len(data.paths) == 23
    assert f"Not used of {root}: images in no split of --splits" in data.unused
    assert "(1 in train/)" in data.unused
    assert "splits.csv lists 1 files that are not there." in data.unused


def test_what_is_not_used_is_said(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 4, "valid": 2, "test": 1})
    (root / "others").mkdir()
    Image.new("L", (40, 40)).save(root / "others" / "a.png")
    Image.new("L", (40, 40)).save(root / "train/glioma/glioma000_mask.png")
    (root / "train/glioma/notes.txt").touch()
    data = load_for_training(resolve(root), 32, on_bad_image="skip")
    for words in ("masks (1,", "outside the class folders (1,", "files of other kinds (1,"):
        assert words in data.unused
    assert len(data.indices("train")) == 16
    assert load_for_scoring(resolve(root), 32, CLASSES).unused == data.unused


@pytest.mark.parametrize("split", ["test", "Testing", "valid"])
def test_one_split_alone_is_scored_and_not_trained_on(
    make_folder: Callable[..., Path], split: str
) -> None:
    root = make_folder({split: 2}, classes=("No_Tumor", "Glioma tumor"))
    data = load_for_scoring(resolve(root), 32, CLASSES)
    assert np.bincount(data.labels, minlength=4).tolist() == [2, 0, 2, 0]
    with pytest.raises(TumorlensError, match=r"found (test|valid)/ alone; expected train/ valid/"):
        load_for_training(resolve(root), 32)


def test_training_folder_alone_is_scored_when_asked_for(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2})
    with pytest.raises(TumorlensError, match="has training images alone"):
        load_for_scoring(resolve(root), 32, CLASSES)
    assert len(load_for_scoring(resolve(root), 32, CLASSES, split="train").paths) == 8


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("no", "yes"), ("notumor", "yes")),  # of checkpoints of earlier versions
        (("no", "yes"), ("no", "yes")),
        (("normal",), CLASSES),
        (("mÉningiome", "Astro cytoma"), ("astro_cytoma", "méningiome")),
    ],
)
def test_class_folders_are_known_by_the_checkpoints_names(
    make_folder: Callable[..., Path], folders: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    data = load_for_scoring(resolve(make_folder({".": 1}, classes=folders)), 32, classes)
    assert data.classes == classes
    assert len(set(data.labels.tolist())) == len(folders)


def test_splits_file_and_folder_may_differ_in_the_form_of_unicode(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    names = [unicodedata.normalize("NFD", name) for name in ("méningiome", "gliöme")]
    root = make_folder({".": 4}, classes=tuple(names))
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = "".join(
        f"{unicodedata.normalize('NFC', path)};{('Train', 'VAL')[number % 2]};p{number}\r\n"
        for number, path in enumerate(paths)
    )
    table = tmp_path / "splits.csv"
    table.write_bytes(f"Path;Split;Person\r\n{rows}".encode("utf-16"))
    data = load_for_training(resolve(root, table), 32)
    assert data.paths == tuple(paths)
    assert Counter(data.splits.tolist()) == {"train": 4, "valid": 4}
    assert data.patients is not None
    assert data.patients.names.tolist() == [f"p{number}" for number in range(8)]
