"""Half-precision checkpoints through the command: the phantom's stand-in, and what reads them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tumorlens
from tumorlens.checkpoint import file as checkpoints
from tumorlens.cli import main


@pytest.fixture
def trained(make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A network of drawn images, with calibration."""
    data = make_folder({"train": 4, "valid": 3, "test": 2}, classes=("glioma", "notumor"))
    tumorlens.train(
        model="resnet18",
        data_dir=str(data),
        out_dir=str(tmp_path / "model"),
        epochs=1,
        image_size=32,
        threads=1,
    )
    return tmp_path / "model" / "best_model.pt"


def test_file_has_no_folder_of_this_machine_and_every_verb_takes_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--checkpoint", str(trained), "--format", "safetensors", "--threads", "1"]
    assert main(["export", *argv]) == 0
    light = trained.with_suffix(".safetensors")
    told = capsys.readouterr().out
    assert "Compared: 6 validation images; largest difference from PyTorch" in told
    assert f"Written:  {light}" in told
    assert "fp16" in told
    assert str(tmp_path).encode() not in light.read_bytes()
    whole, found = checkpoints.load(trained), checkpoints.load(light)
    assert found.data_dir is None
    assert found.data is not None
    assert whole.data is not None
    assert found.data.train == whole.data.train
    assert (found.temperature, found.calibration) == (whole.temperature, whole.calibration)

    data = tmp_path / "data"
    assert main(["evaluate", "--checkpoint", str(light), "--threads", "1"]) == 2
    assert "remembers no data folder; name one with --data_dir" in capsys.readouterr().err
    asked = ["--checkpoint", str(light), "--data_dir", str(data), "--threads", "1"]
    assert main(["evaluate", *asked, "--resamples", "100"]) == 0
    scored = json.loads((trained.parent / "evaluation" / "metrics.json").read_text())
    assert scored["split"] == "test"
    assert main(["gradcam", *asked, "--class", "glioma"]) == 0
    assert (trained.parent / "gradcam" / "panel.png").is_file()
    table = tmp_path / "predictions.csv"
    slices = str(data / "test")
    assert main(["predict", slices, "--checkpoint", str(light), "--csv", str(table)]) == 0
    assert len(table.read_text().splitlines()) == 5


def test_the_checkpoint_itself_is_not_overwritten(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "--format", "safetensors", "--threads", "1", "--checkpoint"]
    assert main([*argv, str(trained)]) == 0
    light = trained.with_suffix(".safetensors")
    before = light.read_bytes()
    capsys.readouterr()
    assert main([*argv, str(light)]) == 2
    assert "is the checkpoint itself, which is not overwritten" in " ".join(
        capsys.readouterr().err.split()
    )
    assert light.read_bytes() == before


def test_eight_bits_are_for_onnx(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["export", "--checkpoint", str(trained), "--format", "safetensors", "--int8"]
    assert main(argv) == 2
    assert "--int8: is for --format onnx" in " ".join(capsys.readouterr().err.split())
