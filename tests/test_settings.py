import json
from pathlib import Path

import pytest

from tumorlens.settings import EvaluateSettings, PhantomSettings, TrainSettings, primitives

DATA = {"model": "resnet18", "data_dir": Path("data")}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "--epochs 0: expected 1 or more"),
        ({"batch_size": 1}, "--batch_size 1: expected 2 or more"),
        ({"image_size": 8}, "--image_size 8: expected 32 or more"),
        ({"lr": 0.0}, "--lr 0.0: expected more than 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"fold": 1}, "--fold needs --splits"),
        ({"seed": -1}, "--seed -1"),
        ({"train_on_valid": True, "patience": 3}, "--patience needs validation images"),
        ({"train_on_valid": True, "monitor": "loss"}, "--monitor needs validation images"),
    ],
)
def test_nonsense_is_refused_at_birth(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainSettings(**DATA, **values)


def test_new_run_needs_a_network_and_a_folder_a_resumed_one_does_not() -> None:
    with pytest.raises(ValueError, match="--model and --data_dir must be given"):
        TrainSettings()
    assert TrainSettings(resume=Path("run"), threads=1).model is None


def test_resumed_run_takes_no_other_settings() -> None:
    with pytest.raises(ValueError, match="leave out --lr, --model"):
        TrainSettings(model="resnet18", resume=Path("run"), lr=0.1, epochs=3)


def test_other_verbs_refuse_nonsense_too() -> None:
    with pytest.raises(ValueError, match="--resamples 3"):
        EvaluateSettings(Path("x.pt"), resamples=3)
    with pytest.raises(ValueError, match="--size 10"):
        PhantomSettings(size=10)


def test_settings_become_primitives() -> None:
    values = primitives(TrainSettings(**DATA))
    assert values["data_dir"] == "data"
    assert values["epochs"] is None
    assert json.loads(json.dumps(values)) == values
