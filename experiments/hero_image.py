"""Draw docs/images/hero.png, the picture at the top of README, from a network of the phantom.

    tumorlens phantom --out data --train 200 --valid 40 --test 60
    python train.py --model se_resnet18 --data_dir data/
    python experiments/hero_image.py --checkpoint model/best_model.pt --data_dir data

Every panel is made by tumorlens: no image of a patient is in it.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.data.display_changes import EVERYDAY
from tumorlens.data.duplicates import NEAR_DUPLICATE_BITS
from tumorlens.data.hashing import fingerprint
from tumorlens.data.readers import read_grey
from tumorlens.evaluation.evaluate import predictions_of
from tumorlens.evaluation.plots import save
from tumorlens.evaluation.stress import Stress, stress
from tumorlens.explain.gradcam import Way, maps_of
from tumorlens.explain.overlay import blend, full_heat, on_image
from tumorlens.explain.regions import Boxes, read_boxes

OUT = Path(__file__).parents[1] / "docs" / "images" / "hero.png"
# Points at the size of the figure, 8 inches; README shows it at 800 pixels, 100 to the inch.
SMALL, TITLE = 8.5, 10
CHANGES = 7  # rows of the stress map


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("model/best_model.pt"))
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    session = open_session(
        chosen.checkpoint, ImageChoice(chosen.data_dir), device=torch.device("cpu")
    )
    some = np.arange(0, len(session.data.labels), 4)  # for a picture, not for a result
    found = stress(session.only(some), predictions_of(session).only(some), resamples=100)
    figure = Figure(figsize=(8, 2.75), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(0.75, 1.25, 1.2, 1.3))
    pair = [figure.add_subplot(grid[row, 0]) for row in (0, 1)]
    axes = [figure.add_subplot(grid[:, column]) for column in (1, 2, 3)]
    images = sorted((chosen.data_dir / "train" / "pituitary").glob("*.png"))
    _near_duplicate(pair, read_grey(images[0]))
    _confusion(axes[0], session)
    _saliency(axes[1], session, read_boxes(chosen.data_dir / "masks"))
    _stress(axes[2], found)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    save(figure, chosen.out, dpi=200)


def _near_duplicate(axes: list[Axes], image: npt.NDArray[np.uint8]) -> None:
    """An image, and the same mirrored and saved as JPEG: a near-duplicate, by its fingerprint."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, ::-1]).save(buffer, "JPEG", quality=60)
    mirrored = np.asarray(Image.open(buffer))
    bits = np.unpackbits(fingerprint(image) ^ fingerprint(mirrored[:, ::-1])).sum()
    assert bits <= NEAR_DUPLICATE_BITS
    words = ("in training", "in test, mirrored")
    for one, pixels, name in zip(axes, (image, mirrored), words, strict=True):
        one.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        one.set_xlabel(name, fontsize=SMALL)
        one.set_xticks([])
        one.set_yticks([])
    axes[0].set_title("Near-duplicate", fontsize=TITLE)


def _confusion(axes: Axes, session: Session) -> None:
    """Counts, shaded by the share of the true class."""
    classes = session.data.classes
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (session.data.labels, session.logits.argmax(axis=1)), 1)
    share = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            fontsize=TITLE,
            color="white" if share[row, column] > 0.55 else "black",
        )
    short = [name[:6] + "." if len(name) > 7 else name for name in classes]
    axes.set_xticks(range(len(classes)), short, rotation=45, ha="right", fontsize=SMALL)
    axes.set_yticks(range(len(classes)), short, fontsize=SMALL)
    axes.set_xlabel("predicted", fontsize=SMALL)
    axes.set_ylabel("true", fontsize=SMALL)
    right = np.trace(counts) / counts.sum()
    axes.set_title(f"Test images, {right:.0%} right", fontsize=TITLE)


def _saliency(axes: Axes, session: Session, masks: Boxes) -> None:
    """The map of one meningioma on it, the tumor outlined."""
    kind = session.data.classes.index("meningioma")
    right = (session.data.labels == kind) & (session.logits.argmax(axis=1) == kind)
    surest = np.where(right, session.probabilities[:, kind], 0).argmax()
    one = session.only(np.array([surest]))
    (relevance,) = maps_of(one, Way("layer1*layer2", "hirescam"))
    grey = read_grey(one.data.root / one.data.paths[0])
    size = session.checkpoint.preprocessing.image_size
    placed = on_image(relevance, *grey.shape, size)
    axes.imshow(blend(grey, placed, full_heat([placed])))
    outline = masks.outline(one.data.paths[0], *grey.shape)
    assert outline is not None
    outline.draw(axes, *grey.shape)
    axes.set_title("Saliency", fontsize=TITLE)
    axes.set_xlabel("tumor outlined", fontsize=SMALL)
    axes.set_xticks([])
    axes.set_yticks([])


def _stress(axes: Axes, found: Stress) -> None:
    """Accuracy under the costliest changes, at the everyday grades."""
    cells = {(row.change, row.grade): row.accuracy.value for row in found.rows if row.everyday}
    grades = range(1, EVERYDAY + 1)
    worst = {
        name: min(value for (change, _), value in cells.items() if change == name)
        for name, _ in cells
    }
    names = sorted(worst, key=lambda name: worst[name])[:CHANGES]
    values = np.array([[cells.get((name, grade), np.nan) for grade in grades] for name in names])
    axes.set_facecolor("#dddddd")
    axes.imshow(values, cmap="cividis", vmin=min(0.5, np.nanmin(values)), vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = value < 0.7
            axes.text(
                column,
                row,
                f"{value:.0%}",
                ha="center",
                va="center",
                fontsize=SMALL,
                color="white" if dark else "black",
            )
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.set_xticks(range(len(grades)), [str(grade) for grade in grades], fontsize=SMALL)
    axes.set_xlabel("strength of the change", fontsize=SMALL)
    axes.set_title("Accuracy under changes", fontsize=TITLE)


if __name__ == "__main__":
    main()
