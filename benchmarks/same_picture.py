"""Where copies end and neighbouring slices begin: the metrics behind the audit's thresholds.

    python benchmarks/near_duplicates.py ../shared/data/brain-tumor-mri \
        ../shared/data/annotations_training.csv

Writes results/audit/near_duplicates.json: recall and precision of fingerprints alone by distance,
on the annotated pairs; how well details of copies and of other near candidates agree; and how far
re-encoding, shrinking and changes of contrast move an image from itself.
"""

import csv
import io
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from machine import facts
from tumorlens.data import cache
from tumorlens.data.duplicates import THUMBNAIL, candidates, details, similarity
from tumorlens.data.hashing import TRANSFORMS, fingerprint
from tumorlens.data.readers import fit_square, read_grey, resize
from tumorlens.files import write_json

RESULT = Path(__file__).parents[1] / "results" / "audit" / "near_duplicates.json"
PICTURES = 80
WIDEST = 40  # bits


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("L"))


def _half(image: np.ndarray) -> np.ndarray:
    return resize(image, image.shape[0] // 2, image.shape[1] // 2)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


CHANGES = {
    "JPEG quality 40": lambda image: _jpeg(image, 40),
    "half the size": _half,
    "half the size, JPEG quality 40": lambda image: _jpeg(_half(image), 40),
    "40 grey levels brighter": lambda image: _grey(image + 40.0),
    "grey levels times 1.4": lambda image: _grey(image * 1.4),
    "grey levels times 1.8": lambda image: _grey(image * 1.8),
    "gamma 0.6": lambda image: _grey(255 * (image / 255) ** 0.6),
    "gamma 1.6": lambda image: _grey(255 * (image / 255) ** 1.6),
    "half, brighter, JPEG quality 40": lambda image: _jpeg(_grey(_half(image) * 1.2 + 20), 40),
}


def alone(distance: np.ndarray, same: np.ndarray, total: int) -> dict[str, dict[str, float]]:
    table = {}
    for bits in (3, 5, 7, 8, 9, 10, 11, 13, 15, 20, 25, 30):
        found = distance <= bits
        table[str(bits)] = {
            "recall": round(float((found & same).sum() / total), 4),
            "precision": round(float((found & same).sum() / found.sum()), 4),
        }
    return table


def moved(root: Path, paths: list[str]) -> dict[str, dict[str, float]]:
    images = [read_grey(root / path) for path in paths]
    table = {}
    for name, change in CHANGES.items():
        changed = [change(image) for image in images]
        both = [fit_square(image, THUMBNAIL) for image in (*images, *changed)]
        seen = details(np.stack(both))
        first = np.arange(len(images))
        agree = similarity(seen, first, first + len(images), "identity")
        bits = [
            int(np.unpackbits(fingerprint(one) ^ fingerprint(other)).sum())
            for one, other in zip(images, changed, strict=True)
        ]
        table[name] = {
            "bits_median": float(np.median(bits)),
            "bits_most": max(bits),
            "details_median": round(float(np.median(agree)), 4),
            "details_least": round(float(agree.min()), 4),
        }
    return table


def main(root: Path, annotations: Path) -> None:
    began = time.perf_counter()
    with annotations.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["slice"]]
    cached = cache.load(root, [row["path"] for row in rows], THUMBNAIL)
    slices = np.array([row["slice"] for row in rows])
    total = sum(count * (count - 1) // 2 for count in Counter(slices.tolist()).values())
    found = candidates(cached.fingerprints, WIDEST)
    seen = details(cached.images)
    agree = np.zeros(len(found.first))
    for code, name in enumerate(TRANSFORMS):
        mine = found.transform == code
        agree[mine] = similarity(seen, found.first[mine], found.second[mine], name)
    # A pair may be near under two transforms; its nearest counts.
    order = np.lexsort((found.distance, found.second, found.first))
    pairs = np.stack([found.first, found.second], axis=1)[order]
    nearest = order[np.unique(pairs, axis=0, return_index=True)[1]]
    same = slices[found.first] == slices[found.second]
    drawn = np.random.default_rng(0).choice(len(rows), PICTURES, replace=False)
    write_json(
        RESULT,
        {
            "command": "python benchmarks/near_duplicates.py ../shared/data/brain-tumor-mri "
            "../shared/data/annotations_training.csv",
            **facts(),
            "minutes": round((time.perf_counter() - began) / 60, 1),
            "runs": 1,
            "annotated_images": len(rows),
            "same_slice_pairs": total,
            "fingerprints_alone_by_bits": alone(found.distance[nearest], same[nearest], total),
            "details": {
                "candidates_within_bits": WIDEST,
                "same_slice": _spread(agree[nearest][same[nearest]]),
                "other_slices": _spread(agree[~same]),
            },
            "a_picture_and_itself_changed": {
                "images": PICTURES,
                "changes": moved(root, [rows[index]["path"] for index in drawn]),
            },
        },
    )
    print(RESULT.read_text())


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "pairs": len(values),
        "least": round(float(values.min()), 4),
        "median": round(float(np.median(values)), 4),
        "most": round(float(values.max()), 4),
    }


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:  # `make bench` runs all benchmarks, and not everybody has the data
        print(__doc__)
