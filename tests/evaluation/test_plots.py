from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tumorlens.evaluation import plots
from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.subgroups import Subgroups, SubgroupScores

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 80)
PROBABILITIES = RNG.dirichlet(np.ones(4), 80)


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_confusion_matrix_shows_counts_and_row_percent() -> None:
    counts = np.array([[30, 10], [0, 5]])
    said = _texts(plots.confusion_matrix(counts, ("a", "b")))
    assert said == ["30\n75.0%", "10\n25.0%", "0\n0.0%", "5\n100.0%"]


def test_class_without_images_has_no_curve_and_no_division_by_zero() -> None:
    labels = np.zeros(80, dtype=np.int64)
    labels[:20] = 1
    figure = plots.roc_curves(labels, PROBABILITIES, CLASSES)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [name.split(",")[0] for name in names] == ["chance", "glioma", "meningioma"]
    plots.confusion_matrix(np.array([[0, 0], [1, 2]]), ("a", "b"))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_gallery_names_truth_answer_probability_and_file(count: int) -> None:
    images = [np.full((20 + index, 30), 9, dtype=np.uint8) for index in range(count)]
    figure = plots.error_gallery(
        images, ["glioma"] * count, ["notumor"] * count, np.full(count, 0.875), ["a.png"] * count
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["true: glioma\nsaid: notumor, 0.88"] * count
    assert _texts(figure) == (["a.png"] * count or ["no errors"])


def test_curves_mark_the_best_epoch() -> None:
    rows = [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "valid_loss": 1 / epoch,
            "valid_accuracy": 0.5,
            "valid_macro_f1": {1: 0.4, 2: 0.7, 3: 0.6}[epoch],
            "lr": 0.1,
        }
        for epoch in (1, 2, 3)
    ]
    assert "epoch 2: 0.700" in _texts(plots.training_curves(rows))
    assert "epoch 3: 0.600" in _texts(plots.training_curves(rows, "valid_loss"))
    plots.training_curves(rows[:1])


def test_curves_without_validation_images_are_loss_and_learning_rate() -> None:
    rows = [{"epoch": epoch, "train_loss": 1 / epoch, "lr": 0.1} for epoch in (1, 2)]
    titles = [axes.get_title() for axes in plots.training_curves(rows).axes]
    assert titles == ["Cross-entropy loss", "Learning rate at the epoch's end"]


def _subgroups(label: str, column: str) -> Subgroups:
    """Of three subgroups one differs significantly and one has three patients."""
    rows = [
        SubgroupScores(label, name, one, patients, 0, column, one, one, p, p)
        for one in [Estimate(0.5, 0.3, 0.7, 20)]
        for name, patients, p in (("north", 20, 0.01), ("south", 20, 0.6), ("west", 3, None))
    ]
    return Subgroups(tuple(rows))


def test_subgroups_show_what_is_significant_and_what_is_too_few() -> None:
    (panel,) = plots.subgroups(_subgroups("a", "site")).axes
    marks = [line for line in panel.lines if line.get_marker() != "None"]
    assert [line.get_marker() for line in marks] == ["D", "o", "o"]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [False, False, True]
    names = [text.get_text() for text in panel.get_yticklabels()]
    assert names == ["site north", "site south", "site west"]


def test_figures_are_saved_whole_and_nothing_is_cut_off(tmp_path: Path) -> None:
    figures = {
        "confusion": plots.confusion_matrix(np.full((4, 4), 20), CLASSES, title="title"),
        "roc": plots.roc_curves(LABELS, PROBABILITIES, CLASSES, title="title"),
        "reliability": plots.reliability(
            LABELS,
            PROBABILITIES,
            title="se_resnet18, valid images (n = 1311)",
            how_sure="calibrated probabilities (temperature 0.931)",
        ),
        "subgroups": plots.subgroups(_subgroups(CLASSES[0], "site"), title="title"),
    }
    for name, figure in figures.items():
        path = tmp_path / f"{name}.png"
        plots.save(figure, path)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == 255).all(), f"{name}: ink at the edge"


def test_dollar_signs_in_class_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ("$\\frac{$", "a $b$ c")
    labels, scores = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    for number, figure in enumerate(
        (
            plots.confusion_matrix(np.eye(2, dtype=np.int64), names, title=names[0]),
            plots.roc_curves(labels, scores, names, title=names[1]),
            plots.subgroups(_subgroups(names[0], names[1])),
        )
    ):
        plots.save(figure, tmp_path / f"{number}.png")
        written = [text.get_text() for text in figure.findobj(Text) if "$" in text.get_text()]
        assert any("$b$" in text for text in written)
        assert not any(text.get_parse_math() for text in figure.findobj(Text))


@pytest.mark.parametrize(("monitor", "epoch"), [("valid_macro_f1", 3), ("valid_loss", 2)])
def test_curves_mark_the_epoch_that_the_monitored_metric_chose(monitor: str, epoch: int) -> None:
    loss, score = (0.9, 0.5, 0.7), (0.4, 0.6, 0.8)
    rows = [
        {"epoch": at + 1, "train_loss": 1.0, "lr": 0.1, "valid_accuracy": 0.5}
        | {"valid_loss": loss[at], "valid_macro_f1": score[at]}
        for at in range(3)
    ]
    for axes in plots.training_curves(rows, monitor).axes:
        (mark,) = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
        assert list(mark.get_xdata()) == [epoch, epoch]
