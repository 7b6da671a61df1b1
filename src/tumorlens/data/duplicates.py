"""Which images show the same image: turned, mirrored or re-encoded.

Fingerprints alone tell near-duplicates (`near_duplicates_in`, `duplicate_groups`). `find_pairs`
goes further: images of near fingerprints are candidates. Neighbouring slices of one patient come
near that, so a candidate counts only where the images themselves agree in their details.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from tumorlens.data.hashing import BYTES, TRANSFORMS, apply, transformed
from tumorlens.progress import Progress, silent

# Bits in which two fingerprints of one image may differ. Measured on the annotated images of the
# public set: up to 9, all 1,171 same-slice pairs are found and nothing else; from 11 on,
# neighbouring slices of one patient come in.
NEAR_DUPLICATE_BITS = 9
# Bits. A strong contrast change moves a fingerprint by up to 23; measured in results/audit.
RADIUS = 32

# Products of these many rows and columns stay in the processor's cache.
_ROWS, _COLUMNS = 256, 1024

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
_PICTURES_AT_ONCE, _PRODUCTS_AT_ONCE = 64, 1024

# More files than this of the same bytes are listed against the first of each split, not all with
# all: a thousand black images would be half a million pairs.
_ALL_WITH_ALL = 64

_NAMES = tuple(TRANSFORMS)
# The other transforms undo themselves.
INVERSE = {"rot90_cw": "rot90_ccw", "rot90_ccw": "rot90_cw"}

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Candidates:
    """C possible pairs, sorted; a pair comes up once for each transform that fits."""

    # first, second: (C,) indices, first < second
    first: Indices
    second: Indices
    transform: Indices  # (C,) place in `TRANSFORMS` of what was done to the first to get the second
    distance: Indices  # (C,) bits that differ


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """For each of N queries its nearest reference."""

    found: npt.NDArray[np.bool_]  # (N,) whether it shows the same image
    # (N,) int64 of the nearest reference; the others are meaningless where not `found`
    index: Indices
    distance: Indices  # (N,) bits that differ
    transform: npt.NDArray[np.str_]  # (N,) name of what was done to the reference to get the query


def candidates(
    fingerprints: Hashes, radius: int = RADIUS, progress: Progress = silent
) -> Candidates:
    """All pairs of (N, 32) fingerprints within `radius` bits under some turn or reflection.

    `progress` is called with the stage "comparing".
    """
    return Candidates(*_near(fingerprints, fingerprints, radius, progress, once=True).T)


def near_duplicates_in(
    reference: Hashes, queries: Hashes, limit: int = NEAR_DUPLICATE_BITS
) -> NearDuplicates:
    """Find the images of `queries` (N, 32), a fingerprint each, in `reference` (M, 32), M may be 0.

    They are the same up to a distance of `limit` bits.
    """
    near = _near(reference, queries, limit, silent, once=False)
    near = near[np.lexsort((near[:, 0], near[:, 2], near[:, 3], near[:, 1]))]  # nearest first
    query, at = np.unique(near[:, 1], return_index=True)
    count = len(queries)
    index, distance = np.zeros(count, dtype=np.int64), np.full(count, 257, dtype=np.int64)
    code = np.zeros(count, dtype=np.int64)
    index[query], code[query], distance[query] = near[at, 0], near[at, 2], near[at, 3]
    return NearDuplicates(distance <= limit, index, distance, np.array(list(TRANSFORMS))[code])


def duplicate_groups(fingerprints: Hashes, limit: int = NEAR_DUPLICATE_BITS) -> Indices:
    """(N,) equal for images that show the same image, near-duplicates of near-duplicates included.

    Two are near-duplicates if their fingerprints, of (N, 32), differ in `limit` bits at most.
    """
    near = candidates(fingerprints, limit)
    return connected(near.first, near.second, len(fingerprints))


def connected(first: Indices, second: Indices, count: int) -> Indices:
    """(count,) component of each of `count` things, numbered in the order of their first.

    Things are joined by (P,) pairs of indices, `first` and `second`, however far.
    """
    from scipy.sparse import coo_array  # noqa: PLC0415 - a quarter of a second
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def joined(*groupings: Indices) -> Indices:
    """The finest groups that divide no group of any of `groupings`, each (N,)."""
    count = len(groupings[0])
    columns = []
    for groups in groupings:
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        columns.append(first[member])
    return connected(np.tile(np.arange(count), len(columns)), np.concatenate(columns), count)


def _near(
    sources: Hashes, targets: Hashes, radius: int, progress: Progress, *, once: bool
) -> Indices:
    """(C, 4) source, target, transform of the source and distance of all that are near, sorted.

    With `once`, sources and targets are the same, and each pair is listed from its lower index.

    Half of the bits decide whether a pair is looked at, for four transforms in one product of
    matrices: mirroring leaves coefficients of two even waves as they are, and turns all those of
    two odd waves or none. For signs of +1 and -1 these 128 bits differ in (128 - even +- odd) / 2,
    and all 256 in no less.
    """
    sources, targets = np.ascontiguousarray(sources), np.ascontiguousarray(targets)
    words = targets.view(np.uint64)
    even, odd = _signs(targets)
    found = [np.zeros((0, 4), dtype=np.int64)]
    for top in range(0, len(sources), _ROWS):
        block = sources[top : top + _ROWS]
        turned = [transformed(block, name).view(np.uint64) for name in TRANSFORMS]
        for transposed, codes in _BY_TRANSPOSITION.items():
            mine_even, mine_odd = _signs(transformed(block, transposed))
            for left in range(top if once else 0, len(targets), _COLUMNS):
                span = slice(left, left + _COLUMNS)
                alike = mine_odd @ odd[span].T
                np.abs(alike, out=alike)
                alike += mine_even @ even[span].T
                row, column = np.nonzero(alike >= 4 * BYTES - 2 * radius)
                column += left
                if once:
                    row, column = row[column > row + top], column[column > row + top]
                for code in codes if len(row) else ():
                    differing = turned[code][row] ^ words[column]
                    distance = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
                    near = distance <= radius
                    which = np.full(int(near.sum()), code)
                    pairs = (row[near] + top, column[near], which, distance[near])
                    found.append(np.stack(pairs, axis=1))
        each = len(TRANSFORMS)
        progress("comparing", (top + len(block)) * each, len(sources) * each)
    whole = np.concatenate(found)
    return whole[np.lexsort((whole[:, 2], whole[:, 1], whole[:, 0]))]


# Places in TRANSFORMS of those that do not transpose and of those that do.
_BY_TRANSPOSITION = {
    "identity": [code for code, turn in enumerate(TRANSFORMS.values()) if not turn[0]],
    "transpose": [code for code, turn in enumerate(TRANSFORMS.values()) if turn[0]],
}


def _signs(fingerprints: Hashes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(N, 64) +1 or -1 each: the coefficients of two even waves, and those of two odd ones."""
    bits = np.unpackbits(fingerprints, axis=1).reshape(-1, 16, 16)
    even, odd = (
        bits[:, parity::2, parity::2].reshape(-1, 2 * BYTES).astype(np.float32) * 2 - 1
        for parity in (0, 1)
    )
    return even, odd


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of images that show the same image, sorted by `first`, then `second`."""

    # first, second: (P,) indices, first < second
    first: Indices
    second: Indices
    transform: npt.NDArray[np.str_]  # (P,) name of what was done to the first to get the second
    # (P,) correlation of details, -1..1; 1 for byte-identical files
    similarity: npt.NDArray[np.float64]
    exact: npt.NDArray[np.bool_]  # (P,) whether the files are byte-identical

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
    content = content.reshape(-1)
    size = np.bincount(content, minlength=len(kept))
    members = np.split(np.argsort(content, kind="stable"), np.cumsum(size)[:-1])
    found = candidates(fingerprints[kept], progress=progress)
    near = _confirmed(images, kept, found, progress)
    # Most contents are one file's: their pairs are pairs of files as they are.
    alone = (size[near.first] == 1) & (size[near.second] == 1)
    blocks = [_in_order(kept[near.first], kept[near.second], near).of(alone)]
    for files in members:
        if len(files) > 1:
            blocks.append(_block(*_all_with_all(files, splits), "identity", 1.0, exact=True))
    for at in np.flatnonzero(~alone):
        both = _each_with_each(members[near.first[at]], members[near.second[at]], splits)
        transform, value = str(near.transform[at]), float(near.similarity[at])
        blocks.append(_block(*both, transform, value, exact=False))
    names = [field.name for field in fields(Pairs)]
    whole = Pairs(*(np.concatenate([getattr(one, name) for one in blocks]) for name in names))
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
    _, new = np.unique(found.first[best] * len(kept) + found.second[best], return_index=True)
    best = best[new]
    transform, exact = np.array(_NAMES)[found.transform[best]], np.zeros(len(best), dtype=bool)
    return Pairs(found.first[best], found.second[best], transform, value[best], exact)


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
    starts = range(0, len(images), _PICTURES_AT_ONCE)
    with ThreadPoolExecutor(max_workers=cpu_count()) as pool:
        found = pool.map(_details, [images[at : at + _PICTURES_AT_ONCE] for at in starts])
    height, width = images.shape[1:]
    nothing = np.zeros((0, height // _SHRINK, width // _SHRINK), dtype=np.float32)
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
    return np.asarray(flat.reshape(change.shape), np.float32)


def similarity(
    local: npt.NDArray[np.float32], first: Indices, second: Indices, transform: str
) -> npt.NDArray[np.float64]:
    """(P,) correlation of the details of pairs of images.

    Args:
        local: (N, S, S) from `details`.
        first, second: (P,) indices; the first are turned or mirrored by `transform` before.
        transform: a name in `TRANSFORMS`.
    """
    turned = apply(local, transform)
    values = np.zeros(len(first))
    for start in range(0, len(first), _PRODUCTS_AT_ONCE):
        rows = slice(start, start + _PRODUCTS_AT_ONCE)
        values[rows] = np.einsum("nij,nij->n", turned[first[rows]], local[second[rows]])
    return values


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
