"""The commands give the numbers that they gave before.

A small simulated data set goes through the commands with the bundled weights. The numbers in the
files they write are compared with those stored in regression.json. Where a file or a key is
renamed, only FILES, FILLS and TABLE change. Where a number changes on purpose, store all anew:

    python tests/test_regression.py
"""

import csv
import itertools
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from tumorlens.cli import main

STORED = Path(__file__).with_name("regression.json")

# The file of each command, in the folder where `_run_commands` works.
FILES = {
    "evaluate.resnet18": "resnet18/metrics.json",
    "evaluate.se_resnet18": "se_resnet18/metrics.json",
    "compare": "comparison/comparison.json",
    "gradcam": "gradcam/explain.json",
    "audit": "audit/audit.json",
    "predict": "predictions.csv",
}

# What {...} stands for in TABLE: the word of the stable name, and the word in the file.
FILLS = {
    "model": {"resnet18": "resnet18", "se_resnet18": "se_resnet18"},
    "class": {name: name for name in ("glioma", "meningioma", "notumor", "pituitary")},
    "tumor": {name: name for name in ("all", "glioma", "meningioma", "pituitary")},
    "interval": {"point": "value", "low": "low", "high": "high"},
    "difference": {"point": "value", "low": "low", "high": "high", "p": "p"},
    "kind": {
        "exact": "exact",
        "re_encoded": "re-encoded",
        "mirrored": "mirrored",
        "rotated": "turned",
    },
    "image": {name: name for name in ("glioma-0000", "pituitary-0003")},
    "decision": {
        "confident": "confident",
        "uncertain": "uncertain",
        "out_of_distribution": "out of distribution",
    },
}

# Stable name of a number: the keys that lead to it in the command's file.
TABLE = {
    "evaluate.{model}.images": "images",
    "evaluate.{model}.confusion_matrix": "all/confusion_matrix",
    "evaluate.{model}.accuracy.{interval}": "all/metrics/accuracy/{interval}",
    "evaluate.{model}.macro_f1.{interval}": "all/metrics/macro_f1/{interval}",
    "evaluate.{model}.recall_{class}.{interval}": "all/metrics/recall_{class}/{interval}",
    "evaluate.{model}.log_loss": "all/metrics/log_loss/value",
    "evaluate.{model}.ece": "all/metrics/ece/value",
    "evaluate.{model}.calibration.temperature": "calibration/temperature",
    "evaluate.{model}.calibration.ece_after": "calibration/ece_after",
    "evaluate.{model}.calibration.threshold": "calibration/threshold",
    "evaluate.{model}.calibration.coverage": "calibration/coverage",
    "compare.images": "subsets/all/images",
    "compare.accuracy.{difference}": "subsets/all/differences/accuracy/{difference}",
    "compare.macro_f1.{difference}": "subsets/all/differences/macro_f1/{difference}",
    "compare.recall_meningioma.{difference}": (
        "subsets/all/differences/recall_meningioma/{difference}"
    ),
    "compare.auroc_pituitary.{difference}": "subsets/all/differences/auroc_pituitary/{difference}",
    "gradcam.images_with_box": "localization/se_resnet18/images_with_box",
    "gradcam.energy_ratio.{tumor}.{interval}": (
        "localization/se_resnet18/network/{tumor}/energy_ratio/{interval}"
    ),
    "gradcam.pointing_game.{tumor}": "localization/se_resnet18/network/{tumor}/pointing_game/value",
    "gradcam.average_precision": "localization/se_resnet18/network/all/average_precision/value",
    "gradcam.iou": "localization/se_resnet18/network/all/iou/value",
    "gradcam.centre_prior.energy_ratio.{interval}": (
        "localization/se_resnet18/centre_prior/all/energy_ratio/{interval}"
    ),
    "gradcam.centre_prior.pointing_game": (
        "localization/se_resnet18/centre_prior/all/pointing_game/value"
    ),
    "gradcam.outside_head": "localization/se_resnet18/attribution/all/outside_head/value",
    "gradcam.skull": "localization/se_resnet18/attribution/all/skull/value",
    "audit.images": "images",
    "audit.pairs": "near_duplicates/pairs",
    "audit.pairs.{kind}": "near_duplicates/by_kind/{kind}",
    "audit.pairs.across_splits": "near_duplicates/across_splits",
    "audit.groups": "near_duplicates/groups",
    "audit.leaks.test_in_train": "leaks/0/with_near_duplicate",
    "audit.leaks.test_in_train.{kind}": "leaks/0/{kind}",
    "audit.shortcut.border": "shortcuts/8/score",
    "predict.{image}.prob_{class}": "images/{image}/prob_{class}",
    "predict.{image}.distance": "images/{image}/distance",
    "predict.count.{decision}": "counts/decision/{decision}",
}

