"""How the audit's search grows: planted copies among 10^4 to 10^5 random fingerprints.

    python benchmarks/fingerprint_scale.py [--largest 100000]

Writes results/audit/fingerprint_scale.json: seconds by the clock and of processors, peak memory and
recall for each size, each in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from machine import facts
from tumorlens.data.duplicates import candidates
from tumorlens.data.hashing import TRANSFORMS, transformed
from tumorlens.files import write_json

RESULT = Path(__file__).parents[1] / "results" / "audit" / "fingerprint_scale.json"
SIZES = (10_000, 30_000, 100_000)
PLANTED_SHARE = 0.01
FARTHEST = 15  # bits: from a copy re-saved without loss to one of strongly changed contrast


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random fingerprints of which the last hundredth are copies, turned, 0 to 15 bits off."""
    rng = np.random.default_rng(seed)
    copies = int(count * PLANTED_SHARE)
    prints = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    source = rng.permutation(count - copies)[:copies]
    code = rng.integers(0, len(TRANSFORMS), copies)
    distance = rng.integers(0, FARTHEST + 1, copies)
    for number, name in enumerate(TRANSFORMS):
        mine = np.flatnonzero(code == number)
        prints[count - copies + mine] = transformed(prints[source[mine]], name)
    for row, bits in enumerate(distance):
        off = np.zeros(256, dtype=np.uint8)
        off[rng.choice(256, bits, replace=False)] = 1
        prints[count - copies + row] ^= np.packbits(off)
    return prints, source, code, distance


def one(count: int) -> None:
    prints, source, code, _ = planted(count, seed=0)
    began, began_processors = time.perf_counter(), time.process_time()
    found = candidates(prints)
    seconds = time.perf_counter() - began
    processors = time.process_time() - began_processors
    listed = set(
        zip(found.first.tolist(), found.second.tolist(), found.transform.tolist(), strict=True)
    )
    first = count - len(source)
    true = {
        (int(a), first + row, int(b)) for row, (a, b) in enumerate(zip(source, code, strict=True))
    }
    print(
        json.dumps(
            {
                "fingerprints": count,
                "planted": len(true),
                "seconds": round(seconds, 2),
                "processor_seconds": round(processors, 2),
                "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "recall": len(true & listed) / len(true),
                "pairs_found_that_were_not_planted": len(listed - true),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        one(chosen.one)
        return
    began = time.perf_counter()
    rows = []
    for count in (size for size in SIZES if size <= chosen.largest):
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count)],
            check=True,
            capture_output=True,
            text=True,
        )
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    logs = np.log([[row["fingerprints"], row["processor_seconds"]] for row in rows[-3:]])
    growth = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    write_json(
        RESULT,
        {
            "command": "python benchmarks/fingerprint_scale.py",
            **facts(),
            "minutes": round((time.perf_counter() - began) / 60, 1),
            "runs": 1,
            "what": "candidates(): pairs within 32 bits under 8 transforms; planted copies are 0 "
            f"to {FARTHEST} bits off; fingerprints are random",
            "rows": rows,
            "processor_seconds_grow_as_n_to_the": round(growth, 2),
        },
    )


if __name__ == "__main__":
    main()
