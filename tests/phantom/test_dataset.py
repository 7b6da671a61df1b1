import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.model_selection import cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from tumorlens.data import duplicates as copies
from tumorlens.data.folder import scan
from tumorlens.data.hashing import fingerprint
from tumorlens.errors import TumorlensError
from tumorlens.labels import KNOWN_CLASSES
from tumorlens.phantom import dataset
from tumorlens.phantom.dataset import phantom, phantom_slice
from tumorlens.settings import PhantomSettings

TUMORS = ("glioma", "meningioma", "pituitary")


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "data"
    phantom(PhantomSettings(out, train=2, valid=1, test=1, size=64, seed=3))
    return out


def test_folder_has_splits_classes_masks_boxes_and_the_notice(made: Path) -> None:
    folder = scan(made)
    assert folder.classes == KNOWN_CLASSES
    assert len(folder.files) == 4 * (2 + 1 + 1)
    names = {path.name for path in made.iterdir()}
    files = {"boxes.csv", "NOTICE.txt", "manifest.json"}
    assert names == {"train", "valid", "test", "masks"} | files
    notice = (made / "NOTICE.txt").read_text(encoding="utf-8")
    assert "McConnell Brain Imaging Centre" in notice
    assert "provided that the above copyright" in notice


def test_every_image_is_a_grey_square_and_every_tumor_has_its_mask_and_box(made: Path) -> None:
    with (made / "boxes.csv").open(encoding="utf-8") as table:
        rows = {row["path"]: row for row in csv.DictReader(table)}
    files = scan(made).files
    assert set(rows) == {file.path for file in files}
    for file in files:
        with Image.open(made / file.path) as image:
            assert (image.mode, image.size, image.format) == ("L", (64, 64), "PNG")
        row, mask_path = rows[file.path], made / "masks" / file.path
        assert row["label"] == file.label
        edges = [row[name] for name in ("box_x0", "box_y0", "box_x1", "box_y1")]
        if file.label == "notumor":
            assert edges == [""] * 4
            assert not mask_path.exists()
            continue
        mask = np.array(Image.open(mask_path))
        assert set(np.unique(mask)) == {0, 255}
        x0, y0, x1, y1 = (round(float(edge) * 64) for edge in edges)
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        for line in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]):
            assert line.any()  # no smaller box would do


def test_same_arguments_write_the_same_bytes_and_fewer_images_are_a_part_of_them(
    made: Path, tmp_path: Path
) -> None:
    first = _digests(made)
    phantom(PhantomSettings(tmp_path / "again", train=2, valid=1, test=1, size=64, seed=3))
    assert _digests(tmp_path / "again") == first
    phantom(PhantomSettings(tmp_path / "again", train=2, valid=1, test=0, size=64, seed=3))
    fewer = _digests(tmp_path / "again")
    del fewer["boxes.csv"]
    assert len([path for path in fewer if path.startswith("train/")]) == 8
    assert not [path for path in fewer if "test/" in path]
    assert fewer.items() <= first.items()
    phantom(PhantomSettings(tmp_path / "other", train=2, valid=1, test=0, size=64, seed=4))
    other = _digests(tmp_path / "other")
    assert not {other[p] for p in other if p.endswith(".png")} & set(first.values())


@pytest.mark.parametrize("seed", range(4))
def test_twin_of_a_tumor_is_what_notumor_looks_like_to_the_bit(seed: int) -> None:
    healthy = phantom_slice(seed, "notumor", 96)
    assert not healthy.mask.any()
    for label in TUMORS:
        ill = phantom_slice(seed, label, 96)
        assert (ill.plane, ill.offset) == (healthy.plane, healthy.offset)
        assert ill.duplicate is not None
        np.testing.assert_array_equal(ill.duplicate, healthy.image)


@pytest.mark.parametrize("label", TUMORS)
def test_tumor_changes_nothing_out_of_its_reach_and_much_within(label: str) -> None:
    reach = 55.0  # mm: the widest swelling or push, and the blur
    for seed in range(6):
        made = phantom_slice([seed, 7], label, 112)
        assert made.duplicate is not None
        # A pixel is at least 1.8 mm at this size.
        far = ndimage.distance_transform_edt(~made.mask) * 1.8 > reach
        assert (made.duplicate[far] > 40).sum() > 200  # there is a head to be left alone
        np.testing.assert_array_equal(made.image[far], made.duplicate[far])
        change = np.abs(made.image.astype(int) - made.duplicate)
        assert change[made.mask].mean() > 8


def test_slice_shows_the_same_head_at_any_size() -> None:
    small, large = (phantom_slice(5, "notumor", size, duplicate=False).image for size in (64, 128))
    shrunk = large.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.95
    other = phantom_slice(6, "notumor", 64, duplicate=False).image
    assert np.corrcoef(other.ravel(), small.ravel())[0, 1] < 0.9


def _what_should_not_tell(made: dataset.PhantomSlice) -> list[float]:
    """Plane, position, border, head's area and its rim: everything but the tumor."""
    image = made.image
    head = ndimage.binary_fill_holes(ndimage.gaussian_filter(image.astype(float), 1) > 25)
    rim = head & ~ndimage.binary_erosion(head, iterations=4)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return [
        *(float(made.plane == plane) for plane in ("axial", "coronal", "sagittal")),
        made.offset,
        float(border.mean()),
        float(head.mean()),
        float(image[rim].mean()),
        float(image[~head].mean()),
    ]


def test_shallow_tree_cannot_tell_the_class_by_plane_position_border_or_head() -> None:
    count = 50
    features, labels, inside = [], [], []
    for index, label in enumerate(KNOWN_CLASSES):
        for number in range(count):
            made = phantom_slice((11, index, number), label, 64, duplicate=False)
            features.append(_what_should_not_tell(made))
            inside.append([float(made.mask.sum()), float(made.image[20:44, 20:44].max())])
            labels.append(index)
    truth = np.array(labels)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)

    def score(values: list[list[float]]) -> float:
        # Every class has as many images, so this is balanced accuracy.
        return float((cross_val_predict(tree, values, truth, cv=5) == truth).mean())

    # Chance is 0.25 with a standard deviation of 0.031 on 200 images.
    assert score(features) < 0.25 + 3 * 0.031
    # The same tree finds a shortcut where there is one.
    assert score(inside) > 0.45


def test_hundred_unrelated_slices_show_no_picture_twice() -> None:
    prints = np.stack(
        [
            fingerprint(phantom_slice((13, n), KNOWN_CLASSES[n % 4], 64, duplicate=False).image)
            for n in range(100)
        ]
    )
    assert len(np.unique(copies.duplicate_groups(prints))) == 100


def test_image_that_is_too_large_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="--size 2000: expected at most 1024"):
        phantom(PhantomSettings(tmp_path / "data", size=2000))
    assert not (tmp_path / "data").exists()
