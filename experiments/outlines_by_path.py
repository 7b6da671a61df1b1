"""The published outlines of the public set's slices, by file: what `train --outlines` takes.

    python experiments/outlines_by_path.py DATA OUT.csv

DATA is the folder with annotations_training.csv (path, slice, mirrored) and outlines_training.csv
(slice, outline), made from the Cheng 2017 figshare set (CC BY 4.0).
"""

import argparse
import csv
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    with (asked.data / "outlines_training.csv").open(encoding="utf-8") as file:
        outlines = {row["slice"]: row["outline"] for row in csv.DictReader(file)}
    with (asked.data / "annotations_training.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["slice"] in outlines]
    with asked.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "outline"])
        writer.writerows(
            [row["path"], shown(outlines[row["slice"]], row["mirrored"] == "1")] for row in rows
        )
    print(f"{len(rows)} outlines: {asked.out}")


def shown(outline: str, mirrored: bool) -> str:
    """An outline in the file's own orientation."""
    points = [tuple(map(float, point.split(","))) for point in outline.split()]
    inside = [(min(max(1 - x if mirrored else x, 0), 1), min(max(y, 0), 1)) for x, y in points]
    return " ".join(f"{x:.4f},{y:.4f}" for x, y in inside)


if __name__ == "__main__":
    main()
