import csv
import hashlib
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data import cache
from tumorlens.data import duplicates as module
from tumorlens.data.duplicates import (
    SAME_DETAILS,
    THUMBNAIL,
    Pairs,
    candidates,
    connected,
    details,
    duplicate_groups,
    find_pairs,
    near_duplicates_in,
    similarity,
)
from tumorlens.data.hashing import TRANSFORMS, apply, fingerprint, transformed


def _random(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def _flip_bits(prints: np.ndarray, count: int) -> np.ndarray:
    bits = np.unpackbits(prints, axis=1)
    bits[:, 3 : 3 + 7 * count : 7] ^= 1
    return np.packbits(bits, axis=1)


def test_nearest_reference_its_distance_and_transform_are_found() -> None:
    reference = _random(500)
    queries = np.concatenate(
        [_flip_bits(reference[:5], 4), transformed(reference[7:9], "flip_lr"), _random(3, seed=1)]
    )
    duplicates = near_duplicates_in(reference, queries)
    assert duplicates.found.tolist() == [True] * 7 + [False] * 3
    assert duplicates.index[:7].tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert duplicates.distance[:7].tolist() == [4] * 5 + [0] * 2
    assert duplicates.transform[:7].tolist() == ["identity"] * 5 + ["flip_lr"] * 2


def test_no_reference_no_copy() -> None:
    assert not near_duplicates_in(np.zeros((0, 32), dtype=np.uint8), _random(4)).found.any()


def test_copies_of_copies_are_one_group() -> None:
    base = _random(50)
    once = _flip_bits(base[:1], 8)
    twice = np.packbits(np.unpackbits(once, axis=1) ^ (np.arange(256) % 32 == 1), axis=1)
    groups = duplicate_groups(
        np.concatenate([base, once, twice, transformed(base[9:10], "rot180")])
    )
    assert groups[0] == groups[50] == groups[51]
    assert groups[9] == groups[52]
    assert len(set(groups.tolist())) == 50


def test_components_are_numbered_in_the_order_of_their_first() -> None:
    first, second = np.array([5, 2, 6]), np.array([2, 0, 4])
    assert connected(first, second, 7).tolist() == [0, 1, 0, 2, 3, 0, 3]
    assert connected(first[:0], second[:0], 3).tolist() == [0, 1, 2]


def test_long_chain_in_any_order_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(5000)
    assert not connected(order[:-1], order[1:], 5000).any()


def _with_errors(prints: np.ndarray, bits: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flipped = np.unpackbits(prints, axis=1)
    for row in flipped:
        row[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(flipped, axis=1)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_turned_copy_is_found_with_its_transform_and_distance(transform: str) -> None:
    base = _random(300)
    duplicates = transformed(_with_errors(base[:40], 11), transform)
    found = candidates(np.concatenate([base, duplicates]))
    assert found.first.tolist() == list(range(40))
    assert found.second.tolist() == list(range(300, 340))
    assert {list(TRANSFORMS)[code] for code in found.transform} == {transform}
    assert set(found.distance.tolist()) == {11}


def test_radius_is_the_largest_distance_found() -> None:
    base = _random(50)
    prints = np.concatenate([base, _with_errors(base[:1], 20), _with_errors(base[1:2], 21)])
    assert candidates(prints, radius=20).second.tolist() == [50]


def test_nothing_and_one_have_no_candidates() -> None:
    assert len(candidates(_random(0)).first) == 0
    assert len(candidates(_random(1)).first) == 0
    assert len(near_duplicates_in(_random(3), _random(0)).found) == 0


@pytest.mark.parametrize("radius", [0, 9, 32, 100, 120, 256])
def test_candidates_are_those_of_counting_every_bit(radius: int) -> None:
    base = _random(40, seed=3)
    prints = np.concatenate(
        [base, _with_errors(base[:20], 9), transformed(base[:9], "rot180"), base[:2]]
    )
    bits = np.unpackbits(prints, axis=1)
    expected = [
        (first, second, code, distance)
        for first, second in itertools.combinations(range(len(prints)), 2)
        for code, name in enumerate(TRANSFORMS)
        if (
            distance := int(
                (np.unpackbits(transformed(prints[first : first + 1], name)) ^ bits[second]).sum()
            )
        )
        <= radius
    ]
    found = candidates(prints, radius)
    columns = (found.first, found.second, found.transform, found.distance)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


def test_nearest_of_several_is_the_first_of_the_plainest_transform() -> None:
    one, other = _random(2)
    reference = np.stack([other, transformed(one[None], "flip_lr")[0], one, one])
    duplicates = near_duplicates_in(reference, one[None])
    assert (duplicates.index[0], duplicates.distance[0], duplicates.transform[0]) == (
        2,
        0,
        "identity",
    )


def test_none_is_missed_among_more_than_one_block_of_them() -> None:
    base = _random(2000)
    found = candidates(np.concatenate([base, _with_errors(base[:1000], 32)]))
    assert found.first.tolist() == list(range(1000))
    assert found.second.tolist() == list(range(2000, 3000))
    crowd = candidates(np.repeat(_random(2), 600, axis=0))
    assert len(crowd.first) == 2 * 600 * 599 // 2
    assert (crowd.first // 600 == crowd.second // 600).all()


def test_annotated_pairs_of_the_real_set_are_told_from_fingerprints_alone(real_data: Path) -> None:
    with (real_data / "annotations_training.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["slice"]]
    root = real_data / "brain-tumor-mri"
    prints = cache.load(root, [row["path"] for row in rows], 32).fingerprints
    groups = duplicate_groups(prints)
    same_slice, same_group = defaultdict(list), defaultdict(list)
    for index, row in enumerate(rows):
        same_slice[row["slice"]].append(index)
        same_group[groups[index]].append(index)

    def pairs(families: dict) -> set[tuple[int, int]]:
        return {pair for family in families.values() for pair in itertools.combinations(family, 2)}

    true, found = pairs(same_slice), pairs(same_group)
    assert len(true) > 1000
    assert len(true & found) / len(true) >= 0.99
    assert len(true & found) / len(found) >= 0.99
    one, other = np.array(sorted(true)).T
    mirrored = np.array([int(row["mirrored"]) for row in rows])
    named = [
        near_duplicates_in(prints[a : a + 1], prints[b : b + 1]).transform[0]
        for a, b in zip(one[:200], other[:200], strict=True)
    ]
    expected = np.where(mirrored[one] != mirrored[other], "flip_lr", "identity")[:200]
    assert (np.array(named) == expected).mean() >= 0.99


def _scene(number: int, size: int = 96) -> np.ndarray:
    """An image with structure at every scale."""
    rng = np.random.default_rng(number)
    image = np.zeros((size, size))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        image += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / cells**0.5
    return np.clip(110 + 40 * image, 0, 255).astype(np.uint8)


def _find(images: list[np.ndarray], splits: list[str] | None = None) -> Pairs:
    images = np.stack([np.ascontiguousarray(image) for image in images])
    prints = np.stack([fingerprint(image) for image in images])
    digests = np.stack([_digest(image) for image in images])
    return find_pairs(images, prints, digests, np.array(splits or ["train"] * len(images)))


def _digest(image: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), dtype=np.uint8)


def _listed(found: Pairs) -> list[tuple[int, int, str, bool]]:
    return list(
        zip(
            found.first.tolist(),
            found.second.tolist(),
            found.transform.tolist(),
            found.exact.tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transform_says_what_was_done_to_the_first_to_get_the_second(transform: str) -> None:
    image = _scene(1)
    brighter = np.clip(apply(image, transform) * 0.9 + 20, 0, 255).astype(np.uint8)
    for order in ((image, brighter), (brighter, image)):
        found = _find([_scene(0), order[0], _scene(2), order[1]])
        ((first, second, named, exact),) = _listed(found)
        assert (first, second, exact) == (1, 3, False)
        np.testing.assert_allclose(
            apply(order[0], named).astype(float).ravel() @ order[1].ravel().astype(float),
            apply(image, transform).astype(float).ravel() @ brighter.ravel().astype(float),
        )
        assert found.similarity[0] > 0.99


def test_byte_copies_and_mirror_images_of_them_are_all_listed() -> None:
    image = _scene(1)
    found = _find([image, _scene(2), image, apply(image, "flip_lr")])
    assert _listed(found) == [
        (0, 2, "identity", True),
        (0, 3, "flip_lr", False),
        (2, 3, "flip_lr", False),
    ]
    assert found.similarity[0] == 1
    assert found.groups(4).tolist() == [0, 1, 0, 0]


def test_pictures_of_one_grey_are_copies_only_byte_for_byte() -> None:
    blank = [np.full((96, 96), grey, dtype=np.uint8) for grey in (0, 0, 7)]
    assert _listed(_find(blank)) == [(0, 1, "identity", True)]


def test_hundred_unrelated_pictures_give_no_pair() -> None:
    assert len(_find([_scene(number) for number in range(100)])) == 0


def test_very_large_group_is_listed_against_the_first_of_each_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ALL_WITH_ALL", 3)
    image = _scene(1)
    mirrored = apply(image, "flip_lr")
    found = _find([image] * 8 + [mirrored] * 2, ["train"] * 5 + ["test"] * 5)
    listed = _listed(found)
    # Every test image is still listed beside a training image, and all are in one group.
    for test in range(5, 10):
        assert any(second == test and first < 5 for first, second, *_ in listed)
    assert set(found.groups(10).tolist()) == {0}
    assert len(listed) == len({pair[:2] for pair in listed}) < 45


def test_progress_is_told() -> None:
    told = []
    images = np.stack([_scene(0), apply(_scene(0), "rot180")])
    prints = np.stack([fingerprint(np.ascontiguousarray(image)) for image in images])
    digests = np.arange(2, dtype=np.uint8)[:, None]
    find_pairs(
        images,
        prints,
        digests,
        np.array(["", ""]),
        lambda stage, done, total, note="": told.append((stage, done, total)),
    )
    assert told[-2:] == [("comparing", 16, 16), ("confirming", 1, 1)]


def test_annotated_pairs_of_the_real_set_are_found_with_their_transform(real_data: Path) -> None:
    with (real_data / "annotations_training.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["slice"]]
    cached = cache.load(real_data / "brain-tumor-mri", [row["path"] for row in rows], THUMBNAIL)
    found = find_pairs(
        cached.images, cached.fingerprints, cached.digests, np.full(len(rows), "train")
    )
    same_slice = defaultdict(list)
    for index, row in enumerate(rows):
        same_slice[row["slice"]].append(index)
    true = {pair for family in same_slice.values() for pair in itertools.combinations(family, 2)}
    named = {(one, other): transform for one, other, transform, _ in _listed(found)}
    assert len(true) > 1000
    assert len(true & set(named)) / len(true) >= 0.99
    assert len(true & set(named)) / len(named) >= 0.99
    right = [
        named[one, other]
        == ("flip_lr" if rows[one]["mirrored"] != rows[other]["mirrored"] else "identity")
        for one, other in true & set(named)
    ]
    assert np.mean(right) >= 0.99
    # Label errors of the public set: pituitary files that show meningioma slices.
    clashing = {
        Path(rows[index]["path"]).stem
        for one, other in named
        if rows[one]["label"] != rows[other]["label"]
        for index in (one, other)
        if rows[index]["label"] == "pituitary"
    }
    assert clashing == {"Tr-pi_0043", "Tr-pi_0515", "Tr-pi_0520"}


ONE, OTHER = np.array([0]), np.array([1])


def test_details_have_mean_0_and_norm_1_and_half_the_size() -> None:
    found = details(np.stack([_scene(1), _scene(2)])[:, :80])
    assert found.shape == (2, 40, 48)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.reshape(2, -1), axis=1), 1, rtol=1e-5)


def test_picture_of_one_grey_has_no_details_and_resembles_nothing() -> None:
    seen = details(np.stack([np.full((96, 96), 90, dtype=np.uint8)] * 2))
    assert not seen.any()
    assert similarity(seen, ONE, OTHER, "identity").tolist() == [0.0]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_turned_picture_agrees_in_every_detail_under_its_transform_alone(transform: str) -> None:
    image = _scene(3)
    seen = details(np.stack([image, apply(image, transform)]))
    for name in TRANSFORMS:
        value = similarity(seen, ONE, OTHER, name)[0]
        assert value == pytest.approx(1, abs=1e-5) if name == transform else value < 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image * 0.5 + 20,
        lambda image: np.clip(image * 1.4, 0, 255),
        lambda image: 255 * (image / 255) ** 0.6,
    ],
    ids=["less contrast", "brighter", "gamma"],
)
def test_change_of_contrast_leaves_the_details(change) -> None:
    image = _scene(4)
    changed = change(image.astype(np.float64)).astype(np.uint8)
    assert similarity(details(np.stack([image, changed])), ONE, OTHER, "identity")[0] > 0.95


def test_similar_shape_with_other_details_is_not_the_same() -> None:
    coarse = np.asarray(Image.fromarray(_scene(5)).resize((6, 6)).resize((96, 96)), dtype=float)
    rng = np.random.default_rng(0)
    noise = [
        np.asarray(Image.fromarray(rng.normal(0, 7, (40, 40)).astype(np.float32)).resize((96, 96)))
        for _ in range(2)
    ]
    images = np.stack([np.clip(coarse + one, 0, 255).astype(np.uint8) for one in noise])
    grey = images.reshape(2, -1).astype(float)
    assert np.corrcoef(grey)[0, 1] > 0.9  # plain correlation would be fooled
    assert similarity(details(images), ONE, OTHER, "identity")[0] < SAME_DETAILS - 0.2
