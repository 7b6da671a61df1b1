"""Write every prediction of the bundled networks on a simulated data set, in full precision.

    python experiments/regression_snapshot.py before.json
    ... change the code ...
    python experiments/regression_snapshot.py after.json && cmp before.json after.json

On one machine two snapshots are the same bytes exactly if no number has changed by a single bit.
Only the command line and the files it writes are used, so that modules and JSON keys may be
renamed in between. A snapshot holds:

    predictions  of each network, by image: the probability of each class, in the order of `classes`
    sha256       of each network: over these probabilities as little-endian float64, images sorted
    numbers      of each command: every distinct fraction in its JSON files, sorted, without keys
"""

import csv
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tumorlens.cli import main

NETWORKS = ("resnet18", "se_resnet18")
RUN_TWICE_THE_SAME = ("--device", "cpu", "--threads", "1")


def snapshot(folder: Path) -> dict[str, Any]:
    """Run the commands in the empty `folder`; return what the module's docstring lists."""
    data = folder / "data"
    run("phantom", "--out", data, "--train", 4, "--valid", 2, "--test", 6, "--size", 128)
    argv = ("--data_dir", data, "--resamples", 200, *RUN_TWICE_THE_SAME)
    for network in NETWORKS:
        run("evaluate", "--checkpoint", network, *argv, "--out_dir", folder / network)
    compared = [folder / network for network in NETWORKS]
    run("compare", *compared, "--resamples", 200, "--out_dir", folder / "compare")
    run(
        *("gradcam", "--checkpoint", "se_resnet18", *argv, "--boxes", data / "masks"),
        *("--count", 4, "--out_dir", folder / "gradcam"),
    )
    run("audit", data, "--out_dir", folder / "audit")
    predictions = {network: read_predictions(folder / network) for network in NETWORKS}
    columns = sorted(next(iter(predictions["resnet18"].values())))
    rows = {
        network: {image: [row[name] for name in columns] for image, row in sorted(found.items())}
        for network, found in predictions.items()
    }
    return {
        "classes": [name.removeprefix("prob_") for name in columns],
        "sha256": {
            network: hashlib.sha256(np.array(list(found.values()), "<f8").tobytes()).hexdigest()
            for network, found in rows.items()
        },
        "predictions": rows,
        "numbers": {
            command: numbers(folder / command)
            for command in (*NETWORKS, "compare", "gradcam", "audit")
        },
    }


def run(*argv: object) -> None:
    """Run one command; end where it fails."""
    words = [str(word) for word in argv]
    status = main(words)
    if status:
        raise SystemExit(f"tumorlens {' '.join(words)}: exit status {status}")


def read_predictions(folder: Path) -> dict[str, dict[str, float]]:
    """Return the probabilities by image: the first column, and those named prob_CLASS."""
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        next(iter(row.values())): {
            name: float(text) for name, text in row.items() if name.startswith("prob_")
        }
        for row in rows
    }


def numbers(folder: Path) -> list[float]:
    """Return the distinct fractions in the folder's JSON files; counts and settings are whole."""
    contents = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("*.json")
        if path.name != "manifest.json"
    ]
    return sorted({number for content in contents for number in fractions(content)})


def fractions(content: object) -> Iterator[float]:
    """Yield the floating-point numbers inside a JSON value."""
    if isinstance(content, float):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from fractions(value)
    elif isinstance(content, list):
        for value in content:
            yield from fractions(value)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        os.environ["TUMORLENS_CACHE"] = str(Path(name) / "cache")
        made = snapshot(Path(name))
    Path(sys.argv[1]).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for network, digest in made["sha256"].items():
        print(f"{network}: {digest}")
