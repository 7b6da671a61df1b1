from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens import api
from tumorlens.cli import VERBS


def test_every_verb_is_a_function() -> None:
    for verb in set(VERBS) - {"cache"}:
        assert callable(getattr(api, verb))
    assert callable(api.cache_clear)


def test_functions_return_their_result_and_print_nothing(
    make_folder: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = make_folder({"train": 4, "valid": 2, "test": 2})
    run = api.train(
        model="resnet18",
        data_dir=str(data),
        out_dir=str(tmp_path / "model"),
        epochs=1,
        batch_size=8,
        image_size=32,
    )
    report = api.evaluate(checkpoint=run.checkpoint, resamples=100)
    explained = api.gradcam(checkpoint=str(run.checkpoint), class_name="glioma")
    made = api.phantom(out=str(tmp_path / "phantom"), train=2, valid=1, test=0, size=64)
    audit = api.audit(data_dir=str(data), out_dir=str(tmp_path / "audit"))
    split = api.split(data_dir=str(data), out=str(tmp_path / "splits.csv"))
    assert report.scores.all.n == 8
    assert explained.panel.is_file()
    assert made.images["train"]["glioma"] == 2
    assert len(audit.paths) == len(split.paths) == 32
    assert capfd.readouterr().out == ""


def test_nonsense_is_refused_as_on_the_command_line() -> None:
    with pytest.raises(ValueError, match="--epochs 0: expected 1 or more"):
        api.train(model="resnet18", data_dir="data", epochs=0)
