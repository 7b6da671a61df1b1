"""Write src/tumorlens/data/public_patients.csv from the public set and its table of patients.

    python experiments/make_public_patients.py ../shared/data/patients.csv \
        ../shared/data/brain-tumor-mri

Facts about files alone: no image can be seen from them.
"""

import csv
import io
import sys
from pathlib import Path

from tumorlens.data import cache
from tumorlens.files import write_text

TARGET = Path(__file__).parents[1] / "src" / "tumorlens" / "data" / "public_patients.csv"
COLUMNS = {
    "hash": "hash",
    "path": "path",
    "patient": "person",
    "examination": "exam",
    "site": "site",
    "plane": "plane",
    "group": "group",
    "run": "run",
    "fold": "fold",
}


def main(patients: Path, root: Path) -> None:
    with patients.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cached = cache.load(root, [row["path"] for row in rows], 32)
    if cached.faults:
        raise SystemExit(f"undecodable: {cached.faults}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, fingerprint in zip(rows, cached.fingerprints, strict=True):
        row["hash"] = fingerprint.tobytes().hex()
        writer.writerow([row[source] for source in COLUMNS.values()])
    write_text(TARGET, text.getvalue())
    print(f"{TARGET}: {len(rows)} rows, {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
