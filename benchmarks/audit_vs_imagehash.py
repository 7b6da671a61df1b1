"""The audit against imagehash's phash with all pairs within 4 bits, in one run, on one data set.

    pip install ImageHash
    python benchmarks/audit_vs_imagehash.py ../shared/data/brain-tumor-mri \
        ../shared/data/annotations_training.csv

Each in a process of its own, start-up included, in turn, three times. True pairs are the annotated
ones: training images that show the same slice. Writes results/audit/audit_vs_imagehash.json.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np

from machine import facts
from tumorlens.files import write_json

RESULT = Path(__file__).parents[1] / "results" / "audit" / "audit_vs_imagehash.json"
ROUNDS = 3
PEER_BITS = 4


def peer(root: Path, out: Path, threads: int) -> None:
    """imagehash as its README uses it; with 2 threads as fast as it goes on two cores."""
    import imagehash  # noqa: PLC0415 - the other process has no need of it
    from PIL import Image  # noqa: PLC0415

    paths = sorted(root.rglob("*.jpg"))

    def phash(path: Path) -> np.ndarray:
        return imagehash.phash(Image.open(path)).hash.ravel()

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            hashes = list(pool.map(phash, paths))
    else:
        hashes = [phash(path) for path in paths]
    words = np.packbits(np.stack(hashes), axis=1).view(np.uint64).ravel()
    names = [path.relative_to(root).as_posix() for path in paths]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path_a", "path_b"])
        for row in range(len(words)):
            near = np.flatnonzero(np.bitwise_count(words[row] ^ words[row + 1 :]) <= PEER_BITS)
            writer.writerows((names[row], names[row + 1 + other]) for other in near)


def timed(command: list[str], cache: str) -> tuple[float, float]:
    """Seconds and peak MiB of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, "TUMORLENS_CACHE": cache}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def decided(pairs_csv: Path, rows: dict[str, dict[str, str]]) -> dict[str, float]:
    same_slice = defaultdict(list)
    for path, row in rows.items():
        if row["slice"]:
            same_slice[row["slice"]].append(path)
    true = {pair for paths in same_slice.values() for pair in combinations(sorted(paths), 2)}
    with pairs_csv.open(newline="") as file:
        found = list(csv.DictReader(file))
    named = {
        tuple(sorted((row["path_a"], row["path_b"]))): row
        for row in found
        if all(rows.get(row[side], {}).get("slice") for side in ("path_a", "path_b"))
    }
    hits = true & set(named)
    record = {
        "pairs_found": len(found),
        "pairs_among_annotated": len(named),
        "same_slice_pairs": len(true),
        "recall": round(len(hits) / len(true), 4),
        "precision": round(len(hits) / max(1, len(named)), 4),
    }
    if "transform" in found[0]:
        right = sum(
            named[one, other]["transform"]
            == ("flip_lr" if rows[one]["mirrored"] != rows[other]["mirrored"] else "identity")
            for one, other in hits
        )
        record["transform_right"] = round(right / len(hits), 4)
    return record


def main(root: Path, annotations: Path) -> None:
    with annotations.open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    began = time.perf_counter()
    seconds: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for number in range(ROUNDS):
            cache, out = str(place / f"cache{number}"), place / f"out{number}"
            ours = [sys.executable, "-m", "tumorlens", "audit", str(root), "--out_dir"]
            theirs = [sys.executable, __file__, "--peer", str(root)]
            for name, command in {
                "imagehash": [*theirs, str(place / "peer.csv"), "1"],
                "imagehash, 2 threads": [*theirs, str(place / "peer.csv"), "2"],
                "audit, first run": [*ours, str(out)],
                "audit, from cache": [*ours, str(out)],
            }.items():
                took, peak = timed(command, cache)
                seconds[name].append(round(took, 2))
                memory[name] = max(memory[name], round(peak))
                print(f"{name}: {took:.1f} s, {peak:.0f} MiB", flush=True)
        quality = {
            "imagehash": decided(place / "peer.csv", rows),
            "audit": decided(place / "out0" / "pairs.csv", rows),
        }
    median = {name: statistics.median(values) for name, values in seconds.items()}
    write_json(
        RESULT,
        {
            "command": "python benchmarks/audit_vs_imagehash.py ../shared/data/brain-tumor-mri "
            "../shared/data/annotations_training.csv",
            **facts(),
            "minutes": round((time.perf_counter() - began) / 60, 1),
            "runs": ROUNDS,
            "images": len(list(root.rglob("*.jpg"))),
            "what": "seconds of a whole process, start-up, decoding and all files written "
            f"included; imagehash: phash (64 bits), all pairs within {PEER_BITS} bits",
            "seconds": seconds,
            "median_seconds": median,
            "peak_MiB": memory,
            "first_run_over_imagehash": round(median["audit, first run"] / median["imagehash"], 2),
            "from_cache_over_imagehash": round(
                median["audit, from cache"] / median["imagehash"], 2
            ),
            "quality": quality,
        },
    )
    print(json.dumps(quality, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    elif len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:  # `make bench` runs all benchmarks, and not everybody has the data
        print(__doc__)
