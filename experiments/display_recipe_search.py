"""Which training survives other displays and sites? One run a candidate, judged by three measures.

A run trains without the gliomas of people whose identifier has digits. So one run tells all three:

- validation: the fold's validation block, without those gliomas;
- stress: the same images under everyday changes of display and acquisition (the worst of them);
- site-out: recall of the gliomas that were left out, of people outside the test fold.

No test person, no image of `Testing` as such and no external image is looked at.

    python experiments/display_recipe_search.py DATA OUT.json --candidate NAME --fold 0
"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw

from fourier_amplitude import amplitudes, mixed
from histogram_matching import histograms, matched
from tumorlens.checkpoint.session import ImageChoice, open_session
from tumorlens.data import cache
from tumorlens.data.augment import Augmentation
from tumorlens.data.preprocessing import crop_like
from tumorlens.data.tumor_transfer import Donors
from tumorlens.evaluation.evaluate import predictions_of
from tumorlens.evaluation.intervals import share_estimate
from tumorlens.evaluation.scores import tumor_accuracy
from tumorlens.evaluation.stress import stress
from tumorlens.files import write_json
from tumorlens.settings import TrainSettings
from tumorlens.settings.recipe_files import write_recipe
from tumorlens.studies.run import code
from tumorlens.training import module as training_module
from tumorlens.training.fit import train
from tumorlens.training.module import Classifier
from tumorlens.training.recipes import RECIPES, keys_of

BASE = RECIPES["fast"]
GEOMETRY = {"rotation": 15, "scale": 0.25, "shift": 0.1}
DISPLAY = {**GEOMETRY, "brightness": 0.1, "contrast": 0.4, "gamma": 0.6}
SCANNER = {**DISPLAY, "curves": 0.6, "bias_field": 0.6, "resolution": 0.5, "noise": 0.05}
OWN_SCALE = replace(BASE, augmentation=Augmentation(**SCANNER), standardise=True, crop_head=True)
NOISIER = replace(OWN_SCALE, augmentation=Augmentation(**{**SCANNER, "noise": 0.12}))
CANDIDATES = {
    "fast": BASE,
    "robust": RECIPES["robust"],
    "standardised": replace(BASE, augmentation=Augmentation(**DISPLAY), standardise=True),
    "scanner": OWN_SCALE,
    "transfer": OWN_SCALE,
    "histogram": NOISIER,
    "mixstyle": NOISIER,
    "fourier": NOISIER,
    "transfer_histogram": NOISIER,
}


def split_rows(table: Path, fold: int) -> list[tuple[str, str, str]]:
    """Path, split and patient; "test" is the gliomas of digits outside fold `fold`."""
    rows = []
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            out = row["label"] == "glioma" and row["site"] == "digits"
            if row["fold"] in ("", str(fold)):
                continue
            valid = row["run"] != "" and int(row["run"]) == (fold + 1) % 5
            split = "test" if out else "valid" if valid else "train"
            rows.append((row["path"], split, row["person"] or row["group"]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--candidate", choices=CANDIDATES, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--runs", type=Path, default=Path("model/search"))
    parser.add_argument("--results", type=Path, default=Path("results/display_recipe_search"))
    asked = parser.parse_args()

    recipe = CANDIDATES[asked.candidate]
    own = asked.runs / f"{asked.candidate}.toml"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(write_recipe(keys_of(recipe), {}), encoding="utf-8")
    folder = asked.runs / f"{asked.candidate}-{asked.model}-fold{asked.fold}"
    folder.mkdir(parents=True, exist_ok=True)
    splits = folder / "splits.csv"
    rows = split_rows(asked.data.parent / "patients.csv", asked.fold)
    with splits.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "patient"])
        writer.writerows(row for row in rows if row[1] != "test")
    extra: list[Callback] = []
    if asked.candidate.startswith("transfer"):
        extra.append(TumorTransfer(asked.data, rows, recipe.image_size))
    if asked.candidate.endswith("histogram"):
        extra.append(OtherClass(asked.data, rows, recipe.image_size, histograms, matched))
    if asked.candidate == "fourier":
        extra.append(OtherClass(asked.data, rows, recipe.image_size, amplitudes, mixed))
    if asked.candidate == "mixstyle":
        extra.append(MixStyle())
    start = time.monotonic()
    if not (folder / "best_model.pt").is_file():
        train(
            TrainSettings(
                model=asked.model,
                data_dir=asked.data,
                splits=splits,
                recipe=str(own),
                out_dir=folder,
                threads=1,
                precision="bf16-mixed",
                seed=0,
            ),
            extra_callbacks=tuple(extra),
        )
    minutes = (time.monotonic() - start) / 60
    left_out = folder / "site_out.csv"
    with left_out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "patient"])
        writer.writerows(row for row in rows if row[1] == "test")
    torch.set_num_threads(1)
    found = {
        "candidate": asked.candidate,
        "model": asked.model,
        "fold": asked.fold,
        "recipe": recipe.record(),
        "minutes": round(minutes, 1),
        **code(),
        **judged(folder / "best_model.pt", asked.data, splits, left_out),
    }
    write_json(asked.results / f"{asked.candidate}-{asked.model}-fold{asked.fold}.json", found)


class MixStyle(Callback):
    """Channel means and deviations mixed between images (Zhou et al. 2021, "MixStyle").

    After the first two stages, in every other batch; weights from Beta(0.1, 0.1).
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Hook the stages."""
        assert isinstance(pl_module, Classifier)
        self.draws = np.random.default_rng(0)
        for stage in (pl_module.network.layer1, pl_module.network.layer2):
            stage.register_forward_hook(self.mix)

    def mix(self, module: torch.nn.Module, _: object, maps: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) with other statistics where in training."""
        if not module.training or self.draws.random() < 0.5:
            return maps
        count = len(maps)
        mean = maps.mean(dim=(2, 3), keepdim=True).detach()
        spread = (maps.var(dim=(2, 3), keepdim=True) + 1e-6).sqrt().detach()
        order = torch.from_numpy(self.draws.permutation(count))
        weight = torch.from_numpy(self.draws.beta(0.1, 0.1, (count, 1, 1, 1))).to(maps)
        mixed_mean = weight * mean + (1 - weight) * mean[order]
        mixed_spread = weight * spread + (1 - weight) * spread[order]
        return (maps - mean) / spread * mixed_spread + mixed_mean


