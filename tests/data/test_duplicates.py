import csv
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tumorlens.data import cache
from tumorlens.data.duplicates import candidates, connected, duplicate_groups, near_duplicates_in
from tumorlens.data.hashing import TRANSFORMS, transformed


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
