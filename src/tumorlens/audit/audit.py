"""What is wrong with a folder: near-duplicates, shared patients, conflicts, shortcuts."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens.audit.shortcuts import Shortcut, shortcuts
from tumorlens.data.dataset import Dataset, load
from tumorlens.data.duplicates import RADIUS, SAME_DETAILS, THUMBNAIL, Pairs, find_pairs
from tumorlens.data.folder import SPLITS, refuse
from tumorlens.data.hashing import TRANSFORMS
from tumorlens.data.patients import Patients, overlaps, units
from tumorlens.data.splits import SplitFolder, resolve
from tumorlens.files import SCHEMA
from tumorlens.image_tables import Tabular
from tumorlens.progress import Progress, silent

# How a near-duplicate was made, the plainest first.
DUPLICATE_TYPES = ("exact", "re-encoded", "mirrored", "turned")

_FEWEST_FOR_SHORTCUTS = 20

# A split that is scored or that chooses, and the split that its images must not be in.
LEAKS = (("test", "train"), ("valid", "train"), ("test", "valid"))

Indices = npt.NDArray[np.int64]
Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class PatientCounts:
    """Images of one split and class whose patient is in another split too."""

    images: int  # all of them
    known: int  # those whose patient is known
    shared: int  # those whose patient the other split has
    patients: int  # how many patients that is


@dataclass(frozen=True)
class PatientOverlap:
    """`split`, which is scored or chooses, and `other`, which must not have its patients.

    `by_class` has the counts of each class of `split`, `whole` those of all classes.
    """

    split: str
    other: str
    by_class: dict[str, PatientCounts]
    whole: PatientCounts


@dataclass(frozen=True, eq=False)
class NearestDuplicates:
    """For each of T images of one split its nearest near-duplicate in another, worst first.

    Worst are conflicting labels, then byte-identical files, then the greatest similarity.
    """

    # image, duplicate: (T,) indices
    image: Indices
    duplicate: Indices
    pair: Indices  # (T,) the pair that they are
    others: Indices  # (T,) how many more near-duplicates of the image the other split has

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, eq=False)
class Audit(Tabular):
    """What `audit` found in N images."""

    root: Path  # the folder
    layout: str  # see `folder.DataFolder`; "" where the folders say nothing
    paths: tuple[str, ...]  # (N,) readable images, relative to `root`, sorted
    labels: Names  # (N,) class, "" where the folders name none
    splits: Names  # (N,) "train", "valid", "test", or "" where the folders name none
    images: npt.NDArray[np.uint8]  # (N, 96, 96) uint8 thumbnails
    pairs: Pairs  # images that show the same image
    groups: Indices  # (N,) images of one group show one image
    # properties of files and how well they predict the class, best first; empty where there are
    # fewer than two classes
    shortcuts: tuple[Shortcut, ...]
    unreadable: dict[str, str]  # path to the reason
    other_faults: tuple[str, ...]  # what else is wrong with folders and file names
    note: str = ""  # what the user should know about the cache; empty if nothing
    patients: Patients | None = None  # whom the images show; None: not known

    def table(self) -> dict[str, list[Any]]:
        """A row for each pair: `transform` is what was done to a to get b, `similarity` 0 to 1."""
        pairs = self.pairs
        ends = {"a": pairs.first, "b": pairs.second}
        return {
            **{f"path_{end}": [self.paths[index] for index in at] for end, at in ends.items()},
            "transform": pairs.transform.tolist(),
            "similarity": pairs.similarity.tolist(),
            **{f"split_{end}": self.splits[at].tolist() for end, at in ends.items()},
            **{f"label_{end}": self.labels[at].tolist() for end, at in ends.items()},
        }

    @cached_property
    def kinds(self) -> Names:
        """(P,) how each pair's copy was made, a name in `DUPLICATE_TYPES`."""
        transform = self.pairs.transform
        return np.select(
            [self.pairs.exact, transform == "identity", np.isin(transform, ["flip_lr", "flip_ud"])],
            DUPLICATE_TYPES[:3],
            default=DUPLICATE_TYPES[3],
        )

    @cached_property
    def conflicting(self) -> npt.NDArray[np.bool_]:
        """(P,) whether the two images of a pair have different labels."""
        return self._differ(self.labels)

    @cached_property
    def across(self) -> npt.NDArray[np.bool_]:
        """(P,) whether the two images of a pair are in different splits."""
        return self._differ(self.splits)

    def _differ(self, values: Names) -> npt.NDArray[np.bool_]:
        one, other = values[self.pairs.first], values[self.pairs.second]
        return np.asarray((one != other) & (one != "") & (other != ""))

    def duplicates(self, split: str, other: str) -> NearestDuplicates:
        """Images of `split` with a near-duplicate in `other`.

        Within one split (`split` equal to `other`) the duplicate comes before the image in `paths`.
        """
        first, second = self.pairs.first, self.pairs.second
        backward = (self.splits[second] == split) & (self.splits[first] == other)
        forward = (self.splits[first] == split) & (self.splits[second] == other) & (split != other)
        pair = np.concatenate([np.flatnonzero(forward), np.flatnonzero(backward)])
        image = np.concatenate([first[forward], second[backward]])
        duplicate = np.concatenate([second[forward], first[backward]])
        order = np.lexsort((image, *self._badness(pair)))
        image, at, count = np.unique(image[order], return_index=True, return_counts=True)
        pair, duplicate = pair[order][at], duplicate[order][at]
        order = np.lexsort((image, *self._badness(pair)))
        return NearestDuplicates(image[order], duplicate[order], pair[order], count[order] - 1)

    def _badness(self, pair: Indices) -> tuple[npt.NDArray[Any], ...]:
        """Keys for lexsort, the last the most important."""
        pairs = self.pairs
        return -pairs.similarity[pair], ~pairs.exact[pair], ~self.conflicting[pair]

    def leaks(self) -> Iterator[tuple[str, str, NearestDuplicates]]:
        """Splits of `LEAKS` between which there are near-duplicates, and which images those are."""
        for split, other in LEAKS:
            found = self.duplicates(split, other)
            if len(found):
                yield split, other, found

    @cached_property
    def patient_overlap(self) -> list[PatientOverlap]:
        """Splits of `LEAKS` that share patients, and how many images that is; empty: none known."""
        if self.patients is None:
            return []
        names = self.patients.names

        def counted(inside: npt.NDArray[np.bool_], other: str) -> PatientCounts:
            known = inside & (names != "")
            shared = known & np.isin(names, names[self.splits == other])
            patients = len(np.unique(names[shared]))
            return PatientCounts(int(inside.sum()), int(known.sum()), int(shared.sum()), patients)

        found = []
        for split, other in LEAKS:
            inside = self.splits == split
            whole = counted(inside, other)
            if whole.shared:
                classes = sorted(set(self.labels[inside].tolist()))
                rows = {name: counted(inside & (self.labels == name), other) for name in classes}
                found.append(PatientOverlap(split, other, rows, whole))
        return found

    def count_of(self, check: str) -> int:
        """How many there are of a check of --fail_on.

        "leak" and "patients" count images, "conflict" pairs, "unreadable" files.
        """
        if check == "patients":
            if self.patients is None:
                return 0
            shared = {one.patient for one in overlaps(self.patients.names, self.splits)}
            return int(np.isin(self.patients.names, sorted(shared)).sum())
        if check == "leak":
            return len({int(image) for *_, found in self.leaks() for image in found.image})
        return int(self.conflicting.sum()) if check == "conflict" else len(self.unreadable)

    def count_of_splits(self) -> int:
        """How many splits have images."""
        return len(set(self.splits.tolist()) - {""})

    def balance(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split."""
        counts = Counter(zip(self.splits.tolist(), self.labels.tolist(), strict=True))
        classes = sorted(set(self.labels.tolist()))
        return {
            split: {label: counts[split, label] for label in classes}
            for split in (*SPLITS, "")
            if any(counts[split, label] for label in classes)
        }

    def leak_table(self, split: str, found: NearestDuplicates) -> dict[str, dict[str, int]]:
        """By class: images of `split`, how many have a near-duplicate, and of which kind."""
        inside = self.splits == split
        return {
            label: self.leak_counts(inside & (self.labels == label), found)
            for label in sorted(set(self.labels[inside].tolist()))
        }

    def leak_counts(
        self, chosen: npt.NDArray[np.bool_], found: NearestDuplicates
    ) -> dict[str, int]:
        """Of the images `chosen`, (N,): how many, how many with a near-duplicate, of which kind."""
        kinds = self.kinds[found.pair[chosen[found.image]]]
        return {
            "images": int(chosen.sum()),
            "with_near_duplicate": len(kinds),
            **{kind: int((kinds == kind).sum()) for kind in DUPLICATE_TYPES},
        }

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        sizes, clash = np.bincount(self.groups, minlength=1), self.pairs.of(self.conflicting)
        transforms = Counter(self.pairs.transform.tolist())
        return {
            "schema": SCHEMA,
            "layout": self.layout,
            "images": len(self.paths),
            "unreadable": self.unreadable,
            "other_faults": list(self.other_faults),
            "balance": self.balance(),
            "near_duplicates": {
                "fingerprint_bits_at_most": RADIUS,
                "similarity_at_least": SAME_DETAILS,
                "pairs": len(self.pairs),
                "by_kind": {kind: int((self.kinds == kind).sum()) for kind in DUPLICATE_TYPES},
                "by_transform": {name: transforms[name] for name in TRANSFORMS},
                "within_splits": len(self.pairs) - int(self.across.sum()),
                "across_splits": int(self.across.sum()),
                "groups": int((sizes > 1).sum()),
                "images_in_groups": int(sizes[sizes > 1].sum()),
                "largest_group": int(sizes.max()),
            },
            "leaks": [
                {
                    "split": split,
                    "in": other,
                    **self.leak_counts(self.splits == split, found),
                    "by_class": self.leak_table(split, found),
                }
                for split, other, found in self.leaks()
            ],
            "patients": self._patient_facts(),
            "conflicts": [
                {
                    "paths": [self.paths[one], self.paths[other]],
                    "labels": [str(self.labels[one]), str(self.labels[other])],
                    "transform": str(transform),
                    "similarity": round(float(value), 4),
                }
                for one, other, transform, value in zip(
                    clash.first, clash.second, clash.transform, clash.similarity, strict=True
                )
            ],
            "shortcuts": [asdict(shortcut) for shortcut in self.shortcuts],
        }

    def _patient_facts(self) -> dict[str, Any] | None:
        if self.patients is None:
            return None
        names = self.patients.names
        return {
            "source": self.patients.source,
            "patients": len(set(names.tolist()) - {""}),
            "images_of_known_patients": int((names != "").sum()),
            "patients_in_several_splits": len(overlaps(names, self.splits)),
            "overlap": [
                {
                    "split": one.split,
                    "in": one.other,
                    **asdict(one.whole),
                    "by_class": {label: asdict(row) for label, row in one.by_class.items()},
                }
                for one in self.patient_overlap
            ],
        }


def audit(source: SplitFolder | Path, progress: Progress = silent) -> Audit:
    """Look for what is wrong with a folder of images.

    Args:
        source: any folder with images in it, with its splits and patients or as its folders say.

    Raises:
        TumorlensError: no such folder, no image in it, a splits file that lists what the folder has
            not, or a patients table that knows none of the images.
    """
    source = resolve(source, every_file=True) if isinstance(source, Path) else source
    folder = source.folder
    refuse(folder.root, source.missing_faults)
    data = load(source, THUMBNAIL, progress=progress)
    labels = np.array([data.classes[label] for label in data.labels], dtype=np.str_)
    splits = np.where(data.splits == "all", "", data.splits)
    pairs = find_pairs(data.images, data.fingerprints, data.digests, splits, progress)
    groups = pairs.groups(len(labels))
    unused = folder.unused_sentence(faults=False)
    return Audit(
        root=folder.root,
        layout=folder.layout,
        paths=data.paths,
        labels=labels,
        splits=splits,
        images=data.images,
        pairs=pairs,
        groups=groups,
        shortcuts=_shortcuts(data, labels, groups),
        unreadable=data.skipped,
        other_faults=(*folder.faults, *([unused] if unused else [])),
        note=" ".join(filter(None, (source.note, data.note))),
        patients=data.patients,
    )


def _shortcuts(data: Dataset, labels: Names, groups: Indices) -> tuple[Shortcut, ...]:
    named = np.flatnonzero(labels != "")
    classes, indices = np.unique(labels[named], return_inverse=True)
    if len(classes) < 2 or len(named) < _FEWEST_FOR_SHORTCUTS:
        return ()
    return shortcuts(
        data.images[named] if len(named) < len(labels) else data.images,
        [data.facts[index] for index in named],
        indices.astype(np.int64),
        classes.tolist(),
        units(groups, data.patients)[named],
    )
