"""Is how bright a slice is enough to tell its tumor, and do the networks go by it?

    python benchmarks/brightness_shortcut.py DATA_DIR [STUDY_DIR]

Brightness is the mean grey value of the pixels above 8% of white, in a square of 96 pixels. Over
the annotated training slices, each once: how well it tells glioma from meningioma (AUROC), in all
and in each run of patients. Over the finished fold runs of STUDY_DIR (default: results/study) with
seed 0: recall of the two classes in each quarter of brightness, and how many are taken for the
other. Writes results/patients/brightness.json, .csv and .png.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from machine import facts
from tumorlens.data.public_folds import public_map
from tumorlens.data.readers import fit_square, read_grey
from tumorlens.comparison.text import title
from tumorlens.evaluation.plots import COLOURS, save
from tumorlens.comparison.run_files import RunFiles, read_study
from tumorlens.files import csv_text, write_json, write_text

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "patients"
PAIR = ("glioma", "meningioma")
DARK = 0.08 * 255
Row = dict[str, Any]


def brightness(path: Path) -> float:
    """Mean grey value of the head, 0..1."""
    square = fit_square(read_grey(path), 96)
    return float(square[square > DARK].mean() / 255)


def alone(found: dict[str, tuple[str, int, float]]) -> dict[str, float]:
    """AUROC of brightness, of meningioma against glioma: in all, and in each run.

    Args:
        found: class, run and brightness of each slice.
    """
    runs = sorted({run for _, run, _ in found.values()})
    chosen = {"all": runs} | {str(run): [run] for run in runs}
    areas = {}
    for name, wanted in chosen.items():
        rows = [
            (label == PAIR[1], bright) for label, run, bright in found.values() if run in wanted
        ]
        areas[name] = round(float(roc_auc_score(*zip(*rows, strict=True))), 3)
    return areas


def by_quarter(runs: list[RunFiles], bright: dict[str, float]) -> list[Row]:
    """A row a network, class and quarter of its test slices, darkest first."""
    rows: list[Row] = []
    for model in sorted({run.model for run in runs}):
        answers = [run.predictions() for run in runs if run.model == model]
        for label in PAIR:
            other = PAIR[PAIR.index(label) - 1]
            mine: list[tuple[float, str]] = []
            for one in answers:
                said = one.probabilities.argmax(axis=1)
                mine += [
                    (bright[path], one.classes[said[at]])
                    for at, path in enumerate(one.paths)
                    if one.classes[one.labels[at]] == label and path in bright
                ]
            values: npt.NDArray[np.float64] = np.array([value for value, _ in mine])
            edges = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
            quarter = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, 3)
            for number in range(4):
                inside = [said for (_, said), of in zip(mine, quarter, strict=True) if of == number]
                rows.append(
                    {
                        "model": model,
                        "class": label,
                        "quarter": number + 1,
                        "from": round(float(edges[number]), 3),
                        "to": round(float(edges[number + 1]), 3),
                        "n": len(inside),
                        "recall": round(inside.count(label) / len(inside), 3),
                        "taken_for_the_other": round(inside.count(other) / len(inside), 3),
                    }
                )
    return rows


def drawn(areas: dict[str, float], rows: list[Row]) -> Figure:
    """Left: brightness alone, run by run. Right: recall by quarter of brightness."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, *right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    left.bar(list(areas), list(areas.values()), color=["#444444", *["#999999"] * (len(areas) - 1)])
    left.axhline(0.5, color="black", linestyle=":", linewidth=1)
    left.set_ylim(0, 1)
    left.set_xlabel("run of patients")
    left.set_title("AUROC of brightness alone,\nmeningioma against glioma", fontsize=9)
    for axes, label in zip(right, PAIR, strict=True):
        for index, model in enumerate(("resnet18", "se_resnet18")):
            mine = [row for row in rows if row["model"] == model and row["class"] == label]
            axes.plot(
                [row["quarter"] for row in mine],
                [row["recall"] for row in mine],
                "os"[index] + "-",
                color=COLOURS[index],
                label=title(model),
            )
        axes.set_ylim(0, 1.02)
        axes.set_xticks([1, 2, 3, 4], ["darkest\nquarter", "2", "3", "brightest\nquarter"])
        axes.set_title(f"{label} recall, patients apart", fontsize=9)
        axes.grid(axis="y", color="#dddddd")
    right[0].legend(fontsize=8, loc="lower left")
    return figure


def main(data: Path, study: Path) -> None:
    """Measure, and write the files."""
    known = public_map()
    labelled = {
        path: (slice_.split("-")[0], run, slice_)
        for path, slice_, run in zip(known.paths, known.slices, known.runs, strict=True)
        if slice_ and run >= 0 and slice_.split("-")[0] in PAIR and (data / path).is_file()
    }
    bright = {path: brightness(data / path) for path in labelled}
    once = {slice_: (label, run, bright[path]) for path, (label, run, slice_) in labelled.items()}
    runs = [run for run in read_study(study) if run.protocol == "folds" and run.seed == 0]
    areas, rows = alone(once), by_quarter(runs, bright)
    write_json(
        OUT / "brightness.json",
        {
            "command": "python benchmarks/brightness_shortcut.py DATA_DIR",
            "slices": len(once),
            "auroc_of_brightness_alone": areas,
            "quarters": rows,
            "runs": [run.name for run in runs],
            "machine": facts(),
        },
    )
    write_text(
        OUT / "brightness.csv", csv_text(list(rows[0]), [list(row.values()) for row in rows])
    )
    save(drawn(areas, rows), OUT / "brightness.png")
    print(json.dumps(areas))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "results" / "study")
