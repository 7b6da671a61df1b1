"""Checkpoints in half precision, and the ones that come with tumorlens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint, DataRecord
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.models.build import build_model


@pytest.fixture(scope="module")
def whole() -> Checkpoint:
    """A checkpoint with every entry filled."""
    rng = torch.Generator().manual_seed(0)
    spread = torch.rand(512, 512, generator=rng)
    network = build_model("resnet18", 2, seed=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    record = DataRecord(
        data_dir=None,
        layout="train valid",
        protocol="as the folders say",
        train=("train/a/1.png", "train/b/2.png"),
        valid=("valid/a/3.png",),
        test=(),
        skipped={},
        fingerprints=np.arange(64, dtype=np.uint8).reshape(2, 32),
        digests=np.arange(32, dtype=np.uint8).reshape(2, 16),
    )
    template = Checkpoint(
        model_name="resnet18",
        classes=("a", "b"),
        preprocessing=Preprocessing(32, 0.1 + 0.2, 1 / 3),
        weights={},
        data=record,
        settings={"seed": 1, "recipe_resolved": {"augmentation": {"flip": True}}},
        selected={"epoch": 3, "valid_macro_f1": 2 / 3},
        temperature=1 / 7,
        uncertainty_threshold=0.7,
        feature_covariance=spread @ spread.T + torch.eye(512),
        class_means=torch.rand(2, 512, generator=rng),
        ood_threshold=4.5,
        calibration={"coverage": 0.95},
    )
    return checkpoints.with_weights(template, network, template.selected)


def test_everything_but_the_kernels_comes_back_bit_for_bit(
    whole: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "light.safetensors"
    checkpoints.save(whole, path)
    found = checkpoints.load(path)
    assert sorted(found.weights) == sorted(whole.weights)
    for name, expected in whole.weights.items():
        assert found.weights[name].dtype == expected.dtype
        halved = expected.half().float() if expected.ndim > 1 else expected
        torch.testing.assert_close(found.weights[name], halved, rtol=0, atol=0, msg=name)
    for name in ("feature_covariance", "class_means"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert found.data is not None
    assert whole.data is not None
    np.testing.assert_array_equal(found.data.fingerprints, whole.data.fingerprints)
    np.testing.assert_array_equal(found.data.digests, whole.data.digests)
    bare = {"weights": {}, "feature_covariance": None, "class_means": None}
    records = [
        vars(one)
        | bare
        | {"path": None, "data": vars(one.data) | {"fingerprints": 0, "digests": 0}}
        for one in (found, whole)
        if one.data
    ]
    assert records[0] == records[1]


def test_file_has_half_the_size_and_no_json_beside_it(whole: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(whole, tmp_path / "light.safetensors")
    checkpoints.save(whole, tmp_path / "full.pt")
    assert not (tmp_path / "light.json").exists()
    light, full = (tmp_path / name for name in ("light.safetensors", "full.pt"))
    space = 4 * 512 * 512  # bytes of the covariance, which stays whole
    assert light.stat().st_size - space < 0.51 * (full.stat().st_size - space)


def test_answers_stay_within_rounding(whole: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(whole, tmp_path / "light.safetensors")
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = whole.network()(images)
        light = checkpoints.load(tmp_path / "light.safetensors").network()(images)
    assert not torch.equal(exact, light)
    torch.testing.assert_close(light, exact, rtol=0, atol=5e-3)


def test_weight_beyond_sixteen_bits_is_refused_and_nothing_is_written(
    whole: Checkpoint, tmp_path: Path
) -> None:
    weights = dict(whole.weights)
    weights["fc.weight"] = weights["fc.weight"] + 70_000
    with pytest.raises(TumorlensError, match=r"fc\.weight: a weight of 7e\+04 is beyond the 65504"):
        checkpoints.save(replace(whole, weights=weights), tmp_path / "light.safetensors")
    assert not list(tmp_path.iterdir())


def test_bare_name_is_the_network_that_comes_with_tumorlens(
    whole: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    boxed = tmp_path / "weights" / "resnet18.safetensors"
    checkpoints.save(whole, boxed)
    assert checkpoints.load(Path("resnet18")).path == boxed
    assert checkpoints.sha256(Path("resnet18")) == checkpoints.sha256(boxed)
    with pytest.raises(TumorlensError, match="no weights of its own for se_resnet18"):
        checkpoints.load(Path("se_resnet18"))


def test_file_of_that_name_goes_before_the_box(
    whole: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    checkpoints.save(whole, tmp_path / "weights" / "resnet18.safetensors")
    checkpoints.save(replace(whole, temperature=9.0), tmp_path / "own.pt")
    (tmp_path / "own.pt").rename("resnet18")
    assert checkpoints.load(Path("resnet18")).temperature == 9.0
