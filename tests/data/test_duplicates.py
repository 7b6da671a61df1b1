import csv
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tumorlens.data import cache
from tumorlens.data.duplicates import connected, copies_in, duplicate_groups
from tumorlens.data.hashing import transformed


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
    copies = copies_in(reference, queries)
    assert copies.found.tolist() == [True] * 7 + [False] * 3
    assert copies.index[:7].tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert copies.distance[:7].tolist() == [4] * 5 + [0] * 2
    assert copies.transform[:7].tolist() == ["identity"] * 5 + ["flip_lr"] * 2


def test_no_reference_no_copy() -> None:
    assert not copies_in(np.zeros((0, 32), dtype=np.uint8), _random(4)).found.any()


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


@pytest.mark.parametrize("pairs", [0, 50, 150, 400])
def test_connected_components_are_scipys(pairs: int) -> None:
    first, second = np.random.default_rng(pairs).integers(0, 300, (2, pairs))
    graph = coo_matrix((np.ones(pairs), (first, second)), shape=(300, 300))
    expected = connected_components(graph, directed=False)[1]
    found = connected(first, second, 300)
    assert len(np.unique(found)) == len(np.unique(expected))
    assert len(np.unique(np.stack([found, expected]), axis=1).T) == len(np.unique(expected))


def test_long_chain_in_any_order_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(5000)
    assert not connected(order[:-1], order[1:], 5000).any()


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
        copies_in(prints[a : a + 1], prints[b : b + 1]).transform[0]
        for a, b in zip(one[:200], other[:200], strict=True)
    ]
    expected = np.where(mirrored[one] != mirrored[other], "flip_lr", "identity")[:200]
    assert (np.array(named) == expected).mean() >= 0.99
