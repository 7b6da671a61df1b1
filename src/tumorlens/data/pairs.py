"""Pairs of images that show the same picture, confirmed by looking at both.

Images of near fingerprints, under any of the eight turns and reflections, are candidates.
Neighbouring slices of one patient come near that, so a candidate counts only where the pictures
themselves agree in their details.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from tumorlens.data.candidates import Candidates, candidates
from tumorlens.data.details import SAME_DETAILS, details, similarity
from tumorlens.data.duplicates import connected
from tumorlens.data.hashing import TRANSFORMS
from tumorlens.progress import Progress, silent

# Side of the square that is decoded, pixels: what training decodes too, by default, so that both
# share a cache entry.
THUMBNAIL = 96

_PAIRS_AT_ONCE = 16_384

# More files than this of the same bytes are listed against the first of each split, not all with
# all: a thousand black pictures would be half a million pairs.
_ALL_WITH_ALL = 64

_NAMES = tuple(TRANSFORMS)
# The other transforms undo themselves.
INVERSE = {"rot90_cw": "rot90_ccw", "rot90_ccw": "rot90_cw"}

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """P pairs of images that show the same picture, sorted by `first`, then `second`.

    Attributes:
        first, second: (P,) indices, first < second.
        transform: (P,) name of what was done to the first to get the second.
        similarity: (P,) correlation of details, -1..1; 1 for byte-identical files.
        exact: (P,) whether the files are byte-identical.
    """

    first: Indices
    second: Indices
    transform: npt.NDArray[np.str_]
    similarity: npt.NDArray[np.float64]
    exact: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)

    def of(self, chosen: npt.NDArray[np.bool_] | Indices) -> "Pairs":
        """The pairs that `chosen` names, by (P,) mask or by place."""
        return Pairs(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def groups(self, count: int) -> Indices:
        """(count,) group of each of `count` images: copies, and copies of copies, go together."""
        return connected(self.first, self.second, count)


def find_pairs(
    images: npt.NDArray[np.uint8],
    fingerprints: npt.NDArray[np.uint8],
    digests: npt.NDArray[np.uint8],
    parts: npt.NDArray[np.str_],
    progress: Progress = silent,
) -> Pairs:
    """All pairs of images that show the same picture.

    Args:
        images: (N, 96, 96) uint8 thumbnails, `readers.fit_square`.
        fingerprints: (N, 32) uint8.
        digests: (N, D) uint8, equal for byte-identical files.
        parts: (N,) split of each image; decides only how large groups of one content are listed.
        progress: told of the stages "comparing" and "confirming".
    """
    _, kept, content = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    members = _members(content.reshape(-1), len(kept))
    found = candidates(fingerprints[kept], progress=progress)
    near = _confirmed(images, kept, found, progress)
    # Most contents are one file's: their pairs are pairs of files as they are.
    size = np.bincount(content.reshape(-1), minlength=len(kept))
    alone = (size[near.first] == 1) & (size[near.second] == 1)
    blocks = [_in_order(kept[near.first], kept[near.second], near).of(alone)]
    for files in members:
        if len(files) > 1:
            blocks.append(_block(*_all_with_all(files, parts), "identity", 1.0, exact=True))
    for at in np.flatnonzero(~alone):
        both = _each_with_each(members[near.first[at]], members[near.second[at]], parts)
        transform, value = str(near.transform[at]), float(near.similarity[at])
        blocks.append(_block(*both, transform, value, exact=False))
    whole = Pairs(
        *(
            np.concatenate([getattr(block, field.name) for block in blocks])
            for field in fields(Pairs)
        )
    )
    return whole.of(np.lexsort((whole.second, whole.first)))


def _confirmed(
    images: npt.NDArray[np.uint8], kept: Indices, found: Candidates, progress: Progress
) -> Pairs:
    """The candidates whose details agree, under the transform that fits best."""
    order = np.lexsort((found.second, found.first))
    value = np.zeros(len(order))
    for start in range(0, len(order), _PAIRS_AT_ONCE):
        rows = order[start : start + _PAIRS_AT_ONCE]
        needed, place = np.unique(
            np.concatenate([found.first[rows], found.second[rows]]), return_inverse=True
        )
        seen = details(np.asarray(images[kept[needed]]))
        one, other = place[: len(rows)], place[len(rows) :]
        for code in np.unique(found.transform[rows]):
            these = np.flatnonzero(found.transform[rows] == code)
            value[rows[these]] = similarity(seen, one[these], other[these], _NAMES[code])
        progress("confirming", start + len(rows), len(order))
    best = np.lexsort((found.transform, -value, found.second, found.first))
    best = best[value[best] >= SAME_DETAILS]
    first, second = found.first[best], found.second[best]
    new = np.ones(len(best), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    best = best[new]
    return Pairs(
        found.first[best],
        found.second[best],
        np.array(_NAMES)[found.transform[best]],
        value[best],
        np.zeros(len(best), dtype=bool),
    )


def _members(content: Indices, contents: int) -> list[Indices]:
    order = np.argsort(content, kind="stable")
    return np.split(order, np.cumsum(np.bincount(content, minlength=contents))[:-1])


def _all_with_all(files: Indices, parts: npt.NDArray[np.str_]) -> tuple[Indices, Indices]:
    if len(files) <= _ALL_WITH_ALL:
        one, other = np.triu_indices(len(files), 1)
        return files[one], files[other]
    hubs = _first_of_each(files, parts)
    others = np.setdiff1d(files, hubs)
    one, other = np.triu_indices(len(hubs), 1)
    return (
        np.concatenate([hubs[one], np.repeat(hubs, len(others))]),
        np.concatenate([hubs[other], np.tile(others, len(hubs))]),
    )


def _each_with_each(
    files: Indices, others: Indices, parts: npt.NDArray[np.str_]
) -> tuple[Indices, Indices]:
    if len(files) * len(others) > _ALL_WITH_ALL**2:
        few, fewer = _first_of_each(files, parts), _first_of_each(others, parts)
        rest = np.setdiff1d(files, few)
        return (
            np.concatenate([np.repeat(few, len(others)), np.repeat(rest, len(fewer))]),
            np.concatenate([np.tile(others, len(few)), np.tile(fewer, len(rest))]),
        )
    return np.repeat(files, len(others)), np.tile(others, len(files))


def _first_of_each(files: Indices, parts: npt.NDArray[np.str_]) -> Indices:
    return files[np.unique(parts[files], return_index=True)[1]]


def _block(one: Indices, other: Indices, transform: str, value: float, *, exact: bool) -> Pairs:
    count = len(one)
    named = np.full(count, transform, dtype=np.array(_NAMES).dtype)
    made = Pairs(one, other, named, np.full(count, value), np.full(count, exact))
    return _in_order(one, other, made)


def _in_order(one: Indices, other: Indices, pairs: Pairs) -> Pairs:
    """`pairs` between `one` and `other`, the smaller index first."""
    swapped = one > other
    transform = pairs.transform.copy()
    for name, inverse in INVERSE.items():
        transform[swapped & (pairs.transform == name)] = inverse
    first, second = np.minimum(one, other), np.maximum(one, other)
    return Pairs(first, second, transform, pairs.similarity, pairs.exact)
