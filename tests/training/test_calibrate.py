import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import describe
from tumorlens.data.augment import augment
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.models.build import build_model
from tumorlens.training.calibrate import calibrate
from tumorlens.training.module import Classifier
from tumorlens.training.recipes import RECIPES
from tumorlens.uncertainty.calibration import NEVER


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Dataset:
    return load_for_training(resolve(make_folder({"train": 6, "valid": 4})), 32)


def _untrained(classes: tuple[str, ...]) -> Checkpoint:
    template = Checkpoint("resnet18", classes, Preprocessing(32, 0.2, 0.2), {}, None, {}, {})
    return checkpoints.with_weights(template, build_model("resnet18", 4, seed=0), {})


def test_calibrated_checkpoint_judges_pictures_after_a_round_trip(
    data: Dataset, tmp_path: Path
) -> None:
    done = calibrate(_untrained(data.classes), data, precision=0.75)
    assert done.temperature is not None
    assert done.calibration["precision_wanted"] == 0.75
    assert done.calibration["everyday_images"] == 16
    assert done.calibration["false_alarms"] <= done.calibration["false_alarms_wanted"] == 0.05
    assert done.calibration["nll_after"] <= done.calibration["nll_before"]
    assert done.class_means is not None
    assert done.class_means.shape[1] == 512
    checkpoints.save(done, tmp_path / "best_model.pt")
    loaded = checkpoints.load(tmp_path / "best_model.pt")
    rule = loaded.decision()
    assert rule.space is not None
    assert rule.threshold == done.uncertainty_threshold
    assert loaded.calibration == done.calibration
    far = np.full((1, 512), 1e4)
    assert rule.decide(np.zeros((1, 4)), far)[0].decision == "out of distribution"
    summary = checkpoints.summary(tmp_path / "best_model.pt")
    assert summary["ood_threshold"] == done.ood_threshold
    assert "class_means" not in summary


def test_class_means_are_those_of_the_training_images(data: Dataset) -> None:
    done = calibrate(_untrained(data.classes), data)
    assert done.class_means is not None
    train = data.indices("train")
    features = describe(
        done.network(), done.preprocessing, data.images, train, device=torch.device("cpu")
    )[1]
    for index, mean in enumerate(done.class_means):
        expected = torch.from_numpy(features[data.labels[train] == index].mean(axis=0)).float()
        torch.testing.assert_close(mean, expected, atol=1e-4, rtol=1e-4)


def test_checkpoint_written_before_novelty_still_loads(data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    checkpoints.save(_untrained(data.classes), path)
    content = torch.load(path, weights_only=True)
    for name in ("class_means", "ood_threshold", "calibration"):
        del content[name]
    torch.save(content, path)
    loaded = checkpoints.load(path)
    assert loaded.space() is None
    assert loaded.calibration == {}
    assert loaded.decision().decide(np.eye(4), np.zeros((4, 512)))[0].decision == "not calibrated"


def test_data_without_validation_images_is_refused(data: Dataset) -> None:
    splits = np.full_like(data.splits, "train")
    with pytest.raises(TumorlensError, match="0 validation images"):
        calibrate(_untrained(data.classes), replace(data, splits=splits))


class _WithoutFloat64(TorchDispatchMode):
    """Lets the meta device stand for one without 64-bit floats, such as Apple's MPS.

    It refuses them as MPS does; what is fetched to the CPU is zeros.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = [kwargs.get("device"), *args[1:]]
        to_cpu = torch.device("cpu") in [one for one in asked if isinstance(one, torch.device)]
        if to_cpu and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return 0
        found = func(*args, **kwargs)
        for one in found if isinstance(found, tuple | list) else [found]:
            double = isinstance(one, torch.Tensor) and one.dtype == torch.float64
            if double and one.device.type == "meta":
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


def test_device_double_refuses_what_apples_gpu_refuses() -> None:
    with _WithoutFloat64():
        there = torch.ones(2, device="meta")
        assert there.cpu().double().dtype == torch.float64
        with pytest.raises(TypeError, match="float64"):
            there.double()
        with pytest.raises(TypeError, match="float64"):
            torch.from_numpy(np.ones(2)).to("meta")


def test_end_of_a_training_needs_no_64_bit_floats_of_the_device(data: Dataset) -> None:
    with _WithoutFloat64():
        done = calibrate(_untrained(data.classes), data, device=torch.device("meta"))
    assert done.temperature is not None


def test_steps_of_a_training_need_no_64_bit_floats_of_the_device(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MPS has mixed precision, its double has none.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    recipe = replace(RECIPES["fast"], batch_size=4, class_weights="balanced")
    network, weights = build_model("se_resnet18", 4, seed=0), torch.ones(4)
    module = Classifier(network, 4, Preprocessing(32, 0.2, 0.2), recipe, 10, 0, weights)
    images, labels = torch.from_numpy(data.images[:4]), torch.from_numpy(data.labels[:4])
    with _WithoutFloat64():
        there = module.to("meta")
        optimizer = there.configure_optimizers()["optimizer"]
        batch = (images.to("meta"), labels.to("meta"), torch.arange(4))
        there.train()
        logits = there(augment(batch[0].float() / 255, batch[2], recipe.augmentation, 0, 0))
        F.cross_entropy(logits, batch[1], weight=there.class_weights).backward()
        optimizer.step()
        there.on_train_batch_end(None, batch, 0)
        there.eval()
        assert there.kept(there._inputs(batch[0].float() / 255)).device.type == "meta"


def test_network_that_learned_nothing_is_confident_of_nothing(data: Dataset) -> None:
    done = calibrate(_untrained(data.classes), data)
    assert done.uncertainty_threshold == NEVER
    changed = done.calibration["everyday_accuracy"]
    assert changed < 0.5
