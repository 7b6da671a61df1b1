"""Write src/tumorlens/data/public_folds.csv from the annotated public set.

    python benchmarks/make_public_folds.py ../shared/data/annotations_training.csv \
        ../shared/data/brain-tumor-mri

Facts about files alone: no picture, no box.
"""

import csv
import io
import sys
from pathlib import Path

from tumorlens.data import cache
from tumorlens.output_folder import write_text

TARGET = Path(__file__).parents[1] / "src" / "tumorlens" / "data" / "public_folds.csv"
COLUMNS = ["fingerprint", "path", "slice", "mirrored", "group", "fold", "run"]


def main(annotations: Path, root: Path) -> None:
    with annotations.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cached = cache.load(root, [row["path"] for row in rows], 32)
    if cached.faults:
        raise SystemExit(f"undecodable: {cached.faults}")
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row, fingerprint in zip(rows, cached.fingerprints, strict=True):
        writer.writerow({**row, "fingerprint": fingerprint.tobytes().hex()})
    write_text(TARGET, text.getvalue())
    print(f"{TARGET}: {len(rows)} rows, {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:  # among the benchmarks, which `make bench` runs one after the other
        print(__doc__)
