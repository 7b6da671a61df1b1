"""What everyday changes of display cost each run of a study, on its own test images.

    python experiments/stress_of_study.py RUNS_DIR DATA OUT.json

RUNS_DIR has a folder a run with best_model.pt, as `study` leaves them. Every fourth test image of
each class is scored as it is and under each change at the highest everyday grade. Nothing is chosen
by these images.
"""

import argparse
from pathlib import Path

import torch

from tumorlens.checkpoint.session import ImageChoice, open_session
from tumorlens.evaluation.evaluate import predictions_of
from tumorlens.evaluation.stress import stress
from tumorlens.files import write_json
from tumorlens.studies.run import code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for folder in sorted(path.parent for path in asked.runs.glob("*/best_model.pt")):
        session = open_session(
            folder / "best_model.pt", ImageChoice(asked.data, "test"), device=torch.device("cpu")
        )
        found[folder.name] = stress(session, predictions_of(session), quick=True).to_dict()
        worst = found[folder.name]["worst_everyday"]
        print(folder.name, found[folder.name]["unchanged"]["value"], worst, flush=True)
        write_json(
            asked.out,
            {
                "what": "accuracy under everyday changes of display, every fourth test image",
                **code(),
                "runs": found,
            },
        )


if __name__ == "__main__":
    main()
