"""A network of the user's own goes everywhere that ours go."""

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import tumorlens
from tumorlens.checkpoint import file as checkpoints
from tumorlens.cli import main
from tumorlens.models.build import (
    build_and_tell,
    build_model,
    last_linear,
    logits_and_features,
    map_layer,
    name_of,
)

# Ten lines, as a user would write them; `view` of all places would refuse channels last.
OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Linear(128, num_classes)
    def forward(self, x):
        return self.head(self.pool(self.body(x)).view(x.size(0), -1))

def fixed():
    return Own(10)

def headless(num_classes):
    layers = nn.Conv2d(3, num_classes, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers)

number = 3

def text(num_classes):
    return "a network"

def wide(num_classes):
    return headless(num_classes + 1)

def broken(num_classes):
    raise RuntimeError("no such width\\nand more")
"""


@pytest.fixture
def data(make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    return make_folder({"train": 6, "valid": 3, "test": 3})


def _train(data: Path, model: str, *more: str) -> list[str]:
    words = ["train", "--model", model, "--data_dir", str(data), "--epochs", "1", "--device", "cpu"]
    return [*words, "--image_size", "32", "--batch_size", "8", "--threads", "1", *more]


@pytest.mark.parametrize("factory", ["Own", "fixed", "headless"])
def test_own_network_goes_through_every_command(
    data: Path, factory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_train(data, f"own.py:{factory}")) == 0
    told = capsys.readouterr()
    best = "model/best_model.pt"
    assert Path(f"model/runs/own.py_{factory}-seed0-1/best_model.pt").is_file()
    assert ("had 10 outputs and is replaced by a fresh one of 4" in told.err) == (
        factory == "fixed"
    )
    no_features = "decisions are not available: its logits do not come from a linear layer"
    assert (no_features in told.out) == (factory == "headless")
    loaded = checkpoints.load(Path(best))
    assert loaded.model_name == f"own.py:{factory}"
    assert loaded.temperature is not None
    assert (loaded.ood_threshold is None) == (factory == "headless")
    for words in (
        ["evaluate", "--checkpoint", best, "--resamples", "100"],
        ["gradcam", "--checkpoint", best, "--count", "2", "--sanity", "--faithfulness"],
        ["gradcam", "--checkpoint", best, "--layer", "body" if factory != "headless" else "0"],
        ["gradcam", "--checkpoint", best, "--compare", "resnet18", "--count", "2"],
        ["export", "--checkpoint", best],
        ["export", "--checkpoint", best, "--format", "safetensors"],
        ["compare", best, best, "--resamples", "100"],
        ["report", "model"],
    ):
        assert main(words) == 0, (words, capsys.readouterr())
    drawn = json.loads(Path("model/gradcam/gradcam.json").read_text())
    assert drawn["layer"] is None  # the networks' defaults differ
    tables = []
    for name in ("best_model.pt", "best_model.onnx"):
        words = ["predict", str(data / "test"), "--checkpoint", f"model/{name}", "--csv", "a.csv"]
        assert main(words) == 0
        tables.append(Path("a.csv").read_text().splitlines())
    assert [row.split(",")[1] for row in tables[0]] == [row.split(",")[1] for row in tables[1]]


def test_own_network_is_resumed_and_studied(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_train(data, "own.py:Own", "--schedule", "constant")) == 0
    longer = ["train", "--resume", "model/runs/own.py_Own-seed0-1", "--epochs", "2"]
    assert main([*longer, "--device", "cpu", "--threads", "1"]) == 0
    study = ["study", "--models", "own.py:Own", "own.py:headless", *_train(data, "")[3:]]
    assert main(study) == 0, capsys.readouterr()
    assert main(["study", "--report", "--out_dir", "study", "--resamples", "100"]) == 0
    assert "headless" in Path("study/report/report.md").read_text()


def test_python_takes_a_module_and_a_function(data: Path) -> None:
    small = {"data_dir": data, "epochs": 1, "image_size": 32, "batch_size": 8, "device": "cpu"}
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 7))
    before = module[0].weight.detach().clone()
    run = tumorlens.train(model=module, threads=1, **small)
    assert torch.equal(module[0].weight, before)
    assert tumorlens.evaluate(checkpoint=run.checkpoint, resamples=100).metrics["all"]["n"] == 12

    assert name_of(module) == checkpoints.load(run.checkpoint).model_name
    assert name_of(nn.Sequential(nn.Flatten())) != name_of(module)

    def make(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))

    run = tumorlens.train(model=make, threads=1, **small)
    assert "3,072 features enter its last linear layer, more than 2,048" in run.note
    with pytest.raises(tumorlens.errors.TumorlensError, match="has no convolution for a map"):
        tumorlens.gradcam(checkpoint=run.checkpoint)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("no_such_package.nets:make", "there is no module to be imported no_such_package.nets"),
        ("own.py:missing", "missing in own.py is nothing, expected a function or class"),
        ("own.py:number", "number in own.py is int, expected a function or class"),
        ("own.py:text", "makes str, expected a torch.nn.Module"),
        ("own.py:wide", r"makes \(2, 5\) of 2 images, expected logits \(2, 4\)"),
        ("own.py:broken", r"fails when it is called for 4 classes \(RuntimeError: no such width\)"),
        ("bad.py:make", r"cannot be imported \(SyntaxError: .*\)"),
        ("vgg", "no such network; expected resnet18, .* or one of your own as"),
    ],
)
def test_faulty_code_is_one_sentence_and_leaves_nothing(
    data: Path, model: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.py").write_text("def make(:\n")
    capsys.readouterr()
    assert main(_train(data, model)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tumorlens")]
    assert len(lines) == 1
    assert re.search(told, lines[0]), lines
    assert not Path("model/runs").exists()


def test_code_that_was_never_named_here_is_not_run(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(_train(data, "own.py:Own")) == 0
    best = ["evaluate", "--checkpoint", "model/best_model.pt", "--resamples", "100"]
    monkeypatch.setenv("TUMORLENS_CACHE", str(tmp_path / "another computer's"))
    Path("own.py").write_text(OWN + "\nopen('ran', 'w').close()\n")
    assert main(best) == 2
    assert "is not run unasked" in capsys.readouterr().err
    assert main(["train", "--resume", "model/runs/own.py_Own-seed0-1", "--epochs", "9"]) == 2
    assert not Path("ran").exists()
    monkeypatch.setenv("TUMORLENS_TRUST", "own.py:Own")
    assert main(best) == 0
    assert Path("ran").exists()
    Path("own.py").unlink()
    assert main(best) == 2
    assert "there is no file own.py" in capsys.readouterr().err
    Path("own.py").write_text(OWN.replace("(3, 8, 3, 2, 1)", "(3, 8, 5, 2, 2)"))
    assert main(best) == 2
    assert "own.py:Own makes another network" in capsys.readouterr().err


def test_features_are_what_enters_the_last_linear_layer_and_the_hook_is_gone() -> None:
    network = build_model("resnet34", 3).eval()
    images = torch.randn(2, 3, 40, 48)
    logits, features = logits_and_features(network, images)
    expected = network.forward_features(images).mean(dim=(2, 3))
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, network.fc(expected))
    assert not last_linear(network)._forward_pre_hooks


def test_last_layer_is_replaced_where_the_factory_takes_no_classes() -> None:
    def fixed() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 9, bias=False))

    network, told = build_and_tell(name_of(fixed), 2)
    assert (network[2].in_features, network[2].out_features, network[2].bias) == (4, 2, None)
    assert "takes no num_classes: its last linear layer, 2, had 9 outputs" in told
    assert map_layer(network) == "0"
    same, told = build_and_tell(name_of(fixed), 9)
    assert (same[2].out_features, told) == (9, "")


@pytest.mark.parametrize(
    ("name", "parameters"),
    # ResNet34 of torchvision has 21,797,672 for 1,000 classes, of which fc 513,000.
    [("resnet34", 21_797_672 - 513_000 + 4 * 513), ("resnet18", 11_178_564)],
)
def test_ours_have_torchvisions_parameters(name: str, parameters: int) -> None:
    network = build_model(name, 4)
    assert sum(one.numel() for one in network.parameters()) == parameters
    se = build_model(f"se_{name}", 4)
    blocks = (
        {64: 2, 128: 2, 256: 2, 512: 2} if name == "resnet18" else {64: 3, 128: 4, 256: 6, 512: 3}
    )
    gates = sum(count * 2 * width * (width // 16) for width, count in blocks.items())
    assert sum(one.numel() for one in se.parameters()) == parameters + gates