class OtherClass(Callback):
    """Half of the images get the histogram, or the amplitudes, of one of another class."""

    def __init__(
        self,
        data: Path,
        rows: list[tuple[str, str, str]],
        size: int,
        described: Callable[..., Any],
        changed: Callable[..., torch.Tensor],
    ) -> None:
        self.data, self.size = data, size
        self.rows = [row for row in rows if row[1] != "test"]
        self.described, self.changed = described, changed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Put the change before the augmentation."""
        assert isinstance(pl_module, Classifier)
        paths = sorted(row[0] for row in self.rows)
        trains = {row[0] for row in self.rows if row[1] == "train"}
        images = pl_module.preprocessing.prepared(cache.load(self.data, paths, self.size).images)
        classes = sorted({path.split("/")[1] for path in paths})
        labels = np.array([classes.index(path.split("/")[1]) for path in paths])
        donors = np.flatnonzero([path in trains for path in paths])
        table = self.described(images, labels, donors)

        def augment(images: torch.Tensor, indices: torch.Tensor, *rest: Any) -> torch.Tensor:
            return plain(self.changed(images, indices, table, 0.5, *rest[1:]), indices, *rest)

        plain = training_module.augment
        training_module.augment = augment


class TumorTransfer(Callback):
    """Gives the network in training the outlined tumors of the training images."""

    def __init__(self, data: Path, rows: list[tuple[str, str, str]], size: int) -> None:
        self.data, self.size = data, size
        self.train = {path for path, split, _ in rows if split == "train"}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Read outlines, decode the images and frame both as training does."""
        assert isinstance(pl_module, Classifier)
        folder = self.data.parent
        with (folder / "outlines_training.csv").open(encoding="utf-8") as file:
            outlines = {row["slice"]: row["outline"] for row in csv.DictReader(file)}
        with (folder / "annotations_training.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["path"] in self.train]
        with_tumor = [row for row in rows if row["slice"] in outlines]
        healthy = [path for path in sorted(self.train) if "/notumor/" in path]
        classes = sorted({path.split("/")[1] for path in self.train})
        preprocessing = pl_module.preprocessing
        images = cache.load(self.data, [row["path"] for row in with_tumor], self.size).images
        masks = np.stack(
            [mask_of(outlines[r["slice"]], r["mirrored"] == "1", self.size) for r in with_tumor]
        )
        if preprocessing.crop_head:
            framed = crop_like(
                torch.from_numpy(images).float() / 255, torch.from_numpy(masks).float()
            )
            masks = (framed > 0.5).byte().numpy()
        pl_module.donors = Donors(
            preprocessing.prepared(images),
            masks,
            np.array([classes.index(row["label"]) for row in with_tumor]),
            preprocessing.prepared(cache.load(self.data, healthy, self.size).images),
            classes.index("notumor"),
        )


def mask_of(outline: str, mirrored: bool, size: int) -> np.ndarray:
    """(size, size) uint8 of an outline of `x,y` fractions."""
    points = [tuple(float(v) * size for v in point.split(",")) for point in outline.split()]
    if mirrored:
        points = [(size - x, y) for x, y in points]
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.array(image)


def judged(checkpoint: Path, data: Path, splits: Path, left_out: Path) -> dict[str, object]:
    """Validation, everyday stress of every fourth validation image, and site-out recall."""
    device = torch.device("cpu")
    valid = open_session(checkpoint, ImageChoice(data, "valid", splits), device=device)
    predictions = predictions_of(valid)
    labels, units = predictions.labels, predictions.units
    right = (predictions.predicted == labels).astype(float)
    changed = stress(valid, predictions, quick=True)
    worst = changed.worst_everyday
    site = open_session(checkpoint, ImageChoice(data, "test", left_out), device=device)
    of_site = predictions_of(site)
    hits = (of_site.predicted == of_site.labels).astype(float)
    classes = np.bincount(of_site.predicted, minlength=len(of_site.classes))
    return {
        "validation": {
            "accuracy": share_estimate(right, units).to_dict(),
            "tumors_alone": tumor_accuracy(predictions).to_dict(),
            "recall": {
                name: float(right[labels == index].mean())
                for index, name in enumerate(predictions.classes)
            },
        },
        "stress": {
            "images": changed.images,
            "unchanged": changed.unchanged.value,
            "mean_of_changes": float(np.mean([row.accuracy.value for row in changed.rows])),
            "worst": {"change": worst.change, "accuracy": worst.accuracy.value},
            "accuracy": {row.change: row.accuracy.value for row in changed.rows},
        },
        "site_out": {
            "glioma_recall": share_estimate(hits, of_site.units).to_dict(),
            "predicted": dict(zip(of_site.classes, classes.tolist(), strict=True)),
        },
    }


if __name__ == "__main__":
    main()
