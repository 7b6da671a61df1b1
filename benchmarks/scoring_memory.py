"""Peak memory and processor time of scoring 10,000 images, and of comparing two networks on them.

    python benchmarks/scoring_memory.py [--before COMMIT]

Writes results/speed/scoring_memory.json: each measurement in a process of its own, of this tree
and, where a commit is named, of the sources at that commit. Predictions are synthetic.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np

from machine import facts

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "speed" / "scoring_memory.json"
IMAGES = 10_000
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
RESAMPLES = {"evaluate": 2000, "compare": 500}


def synthetic(seed: int):
    """10,000 predictions, three in four right, of 1,500 patients; one image in three is a copy."""
    from tumorlens.evaluation.predictions import Predictions  # noqa: PLC0415 (of the tree measured)

    world, network = np.random.default_rng(0), np.random.default_rng(seed)
    labels = world.integers(0, len(CLASSES), IMAGES)
    probabilities = network.dirichlet(np.ones(len(CLASSES)), IMAGES)
    probabilities[np.arange(IMAGES), labels] += network.random(IMAGES)
    return Predictions(
        source=f"network {seed}",
        classes=CLASSES,
        paths=tuple(f"{index}.png" for index in range(IMAGES)),
        labels=labels,
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        duplicates=world.choice(["", "", "", "", "near", "exact"], IMAGES),
        groups=tuple(map(str, range(IMAGES))),
        patients=tuple(f"p{index}" for index in world.integers(0, 1500, IMAGES)),
        sites=tuple(world.choice(["north", "south"], IMAGES).tolist()),
    )


def work(what: str) -> float:
    """Score or compare; the accuracy or its difference, the same before and after."""
    from tumorlens.comparison.compare import Pair, compare  # noqa: PLC0415
    from tumorlens.evaluation.scores import score  # noqa: PLC0415
    from tumorlens.evaluation.subgroups import recall_by  # noqa: PLC0415

    one = synthetic(1)
    if what == "compare":
        pair = Pair(one, synthetic(2))
        found = compare([pair], ("A", "B"), resamples=RESAMPLES[what])
        return found.differences["auroc_glioma"].value
    recall_by(one, one.sites, resamples=RESAMPLES[what])
    scores = score(one, resamples=RESAMPLES[what])
    return scores.all.metrics["ece"].high


def measured(what: str) -> None:
    began = time.process_time()
    value = work(what)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = round(time.process_time() - began, 1)
    print(json.dumps({"peak_MiB": round(peak), "processor_seconds": seconds, "value": value}))


def rows(source: Path, name: str) -> list[dict[str, object]]:
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    found = []
    for what, resamples in RESAMPLES.items():
        done = subprocess.run(
            [sys.executable, __file__, "--one", what],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        found.append({"what": what, "sources": name, "resamples": resamples})
        found[-1] |= json.loads(done.stdout)
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", help="also measure the sources at this commit")
    parser.add_argument("--one", choices=RESAMPLES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        measured(chosen.one)
        return
    began = time.monotonic()
    found = []
    command = "python benchmarks/scoring_memory.py"
    if chosen.before:
        command += f" --before {chosen.before}"
        archive = subprocess.run(
            ["git", "archive", chosen.before, "src"], cwd=ROOT, check=True, capture_output=True
        ).stdout
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=BytesIO(archive)) as packed:
                packed.extractall(folder, filter="data")
            found += rows(Path(folder) / "src", chosen.before)
    found += rows(ROOT / "src", "this commit")
    from tumorlens.files import write_json  # noqa: PLC0415 (parent and child start small)

    RESULT.parent.mkdir(parents=True, exist_ok=True)
    about = facts()
    about["load_of_the_last_minute"] = f"{os.getloadavg()[0]:.1f} (1.0 is this benchmark alone)"
    write_json(
        RESULT,
        {
            "command": command,
            **about,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "what": f"{IMAGES} synthetic predictions of {len(CLASSES)} classes: `evaluate` is "
            "score() and recall_by() of one network, `compare` is compare() of two; peak of the "
            "process (ru_maxrss), one thread",
            "rows": found,
        },
    )


if __name__ == "__main__":
    main()
