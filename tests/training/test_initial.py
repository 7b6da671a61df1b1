import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.cli import main
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.models.build import build_model
from tumorlens.settings import TrainSettings
from tumorlens.training.fit import train
from tumorlens.training.initial import freeze, load_weights, starting_network


def _torchvision(blocks: tuple[int, ...]) -> list[str]:
    """The keys of torchvision's resnet18 and resnet34, in its order (models/resnet.py, v0.21)."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            here = f"layer{stage}.{block}"
            for number in (1, 2):
                names += [f"{here}.conv{number}.weight"]
                names += [f"{here}.bn{number}.{part}" for part in norm]
            if stage > 1 and block == 0:
                names += [f"{here}.downsample.0.weight"]
                names += [f"{here}.downsample.1.{part}" for part in norm]
    return [*names, "fc.weight", "fc.bias"]


def _weights(name: str = "resnet18", classes: int = 1000) -> dict[str, Tensor]:
    """Of another start, with metrics of batch norm that are not those of a fresh one."""
    weights = build_model(name, classes, seed=7).state_dict()
    return {key: one + 1 if "running" in key else one for key, one in weights.items()}


def _loaded(network: nn.Module, weights: dict[str, Tensor], but: tuple[str, ...] = ()) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[key], one) for key, one in weights.items() if key not in but)


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3))]
)
def test_state_dict_of_torchvisions_names_loads_and_the_last_layer_starts_afresh(
    name: str, blocks: tuple[int, ...], tmp_path: Path
) -> None:
    weights = _weights(name)
    assert sorted(weights) == sorted(_torchvision(blocks))
    wrapped = {"epoch": 90, "state_dict": {f"module.{key}": one for key, one in weights.items()}}
    torch.save(wrapped, tmp_path / "theirs.pth")
    network = build_model(name, 4)
    before = network.fc.weight.clone()
    told = load_weights(network, tmp_path / "theirs.pth")
    assert _loaded(network, weights, but=("fc.weight", "fc.bias"))
    assert torch.equal(network.fc.weight, before)
    count = len(list(network.parameters()))
    assert f"{count - 2} of the network's {count} parameter tensors loaded" in told
    assert told.endswith("afresh: fc.weight, fc.bias; of the file unused: fc.weight, fc.bias")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_last_layer_of_as_many_classes_is_loaded_too(suffix: str, tmp_path: Path) -> None:
    weights = _weights(classes=4)
    path = tmp_path / f"theirs{suffix}"
    if suffix == ".pt":
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    else:
        save_file(weights, path)
    network = build_model("resnet18", 4)
    assert load_weights(network, path).endswith("afresh: none; of the file unused: none")
    assert _loaded(network, weights)


def test_gates_that_the_file_lacks_start_afresh(tmp_path: Path) -> None:
    torch.save(_weights(), tmp_path / "theirs.pt")
    network, same = build_model("se_resnet18", 4), build_model("se_resnet18", 4)
    told = load_weights(network, tmp_path / "theirs.pt")
    assert "afresh: layer1.0.se.fc1.weight, layer1.0.se.fc2.weight" in told
    assert torch.equal(network.layer1[0].se.fc1.weight, same.layer1[0].se.fc1.weight)
    assert torch.equal(network.conv1.weight, _weights()["conv1.weight"])


def test_stem_of_one_channel_answers_to_grey_as_it_did(tmp_path: Path) -> None:
    weights = _weights()
    weights["conv1.weight"] = weights["conv1.weight"][:, :1].clone()
    torch.save(weights, tmp_path / "grey.pt")
    network = build_model("resnet18", 4)
    load_weights(network, tmp_path / "grey.pt")
    grey = torch.randn(2, 1, 16, 16)
    expected = nn.functional.conv2d(grey, weights["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(network.conv1(grey.expand(-1, 3, -1, -1)), expected)


def test_checkpoints_and_bundled_networks_are_weights_too(tmp_path: Path) -> None:
    bare = checkpoints.Checkpoint(
        "resnet18", ("a", "b"), Preprocessing(32, 0.2, 0.2), {}, None, {}, {}
    )
    own = checkpoints.with_weights(bare, build_model("resnet18", 2, seed=3), {})
    for name in ("own.pt", "own.safetensors"):
        checkpoints.save(own, tmp_path / name)
        network = build_model("resnet18", 2)
        assert load_weights(network, tmp_path / name).endswith("unused: none")
        assert network.conv1.weight.allclose(own.weights["conv1.weight"], atol=1e-3)
    network = build_model("resnet34", 2)
    told = load_weights(network, Path("resnet18"))
    assert told.startswith("resnet18: 60 of the network's 110 parameter tensors loaded")


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("code ran",)


def _changed(**changes: Tensor) -> dict[str, Tensor]:
    return _weights() | {name.replace("_", "."): one for name, one in changes.items()}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "found nothing, expected a checkpoint, a state dict"),
        (b"nothing", "(is no PyTorch file, or holds pickled objects|cannot be read as)"),
        ({"state_dict": {"conv1.weight": _Runs()}}, "holds pickled objects, which could run code"),
        ({"epoch": 3}, "holds no state dict, names to tensors, at its top or under state_dict"),
        ({"features.0.weight": torch.zeros(3, 3)}, r"none of its 1 tensors \(features.0.weight\)"),
        (
            _changed(conv1_weight=torch.zeros(64, 3, 5, 5)),
            r"conv1.weight there is \(64, 3, 5, 5\), the network's is \(64, 3, 7, 7\)",
        ),
        (_changed(bn1_bias=torch.full((64,), float("nan"))), "bn1.bias has values .* not finite"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_faulty_weights_are_one_sentence_and_leave_nothing(
    content: Any,
    told: str,
    suffix: str,
    make_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / f"theirs{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None and suffix == ".pt":
        torch.save(content, path)
    elif content is not None:
        if not all(isinstance(one, Tensor) for one in content.values()):
            pytest.skip("safetensors holds tensors alone")
        save_file(content, path)
    data = make_folder({"train": 2, "valid": 2}, ("a", "b"))
    words = ["train", "--model", "resnet18", "--data_dir", str(data), "--image_size", "32"]
    words += ["--device", "cpu", "--out_dir", str(tmp_path / "model"), "--init", str(path)]
    assert main(words) == 2
    found = capsys.readouterr()
    lines = [line for line in found.err.splitlines() if line.startswith("tumorlens")]
    assert len(lines) == 1
    assert re.search(f"--init {re.escape(str(path))}: .*{told}", lines[0]), lines
    assert "code ran" not in found.out
    assert not (tmp_path / "model").exists()


def _settings(data: Path, out: Path, **changes: Any) -> TrainSettings:
    small = TrainSettings(
        model="resnet18",
        data_dir=data,
        out_dir=out,
        epochs=1,
        batch_size=8,
        image_size=32,
        threads=1,
        device="cpu",
    )
    return replace(small, **changes)


def test_what_is_frozen_does_not_change_and_the_rest_does(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_folder({"train": 6, "valid": 3})
    torch.save(weights := _weights(classes=4), tmp_path / "theirs.pt")
    frozen = ("conv1,bn1", "layer1", "layer2", "layer3")
    news: list[str] = []
    result = train(
        _settings(data, tmp_path / "model", init=tmp_path / "theirs.pt", freeze=frozen),
        lambda stage, *_: news.append(_[-1]) if stage == "network" else None,
    )
    found = checkpoints.load(result.checkpoint)
    apart = {key for key, one in weights.items() if not torch.equal(found.weights[key], one)}
    assert {key.partition(".")[0] for key in apart} == {"layer4", "fc"}  # batch norms' metrics too
    layer4 = sum(one.numel() for one in build_model("resnet18", 4).layer4.parameters())
    assert f"{layer4 + 2052:,} of 11,178,564 parameters train" in news[1]
    assert found.settings["starting_network"] == news
    assert found.settings["freeze"] == list(frozen)


@pytest.mark.parametrize(
    ("prefixes", "told"),
    [
        (("layer",), "--freeze layer: no parameter of the network lies there; its parts are conv1"),
        (("layer1.7",), "--freeze layer1.7: no parameter"),
        (("conv1,bn1,layer1,layer2,layer3,layer4,fc",), "nothing is left to train"),
    ],
)
def test_freezing_nothing_or_everything_is_refused(prefixes: tuple[str, ...], told: str) -> None:
    with pytest.raises(TumorlensError, match=told):
        freeze(build_model("resnet18", 4), prefixes)


def test_prefix_is_a_path_and_not_the_start_of_a_word() -> None:
    network = nn.Sequential()
    for name in ("layer1", "layer10"):
        network.add_module(name, nn.Linear(2, 2))
    assert freeze(network, ("layer1",)) == "6 of 12 parameters train; frozen: layer1"
    assert network.layer10.weight.requires_grad


def test_the_same_seed_starts_alike_and_says_nothing() -> None:
    settings = TrainSettings(model="se_resnet34", data_dir=Path(), seed=3)
    network, told = starting_network(settings, 4, 32)
    assert told == []
    assert _loaded(network, build_model("se_resnet34", 4, seed=3).state_dict())
