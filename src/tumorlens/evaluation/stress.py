"""The same images under named, graded changes of display and acquisition.

Grade 3 is what display software, exports and resizing do every day; 1 and 2 are less, 4 and 5
beyond. The changes are made on the square that the network is shown, before its preprocessing, and
nothing is drawn at random but by a fixed seed: the same images give the same numbers.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tumorlens.checkpoint.preprocessing import Preprocessing
from tumorlens.checkpoint.session import Session, describe
from tumorlens.evaluation.intervals import Estimate, percentile_interval, resampled_weights

EVERYDAY = 3  # the highest grade that happens every day
Change = Callable[[Tensor, float], Tensor]
Floats = npt.NDArray[np.float64]


def _darker(images: Tensor, share: float) -> Tensor:
    return images * share


def _brighter(images: Tensor, factor: float) -> Tensor:
    return (images * factor).clamp(max=1)


def _gamma(images: Tensor, power: float) -> Tensor:
    return images**power


def _window(images: Tensor, percentile: float) -> Tensor:
    """White at a percentile of the image, as viewers and exports scale."""
    top = torch.quantile(images.flatten(1), percentile / 100, dim=1).clamp(min=1 / 255)
    return (images / top[:, None, None]).clamp(max=1)


def _contrast(images: Tensor, factor: float) -> Tensor:
    mean = images.mean(dim=(1, 2), keepdim=True)
    return ((images - mean) * factor + mean).clamp(0, 1)


def _bias_field(images: Tensor, amplitude: float) -> Tensor:
    """A smooth brightness from one corner to the other, as surface coils leave it."""
    size = images.shape[-1]
    slope = torch.linspace(-1, 1, size, device=images.device)
    field = torch.exp(amplitude * (slope[:, None] + slope) / 2)
    return (images * field).clamp(max=1)


def _noise(images: Tensor, deviation: float) -> Tensor:
    """Rician: the magnitude of a signal with normal noise in both its channels."""
    size = images.shape[-1]
    drawn = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, size, size))).float()
    real, imaginary = (deviation * drawn).to(images.device)
    return torch.hypot(images + real, imaginary.expand_as(images)).clamp(max=1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian, `sigma` in hundredths of the side."""
    spread = sigma * images.shape[-1] / 100
    reach = max(1, round(3 * spread))
    places = torch.arange(-reach, reach + 1, device=images.device) / spread
    kernel = torch.exp(-(places**2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(images[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def _resolution(images: Tensor, share: float) -> Tensor:
    """Shrunk to a share of the side and enlarged again."""
    size = images.shape[-1]
    small = F.interpolate(
        images[:, None], size=max(1, round(share * size)), mode="bilinear", antialias=True
    )
    return F.interpolate(small, size=size, mode="bilinear")[:, 0]


def _jpeg(images: Tensor, quality: float) -> Tensor:
    found = []
    for pixels in (images * 255).round().byte().cpu().numpy():
        with io.BytesIO() as buffer:
            Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
            found.append(np.array(Image.open(buffer)))
    return torch.from_numpy(np.stack(found)).to(images.device).float() / 255


def _zoomed(images: Tensor, factor: float) -> Tensor:
    """Larger (over 1) or with black around it (under 1)."""
    return _placed(images, torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]))


def _rotated(images: Tensor, degrees: float) -> Tensor:
    angle = torch.tensor(degrees * torch.pi / 180)
    cos, sin = float(torch.cos(angle)), float(torch.sin(angle))
    return _placed(images, torch.tensor([[cos, -sin, 0], [sin, cos, 0]]))


def _placed(images: Tensor, matrix: Tensor) -> Tensor:
    count, height, width = images.shape
    theta = matrix.to(images).expand(count, 2, 3)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    return F.grid_sample(images[:, None], grid, padding_mode="zeros", align_corners=False)[:, 0]


def _mirrored(images: Tensor, _: float) -> Tensor:
    return images.flip(2)


def _head_cropped(images: Tensor, _: float) -> Tensor:
    return Preprocessing(images.shape[-1], 0, 1, crop_head=True).frame(images)


# Name to the change, and its five grades (or one); the unit of a grade is in the name's words.
CHANGES: dict[str, tuple[Change, tuple[float, ...]]] = {
    "darker (factor)": (_darker, (0.9, 0.75, 0.6, 0.45, 0.3)),
    "brighter (factor)": (_brighter, (1.1, 1.3, 1.6, 2.2, 3.0)),
    "gamma, dark (power)": (_gamma, (1.1, 1.25, 1.5, 2.0, 2.6)),
    "gamma, bright (power)": (_gamma, (0.9, 0.8, 0.67, 0.5, 0.38)),
    "window (white percentile)": (_window, (100, 99.5, 99, 97, 94)),
    "less contrast (factor)": (_contrast, (0.9, 0.8, 0.65, 0.5, 0.35)),
    "bias field (log amplitude)": (_bias_field, (0.1, 0.25, 0.4, 0.6, 0.9)),
    "noise (deviation)": (_noise, (0.01, 0.02, 0.04, 0.07, 0.1)),
    "blur (hundredths of the side)": (_blur, (0.4, 0.7, 1.0, 1.6, 2.4)),
    "resolution (share of the side)": (_resolution, (0.85, 0.7, 0.55, 0.4, 0.3)),
    "JPEG (quality)": (_jpeg, (90, 70, 50, 25, 10)),
    "zoom (factor)": (_zoomed, (1.05, 1.1, 1.2, 1.3, 1.45)),
    "padding (factor)": (_zoomed, (0.95, 0.9, 0.8, 0.7, 0.6)),
    "rotation (degrees)": (_rotated, (2, 5, 8, 15, 25)),
    "mirrored": (_mirrored, (1,)),
    "head cropped": (_head_cropped, (1,)),
}


@dataclass(frozen=True)
class Stressed:
    """Images under one change at one grade.

    Attributes:
        change: its name in `CHANGES`.
        grade: 1 to 5.
        value: of the change, in the unit that its name says.
        accuracy: with a 95% interval over patients or groups.
        recall: by class, those that have images.
        loss: accuracy of the unchanged images minus `accuracy`, on the same resamples.
        flipped: share of the images whose predicted class changed.
        noticed: of those that were right and are now wrong, the share that is not "confident";
            None: there is none, or the checkpoint has no decision rule.
        confident_errors: share of all images that are wrong and "confident"; None: no rule.
    """

    change: str
    grade: int
    value: float
    accuracy: Estimate
    recall: dict[str, float]
    loss: Estimate
    flipped: float
    noticed: float | None
    confident_errors: float | None

    @property
    def everyday(self) -> bool:
        """Whether display and resizing do this every day."""
        return self.grade <= EVERYDAY


@dataclass(frozen=True)
class Stress:
    """What changes of display cost a network.

    Attributes:
        unchanged: accuracy of the same images as they are.
        rows: each change and grade.
        unit: what the intervals resample.
        images: how many there are.
    """

    unchanged: Estimate
    rows: tuple[Stressed, ...]
    unit: str
    images: int

    @property
    def worst_everyday(self) -> Stressed:
        """The change that costs most accuracy up to grade 3."""
        return min((row for row in self.rows if row.everyday), key=lambda row: row.accuracy.value)

    def to_dict(self) -> dict[str, Any]:
        """As primitives, for stress.json."""
        worst = self.worst_everyday
        return {
            "images": self.images,
            "resampled": self.unit,
            "everyday_grades": list(range(1, EVERYDAY + 1)),
            "unchanged_accuracy": self.unchanged.to_dict(),
            "worst_everyday": {"change": worst.change, "grade": worst.grade},
            "rows": [
                {
                    "change": row.change,
                    "grade": row.grade,
                    "value": row.value,
                    "everyday": row.everyday,
                    "accuracy": row.accuracy.to_dict(),
                    "loss": row.loss.to_dict(),
                    "recall": row.recall,
                    "flipped": row.flipped,
                    "noticed": row.noticed,
                    "confident_errors": row.confident_errors,
                }
                for row in self.rows
            ],
        }


def stress(
    session: Session,
    groups: npt.NDArray[np.int64],
    *,
    unit: str = "images",
    quick: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Stress:
    """Score a session's images under every change and grade.

    Args:
        session: the network and N images; told of "stress".
        groups: (N,) patients or groups, which are resampled together.
        unit: what they are, in words.
        quick: grade 3 alone, of at most every fourth image of each class.
        resamples, seed: of the intervals.
    """
    if quick:
        keep = _every_fourth(session.data.labels)
        session, groups = session.only(keep), groups[keep]
    labels, classes = session.data.labels, session.data.classes
    plan = [
        (name, grade, value)
        for name, (_, values) in CHANGES.items()
        for grade, value in enumerate(values, start=1 if len(values) > 1 else EVERYDAY)
        if not quick or grade == EVERYDAY
    ]
    rule = session.checkpoint.decision()
    before = session.logits.argmax(axis=1)
    hits, predicted, confident = [before == labels], [], []
    for done, (name, _, value) in enumerate(plan):
        logits, features = describe_changed(session, CHANGES[name][0], value)
        predicted.append(logits.argmax(axis=1))
        hits.append(predicted[-1] == labels)
        decided = rule.decide(logits, features if rule.space else None)
        confident.append(np.array([one.decision == "confident" for one in decided]))
        session.progress("stress", done + 1, len(plan))
    shares = np.stack(hits, axis=1).astype(np.float64)
    drawn = np.concatenate(
        [
            w @ shares / w.sum(axis=1, keepdims=True)
            for w in resampled_weights(groups, resamples, seed)
        ]
    )
    values = shares.mean(axis=0)
    rows = []
    for column, (name, grade, value) in enumerate(plan, start=1):
        right = shares[:, column] > 0
        lost = (shares[:, 0] > 0) & ~right
        sure = confident[column - 1]
        rows.append(
            Stressed(
                name,
                grade,
                value,
                _estimate(values[column], drawn[:, column], len(labels)),
                {
                    label: float(right[labels == index].mean())
                    for index, label in enumerate(classes)
                    if (labels == index).any()
                },
                _estimate(values[0] - values[column], drawn[:, 0] - drawn[:, column], len(labels)),
                float((predicted[column - 1] != before).mean()),
                float((~sure[lost]).mean()) if rule.threshold is not None and lost.any() else None,
                float((sure & ~right).mean()) if rule.threshold is not None else None,
            )
        )
    return Stress(_estimate(values[0], drawn[:, 0], len(labels)), tuple(rows), unit, len(labels))


def _every_fourth(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.sort(
        np.concatenate([np.flatnonzero(labels == label)[::4] for label in np.unique(labels)])
    )


def _estimate(value: float, drawn: Floats, count: int) -> Estimate:
    return Estimate(float(value), *percentile_interval(drawn), count)


def describe_changed(session: Session, change: Change, value: float) -> tuple[Floats, Floats]:
    """Logits and features of a session's images under a change."""

    def inputs(images: Tensor) -> Tensor:
        return session.checkpoint.preprocessing.of_floats(change(images.float() / 255, value))

    return describe(
        session.network,
        inputs,
        session.data.images,
        device=session.device,
        batch_size=session.batch_size,
    )