# Scores have four printed decimals. A tenth of a digit more, so that another machine's last bits
# cannot turn a number that lies between two of them.
TOLERANCE = 0.55e-4


def test_commands_give_the_numbers_that_are_stored(tmp_path: Path) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    _run_commands(tmp_path)
    found = _numbers(tmp_path)
    assert len(found) > 100
    changed = [
        f"{name}: stored {stored.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in [*found, *(stored.keys() - found.keys())]
        if name not in stored or name not in found or not _same(stored[name], found[name])
    ]
    assert not changed, "\n".join(["numbers have changed:", *changed])


def _run_commands(folder: Path) -> None:
    data, masks = folder / "data", folder / "data" / "masks"
    counts = ["--train", "4", "--valid", "2", "--test", "6"]
    computed = ["--device", "cpu", "--threads", "1"]
    _run("phantom", "--out", data, *counts, "--size", "128", "--seed", "0")
    for model in FILLS["model"]:
        argv = ["--checkpoint", model, "--data_dir", data, "--resamples", "200", *computed]
        _run("evaluate", *argv, "--out_dir", folder / model)
    _run(
        *("compare", folder / "resnet18", folder / "se_resnet18", "--resamples", "200"),
        *("--out_dir", folder / "comparison"),
    )
    _run(
        *("gradcam", "--checkpoint", "se_resnet18", "--data_dir", data, "--boxes", masks),
        *("--method", "hirescam", "--layer", "layer1*layer2", "--count", "4"),
        *("--resamples", "200", *computed, "--out_dir", folder / "gradcam"),
    )
    table = folder / "predictions.csv"
    _run("predict", data / "test", "--checkpoint", "se_resnet18", "--csv", table, *computed)
    _plant_duplicates(data)
    _run("audit", data, "--out_dir", folder / "audit")


def _run(*argv: object) -> None:
    words = [str(word) for word in argv]
    assert main(words) == 0, f"tumorlens {' '.join(words)}"


def _plant_duplicates(data: Path) -> None:
    """Put two mirrored training images and one byte-identical one among the test images."""
    for name in ("glioma", "pituitary"):
        with Image.open(data / "train" / name / f"{name}-0000.png") as image:
            ImageOps.mirror(image).save(data / "test" / name / "mirrored.png")
    source = data / "train" / "meningioma" / "meningioma-0001.png"
    shutil.copyfile(source, data / "test" / "meningioma" / "copied.png")


def _numbers(folder: Path) -> dict[str, Any]:
    """Look up every number of TABLE, by its stable name."""
    contents = {command: _read(folder / name) for command, name in FILES.items()}
    found: dict[str, Any] = {}
    for pattern, keys in TABLE.items():
        fields = dict.fromkeys(re.findall(r"{(\w+)}", pattern))
        for chosen in itertools.product(*(FILLS[field].items() for field in fields)):
            pairs = list(zip(fields, chosen, strict=True))
            name = pattern.format(**{field: stable for field, (stable, _) in pairs})
            command = next(known for known in FILES if name.startswith(f"{known}."))
            where = keys.format(**{field: word for field, (_, word) in pairs})
            found[name] = _look_up(contents[command], where)
    return found


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        "images": {Path(row["path"]).stem: row for row in rows},
        "counts": {column: Counter(row[column] for row in rows) for column in rows[0]},
    }


def _look_up(content: Any, keys: str) -> Any:
    """Follow `keys`; a key that is not there becomes a text that says so."""
    for key in keys.split("/"):
        try:
            content = content[int(key)] if isinstance(content, list) else content[key]
        except (KeyError, IndexError):
            return f"no key {key} (of {keys})"
    return float(content) if isinstance(content, str) else content


def _same(stored: Any, found: Any) -> bool:
    if isinstance(stored, float) and isinstance(found, int | float):
        return abs(stored - found) <= TOLERANCE
    return bool(stored == found)


def _store_anew() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["TUMORLENS_CACHE"] = str(Path(name) / "cache")
        _run_commands(Path(name))
        found = _numbers(Path(name))
    texts = {
        key: f"{value:.4f}" if isinstance(value, float) else json.dumps(value)
        for key, value in found.items()
    }
    lines = ",\n".join(f"  {json.dumps(key)}: {text}" for key, text in texts.items())
    STORED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    _store_anew()
