"""Pairs of images that show the same image, confirmed by looking at both.

Images of near fingerprints, under any of the eight turns and reflections, are candidates.
Neighbouring slices of one patient come near that, so a candidate counts only where the images
themselves agree in their details.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from tumorlens.data.duplicates import Candidates, candidates, connected
from tumorlens.data.hashing import TRANSFORMS
from tumorlens.progress import Progress, silent

# Side of the square that is decoded, pixels: what training decodes too, by default, so that both
# share a cache entry.
THUMBNAIL = 96

# Least correlation of details. On the annotated images of the public set near-duplicates have 0.992
# and more, slices next to one another 0.899 at most; JPEG at quality 40 of an image halved in size
# gives 0.963, a gamma of 0.6 gives 0.931 (the least of 80 images each).
SAME_DETAILS = 0.92

_SHRINK = 2
_SIGMA = 1.5  # pixels of the shrunk image: what is "local" in the local contrast
_FLOOR = 0.5  # of the mean local contrast: what flat areas are divided by, lest noise speaks
_ROUNDING = 0.05  # grey levels: keeps a flat image's rounding errors from being details

_PAIRS_AT_ONCE = 16_384  # whose images' details are held at once
_PICTURES_AT_ONCE = 64
_PRODUCTS_AT_ONCE = 1024

# More files than this of the same bytes are listed against the first of each split, not all with
# all: a thousand black images would be half a million pairs.
_ALL_WITH_ALL = 64

_NAMES = tuple(TRANSFORMS)
# The other transforms undo themselves.
INVERSE = {"rot90_cw": "rot90_ccw", "rot90_ccw": "rot90_cw"}

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """P pairs of images that show the same image, sorted by `first`, then `second`.

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
        """(count,) group of each of `count` images: near-duplicates, also of one another."""
        return connected(self.first, self.second, count)


def find_pairs(
    images: npt.NDArray[np.uint8],
    fingerprints: npt.NDArray[np.uint8],
    digests: npt.NDArray[np.uint8],
    splits: npt.NDArray[np.str_],
    progress: Progress = silent,
) -> Pairs:
    """All pairs of images that show the same image.

    Args:
        images: (N, 96, 96) uint8 thumbnails, `readers.fit_square`.
        fingerprints: (N, 32) uint8.
        digests: (N, D) uint8, equal for byte-identical files.
        splits: (N,) split of each image; decides only how large groups of one content are listed.
        progress: called with the stages "comparing" and "confirming".
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
            blocks.append(_block(*_all_with_all(files, splits), "identity", 1.0, exact=True))
    for at in np.flatnonzero(~alone):
        both = _each_with_each(members[near.first[at]], members[near.second[at]], splits)
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
        local = details(np.asarray(images[kept[needed]]))
        one, other = place[: len(rows)], place[len(rows) :]
        for code in np.unique(found.transform[rows]):
            these = np.flatnonzero(found.transform[rows] == code)
            value[rows[these]] = similarity(local, one[these], other[these], _NAMES[code])
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


def details(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What is left of images without their brightness and contrast, at half the size.

    Each pixel's difference from its neighbourhood's mean, divided by the neighbourhood's contrast
    (both Gaussian, sigma 1.5 pixels after halving): what a change of contrast leaves alone and a
    neighbouring slice does not share.

    Args:
        images: (N, H, W) uint8, H and W even.

    Returns:
        (N, H / 2, W / 2) float32, each of mean 0 and norm 1; zero for an image of one grey.
    """
    from joblib import cpu_count  # noqa: PLC0415 (a tenth of a second)

    # Blurring releases the interpreter's lock; small blocks stay in the processor's cache.
    blocks = [
        images[start : start + _PICTURES_AT_ONCE]
        for start in range(0, len(images), _PICTURES_AT_ONCE)
    ]
    with ThreadPoolExecutor(max_workers=cpu_count()) as pool:
        found = list(pool.map(_details, blocks))
    nothing = np.zeros(
        (0, images.shape[1] // _SHRINK, images.shape[2] // _SHRINK), dtype=np.float32
    )
    return np.concatenate([nothing, *found])


def _details(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 (a quarter of a second)

    count, height, width = images.shape
    blocks = images.reshape(count, height // _SHRINK, _SHRINK, width // _SHRINK, _SHRINK)
    change = blocks.mean(axis=(2, 4), dtype=np.float32)
    change -= gaussian_filter(change, _SIGMA, axes=(1, 2))
    contrast = np.sqrt(gaussian_filter(change * change, _SIGMA, axes=(1, 2)))
    floor = _FLOOR * contrast.mean(axis=(1, 2), keepdims=True)
    flat = (change / (contrast + floor + _ROUNDING)).reshape(count, -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.where(length > 0.1, flat / np.maximum(length, 0.1), 0)
    result: npt.NDArray[np.float32] = flat.reshape(count, height // _SHRINK, width // _SHRINK)
    return result


def similarity(
    local: npt.NDArray[np.float32],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    transform: str,
) -> npt.NDArray[np.float64]:
    """(P,) correlation of the details of pairs of images.

    Args:
        local: (N, S, S) from `details`.
        first: (P,) indices; these images are turned or mirrored by `transform` first.
        second: (P,) indices of what they are compared with.
        transform: a name in `TRANSFORMS`.
    """
    transpose, left_right, up_down = TRANSFORMS[transform]
    turned = local.transpose(0, 2, 1) if transpose else local
    turned = turned[:, :, ::-1] if left_right else turned
    turned = turned[:, ::-1] if up_down else turned
    values = np.zeros(len(first))
    for start in range(0, len(first), _PRODUCTS_AT_ONCE):
        rows = slice(start, start + _PRODUCTS_AT_ONCE)
        values[rows] = np.einsum("nij,nij->n", turned[first[rows]], local[second[rows]])
    return values


def _members(content: Indices, contents: int) -> list[Indices]:
    order = np.argsort(content, kind="stable")
    return np.split(order, np.cumsum(np.bincount(content, minlength=contents))[:-1])


def _all_with_all(files: Indices, splits: npt.NDArray[np.str_]) -> tuple[Indices, Indices]:
    if len(files) <= _ALL_WITH_ALL:
        one, other = np.triu_indices(len(files), 1)
        return files[one], files[other]
    hubs = _first_of_each(files, splits)
    others = np.setdiff1d(files, hubs)
    one, other = np.triu_indices(len(hubs), 1)
    return (
        np.concatenate([hubs[one], np.repeat(hubs, len(others))]),
        np.concatenate([hubs[other], np.tile(others, len(hubs))]),
    )


def _each_with_each(
    files: Indices, others: Indices, splits: npt.NDArray[np.str_]
) -> tuple[Indices, Indices]:
    if len(files) * len(others) > _ALL_WITH_ALL**2:
        few, fewer = _first_of_each(files, splits), _first_of_each(others, splits)
        rest = np.setdiff1d(files, few)
        return (
            np.concatenate([np.repeat(few, len(others)), np.repeat(rest, len(fewer))]),
            np.concatenate([np.tile(others, len(few)), np.tile(fewer, len(rest))]),
        )
    return np.repeat(files, len(others)), np.tile(others, len(files))


def _first_of_each(files: Indices, splits: npt.NDArray[np.str_]) -> Indices:
    return files[np.unique(splits[files], return_index=True)[1]]


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
