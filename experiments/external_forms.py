"""Gliomas of other scanners in three display forms: how many does a checkpoint find in each?

    python experiments/external_forms.py EXTERNAL OUT.json --checkpoint A.pt [B.pt ...]

EXTERNAL has test/glioma/*.png (each slice scaled to its 99.5th percentile), manifest.csv (path,
patient, timepoint, z) and, of some people, volumes/PATIENT_TIMEPOINT.nii.gz: TCIA collection
Brain-Tumor-Progression (doi 10.7937/K9/TCIA.2018.15quzvnb), CC BY 3.0. The forms: the PNG as it is;
the same slice of the volume scaled to its highest value; the slice as `predict` shows it, one scale
a volume. All slices are scored as PNG, those with a volume in the three forms. Nothing is chosen by
these images.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from tumorlens.checkpoint.file import load
from tumorlens.checkpoint.session import describe
from tumorlens.data.readers import fit_square, read_grey
from tumorlens.data.volumes import read
from tumorlens.evaluation.intervals import share_estimate
from tumorlens.files import write_json
from tumorlens.studies.run import code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("external", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", nargs="+", required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with (asked.external / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    forms, people = images_of(asked.external, rows)
    found = {short(name): scored(name, forms, people) for name in asked.checkpoint}
    write_json(
        asked.out,
        {
            "what": "recall of gliomas of other scanners, by display form; intervals over people",
            "images": {form: len(images) for form, images in forms.items()},
            "people": {form: len(set(people[form])) for form in forms},
            **code(),
            "checkpoints": found,
        },
    )


def short(name: str) -> str:
    """A bundled network's name, a file's, or that of a run's folder."""
    path = Path(name)
    return path.parent.name if path.name == "best_model.pt" else path.stem


def images_of(
    external: Path, rows: list[dict[str, str]]
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[str]]]:
    """Form to grey images, and to the person of each."""
    volumes: dict[str, np.ndarray] = {}
    names = ("png_all", "png", "slice_by_maximum", "nifti_by_predict")
    forms: dict[str, list[np.ndarray]] = {name: [] for name in names}
    people: dict[str, list[str]] = {name: [] for name in names}
    for row in rows:
        png = read_grey(external / row["path"])
        shown = {"png_all": png}
        volume = f"{row['patient'].lower().replace('-', '')}_{row['timepoint']}.nii.gz"
        if (external / "volumes" / volume).is_file():
            if volume not in volumes:
                volumes[volume] = read((external / "volumes" / volume).read_bytes()).slices
                volumes[volume + "/raw"] = raw_slices(external / "volumes" / volume)
            at, likeness = slice_like(png, volumes[volume])
            assert likeness > 0.95, f"{row['path']} is in no slice of {volume}: {likeness:.2f}"
            raw = volumes[volume + "/raw"][at]
            by_maximum = np.rint(raw / max(raw.max(), 1) * 255).astype(np.uint8)
            shown |= {"png": png, "slice_by_maximum": by_maximum}
            shown["nifti_by_predict"] = volumes[volume][at]
        for form, image in shown.items():
            forms[form].append(image)
            people[form].append(row["patient"])
    return forms, people


def slice_like(png: np.ndarray, slices: np.ndarray) -> tuple[int, float]:
    """The slice of a volume that a PNG shows, mirrored, and their correlation."""
    flat = png[:, ::-1].ravel().astype(float)
    likeness = [float(np.corrcoef(flat, one.ravel())[0, 1]) if one.any() else 0.0 for one in slices]
    return int(np.argmax(likeness)), max(likeness)


def raw_slices(path: Path) -> np.ndarray:
    """(slices, rows, columns) of a volume, as `data.volumes` turns it, its values as they are."""
    volume = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    return np.flip(np.moveaxis(volume, 2, 0).swapaxes(1, 2), axis=1)


def scored(
    name: str, forms: dict[str, list[np.ndarray]], people: dict[str, list[str]]
) -> dict[str, Any]:
    """Recall of glioma and decisions, form by form."""
    loaded = load(Path(name))
    rule, glioma = loaded.decision(), loaded.classes.index("glioma")
    found = {}
    for form, images in forms.items():
        squares = np.stack([fit_square(one, loaded.preprocessing.image_size) for one in images])
        logits, features = describe(
            loaded.network(), loaded.preprocessing, squares, device=torch.device("cpu")
        )
        decided = rule.decide(logits, features)
        right = logits.argmax(axis=1) == glioma
        sure = np.array([one.decision == "confident" for one in decided])
        _, units = np.unique(people[form], return_inverse=True)
        found[form] = {
            "recall": share_estimate(right.astype(float), units).to_dict(),
            "predicted": dict(Counter(one.prediction for one in decided)),
            "decisions": dict(Counter(one.decision for one in decided)),
            "confident_errors": float((sure & ~right).mean()),
            "right": "".join(map(str, right.astype(int).tolist())),
            "people": people[form],
        }
    return found


if __name__ == "__main__":
    main()
