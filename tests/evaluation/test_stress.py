import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import main
from tumorlens.data.display_changes import CHANGES
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.stress import Stress, Stressed, stress_figure
from tumorlens.models.build import build_model

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    # A network that answers the same whatever it is shown: no change can cost it anything.
    bare = Checkpoint("resnet18", CLASSES, Preprocessing(32, 0.2, 0.2), {}, None, {}, {})
    network = build_model("resnet18", 4, seed=0)
    network.fc.weight.data.zero_()
    network.fc.bias.data[:] = network.fc.bias.data.new_tensor([3.0, 0, 0, 0])
    path = tmp_path / "best_model.pt"
    ready = checkpoints.with_weights(bare, network, {})
    checkpoints.save(replace(ready, temperature=1.0, uncertainty_threshold=0.5), path)
    return path


def _stressed(checkpoint: Path, data: Path, *flags: str) -> dict[str, object]:
    out = checkpoint.parent / "evaluation"
    argv = ["--checkpoint", str(checkpoint), "--data_dir", str(data), "--resamples", "100"]
    assert main(["evaluate", *argv, "--out_dir", str(out), "--stress", *flags]) == 0
    assert (out / "stress.png").is_file()
    assert (out / "stress_examples.png").is_file()
    found: dict[str, object] = json.loads((out / "stress.json").read_text(encoding="utf-8"))
    return found


def test_network_that_sees_nothing_loses_nothing(
    checkpoint: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder({"train": 1, "valid": 1, "test": 4})
    found = _stressed(checkpoint, data)
    rows = found["changes"]
    assert isinstance(rows, list)
    assert len(rows) == sum(len(change.values) for change in CHANGES.values())
    assert {row["accuracy"]["value"] for row in rows} == {0.25}
    assert {row["loss"]["value"] for row in rows} == {0.0}
    assert {row["flipped"] for row in rows} == {0.0}
    assert {row["confident_errors"] for row in rows} == {0.75}
    assert rows[0]["recall"] == {"glioma": 1.0, "meningioma": 0.0, "notumor": 0.0, "pituitary": 0.0}
    assert "of everyday changes of display" in capsys.readouterr().out


def test_quick_is_one_grade_of_every_fourth_image(
    checkpoint: Path, make_folder: Callable[..., Path]
) -> None:
    data = make_folder({"train": 1, "valid": 1, "test": 5})
    found = _stressed(checkpoint, data, "quick")
    assert found["images"] == 8
    assert found["of"] == 20
    rows = found["changes"]
    assert isinstance(rows, list)
    assert len(rows) == len(CHANGES)


def test_figure_tells_how_many_images_were_changed() -> None:
    one = Estimate(0.5, 0.4, 0.6, 8)
    row = Stressed("noise", 3, 0.1, "", one, one, {}, 0.1, None, None)
    figure = stress_figure(Stress(one, (row,), "8 images", images=8, of=20), "net, test images")
    assert figure.axes[0].get_title() == "net, test images (n = 8): accuracy 50% unchanged"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == []
