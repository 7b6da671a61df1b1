import io

import numpy as np
import pytest
from PIL import Image

from tumorlens.data.duplicates import NEAR_DUPLICATE_BITS, near_duplicates_in
from tumorlens.data.hashing import TRANSFORMS, apply, fingerprint, transformed
from tumorlens.data.readers import resize


def scene(number: int, size: int = 120) -> np.ndarray:
    """An image without symmetry, with structure at every scale as images of things have."""
    rng = np.random.default_rng(number)
    image = np.zeros((size, size))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        image += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / cells**0.5
    return np.clip(110 + 60 * image, 0, 255).astype(np.uint8)


def bits(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.unpackbits(one ^ other).sum())


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_fingerprint_of_a_turned_picture_follows_from_the_picture_s(transform: str) -> None:
    image = scene(1)
    derived = transformed(fingerprint(image)[None], transform)[0]
    assert bits(derived, fingerprint(np.ascontiguousarray(apply(image, transform)))) <= 2


def test_names_of_the_transforms_are_what_they_do() -> None:
    corner = np.zeros((4, 6), dtype=np.uint8)
    corner[0, 0] = 1  # top left
    where = {
        name: tuple(int(i) for i in np.argwhere(apply(corner, name))[0]) for name in TRANSFORMS
    }
    assert where["identity"] == (0, 0)
    assert where["flip_lr"] == (0, 5)
    assert where["flip_ud"] == (3, 0)
    assert where["rot180"] == (3, 5)
    np.testing.assert_array_equal(apply(corner, "rot90_cw"), np.rot90(corner, -1))
    np.testing.assert_array_equal(apply(corner, "rot90_ccw"), np.rot90(corner))
    np.testing.assert_array_equal(apply(corner, "transpose"), corner.T)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("L"))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: _jpeg(image, 40),
        lambda image: resize(image, 60, 60),
        lambda image: resize(image, 240, 240),
        lambda image: np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8),
    ],
    ids=["jpeg40", "half", "double", "brighter"],
)
@pytest.mark.parametrize("transform", ["identity", "flip_lr", "rot90_cw"])
def test_changed_picture_is_still_found_among_many(change, transform: str) -> None:
    reference = np.stack([fingerprint(scene(number)) for number in range(30)])
    queries = np.stack(
        [
            fingerprint(np.ascontiguousarray(apply(change(scene(number)), transform)))
            for number in range(10)
        ]
    )
    duplicates = near_duplicates_in(reference, queries)
    assert duplicates.found.all()
    assert duplicates.index.tolist() == list(range(10))
    assert set(duplicates.transform) == {transform}


def test_unrelated_pictures_are_far_apart() -> None:
    prints = np.stack([fingerprint(scene(number)) for number in range(100)])
    for number in range(100):
        others = np.delete(prints, number, axis=0)
        nearest = near_duplicates_in(others, prints[number : number + 1], limit=256)
        assert 3 * NEAR_DUPLICATE_BITS < nearest.distance[0] < 256


def test_black_picture_has_a_fingerprint_too() -> None:
    assert not fingerprint(np.zeros((10, 10), dtype=np.uint8)).any()
