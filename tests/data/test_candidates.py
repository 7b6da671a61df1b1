import numpy as np
import pytest

from tumorlens.data import candidates as module
from tumorlens.data.candidates import candidates
from tumorlens.data.hashing import TRANSFORMS, transformed


def _random(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def _with_errors(prints: np.ndarray, bits: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flipped = np.unpackbits(prints, axis=1)
    for row in flipped:
        row[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(flipped, axis=1)


@pytest.mark.parametrize("exhaustive", [True, False], ids=["exhaustive", "multi-index"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_turned_copy_is_found_with_its_transform_and_distance(
    monkeypatch: pytest.MonkeyPatch, exhaustive: bool, transform: str
) -> None:
    if not exhaustive:
        monkeypatch.setattr(module, "_EXHAUSTIVE", 0)
    base = _random(300)
    copies = transformed(_with_errors(base[:40], 11), transform)
    found = candidates(np.concatenate([base, copies]))
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


def test_both_searches_find_the_same_of_what_is_near() -> None:
    base = _random(2000, seed=3)
    prints = np.concatenate([base, _with_errors(base[:300], 11), transformed(base[:99], "rot180")])
    whole = candidates(prints, radius=11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EXHAUSTIVE", 0)
        hashed = candidates(prints, radius=11)

    def pairs(found: module.Candidates) -> set[tuple[int, int, int]]:
        columns = (found.first, found.second, found.transform)
        return set(zip(*(column.tolist() for column in columns), strict=True))

    assert len(pairs(whole)) >= 399
    assert pairs(hashed) == pairs(whole)


def test_crowded_tables_are_gone_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXHAUSTIVE", 0)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 7)
    prints = np.repeat(_random(2), 12, axis=0)
    found = candidates(prints)
    assert len(found.first) == 2 * 12 * 11 // 2
    assert (found.first // 12 == found.second // 12).all()


def test_farther_copies_are_missed_seldom_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXHAUSTIVE", 0)
    base = _random(2000)
    found = candidates(np.concatenate([base, _with_errors(base[:1000], 20)]))
    assert len(found.first) > 970
