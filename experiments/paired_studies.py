"""What does one setting more change on the same folds, paired over patients?

    python experiments/paired_studies.py OUT.json none=STUDY_DIR NAME=STUDY_DIR ...

Each STUDY_DIR is the result folder of `study --protocol patients` with one setting other than that
of `none`; what both have of networks and folds is compared. What is compared was written down
before any was run; no test person chose among them.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bias_methods import of_network
from tumorlens.comparison.run_files import RunFiles, finished_runs
from tumorlens.files import write_json
from tumorlens.studies.run import code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("studies", nargs="+", help="none=DIR NAME=DIR ...")
    asked = parser.parse_args()
    folders = dict(one.split("=", 1) for one in asked.studies)
    if "none" not in folders:
        parser.error("one of the studies is none=DIR, the network as it is.")
    runs = {method: finished_runs(Path(folder)) for method, folder in folders.items()}
    found: dict[str, Any] = {}
    for model in sorted({run.model for run in runs["none"]}):
        by_method = {
            "as it is" if method == "none" else method: {
                run.fold: run.predictions() for run in every if run.model == model
            }
            for method, every in runs.items()
        }
        shared = sorted(set.intersection(*(set(one) for one in by_method.values())))
        folds = [of_fold({name: one[fold] for name, one in by_method.items()}) for fold in shared]
        settings = {method: setting(every, model) for method, every in runs.items()}
        found[model] = {"folds": shared, "settings": settings, **of_network(folds)}
    write_json(asked.out, {"what": __doc__.splitlines()[0], **code(), "networks": found})


def of_fold(by_method: dict[str, Any]) -> dict[str, Any]:
    """Probabilities of a fold's test images by each method, and whom they show."""
    plain = by_method["as it is"]
    for name, one in by_method.items():
        if one.paths != plain.paths:
            raise SystemExit(f"{name}: other test images than none's.")
    return {
        "methods": {name: one.probabilities for name, one in by_method.items()},
        "labels": plain.labels,
        "units": plain.units,
        "sites": np.array(plain.sites),
    }


def setting(runs: list[RunFiles], model: str) -> dict[str, Any]:
    """What a study trained with, of what these studies differ in or share."""
    names = ("recipe", "epochs", "image_size", "loss", "balance", "balance_exponent", "precision")
    training = next(run.record["training"] for run in runs if run.model == model)
    return {name: training.get(name) for name in names}


if __name__ == "__main__":
    main()
