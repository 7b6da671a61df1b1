import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from tumorlens.checkpoint import file as checkpoints
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.files import write_manifest
from tumorlens.settings import TrainSettings, primitives
from tumorlens.training import recipes
from tumorlens.training.fit import TrainingInterruptedError, train
from tumorlens.training.runs import begin, last_state, new_run_folder


class _StopInSecondEpoch(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 3, "valid": 2, "test": 2})


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    small = TrainSettings(model="resnet18", data_dir=data, out_dir=out, epochs=2, image_size=32)
    return replace(small, batch_size=4, threads=1, device="cpu", **changes)


def _moved(data: Path, path: str, to: str) -> None:
    (data / path).rename(data / to)


CHANGES = {
    r"1 changed \(train/glioma/glioma000.png\)": lambda data: shutil.copy(
        data / "train/glioma/glioma001.png", data / "train/glioma/glioma000.png"
    ),
    r"1 changed \(valid/glioma/glioma003.png\)": lambda data: shutil.copy(
        data / "train/glioma/glioma001.png", data / "valid/glioma/glioma003.png"
    ),
    r"1 missing \(train/notumor/notumor002.png\)": lambda data: (
        data / "train/notumor/notumor002.png"
    ).unlink(),
    # Relabelled: in the folder of another class.
    r"1 missing \(train/glioma/glioma000.png\), 1 new \(train/notumor/glioma000.png\)": (
        lambda data: _moved(data, "train/glioma/glioma000.png", "train/notumor/glioma000.png")
    ),
    r"1 new \(test/glioma/new.png\)": lambda data: shutil.copy(
        data / "train/glioma/glioma001.png", data / "test/glioma/new.png"
    ),
}


@pytest.mark.parametrize("found", CHANGES)
def test_resumed_run_refuses_other_images_than_it_began_with(
    data: Path, tmp_path: Path, found: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    state = run / "last.ckpt"
    loaded = load_for_training(resolve(data), 32)
    settings = _settings(data, tmp_path / "model")
    write_manifest(run, "train", complete=False, settings=primitives(settings))
    assert begin(settings, recipes.resolve(settings), loaded, run, None) == run
    assert begin(settings, recipes.resolve(settings), loaded, run, state) == run  # the same images
    CHANGES[found](data)
    told = "not those that the run began with, found " + found + "; put them back"
    with pytest.raises(TumorlensError, match=told):
        begin(settings, recipes.resolve(settings), load_for_training(resolve(data), 32), run, state)
    # Where no epoch was finished, nothing was learnt from the others.
    assert (
        begin(settings, recipes.resolve(settings), load_for_training(resolve(data), 32), run, None)
        == run
    )
    assert (
        begin(settings, recipes.resolve(settings), load_for_training(resolve(data), 32), run, state)
        == run
    )


def test_image_in_another_split_is_refused_too(data: Path, tmp_path: Path) -> None:
    loaded = load_for_training(resolve(data), 32)
    settings = _settings(data, tmp_path / "model")
    run = begin(settings, recipes.resolve(settings), loaded, None, None)
    assert run.name == "resnet18-seed0-1"
    splits = loaded.splits.copy()
    splits[:2] = "valid"
    with pytest.raises(TumorlensError, match=r"2 in another split \(test/glioma/glioma005.png\)"):
        begin(
            settings,
            recipes.resolve(settings),
            _with_splits(loaded, splits),
            run,
            run / "last.ckpt",
        )


def _with_splits(data: Dataset, splits: object) -> Dataset:
    return replace(data, splits=splits)


def test_run_of_an_earlier_version_goes_on(data: Path, tmp_path: Path) -> None:
    settings = _settings(data, tmp_path / "model")
    run = new_run_folder(settings)
    assert (
        begin(
            settings,
            recipes.resolve(settings),
            load_for_training(resolve(data), 32),
            run,
            run / "last.ckpt",
        )
        == run
    )


def test_interrupted_run_is_not_gone_on_with_on_other_images_or_a_damaged_state(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingInterruptedError) as stopped:
        train(_settings(data, tmp_path / "model"), extra_callbacks=(_StopInSecondEpoch(),))
    run = stopped.value.run_dir
    again = TrainSettings(resume=run, threads=1, device="cpu")
    image, state = data / "train/glioma/glioma000.png", run / "last.ckpt"
    content, whole = image.read_bytes(), state.read_bytes()
    shutil.copy(data / "train/glioma/glioma001.png", image)
    with pytest.raises(TumorlensError, match="1 changed"):
        train(again)
    image.write_bytes(content)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # which torch.load takes for a number
    for damaged in (b"", whole[: len(whole) // 2], bytes(flipped), b"another program's"):
        state.write_bytes(damaged)
        with pytest.raises(
            TumorlensError, match=r"last.ckpt there \([0-9,]+ bytes\) is cut off or damaged"
        ):
            train(again)
    assert not (tmp_path / "model/best_model.pt").exists()
    state.write_bytes(whole)
    (run / ".best_model-begun.pt").write_bytes(b"by a process that was killed")
    assert train(again).epochs == 2
    assert not list(run.glob(".*"))


def test_state_that_another_program_saved_is_none_of_a_run(tmp_path: Path) -> None:
    assert last_state(tmp_path) is None
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(TumorlensError, match="expected the state that train saved"):
        last_state(tmp_path)


def test_longer_constant_run_ends_as_one_of_so_many_epochs(data: Path, tmp_path: Path) -> None:
    settings = _settings(data, tmp_path / "one", schedule="constant", epochs=1)
    first = train(settings)
    news = train(TrainSettings(resume=first.run_dir, epochs=3, threads=1, device="cpu"))
    whole = train(replace(settings, out_dir=tmp_path / "other", epochs=3))
    assert (news.run_dir, news.epochs, news.selected) == (first.run_dir, 3, whole.selected)
    states = [
        torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
        for run in (news.run_dir, whole.run_dir)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert checkpoints.load(news.run_dir / "best_model.pt").settings["epochs"] == 3
    with pytest.raises(TumorlensError, match="has 3 already; expected more"):
        train(TrainSettings(resume=first.run_dir, epochs=3))
    (first.run_dir / "last.ckpt").unlink()
    with pytest.raises(TumorlensError, match=r"last.ckpt, is gone; .* --init .*best_model.pt"):
        train(TrainSettings(resume=first.run_dir, epochs=4))


def test_run_that_its_schedule_or_patience_ended_is_not_lengthened(
    data: Path, tmp_path: Path
) -> None:
    run = train(_settings(data, tmp_path / "model", epochs=1)).run_dir
    before = (run / "manifest.json").read_bytes()
    with pytest.raises(TumorlensError, match="schedule one_cycle over 1 epochs, .* by --init"):
        train(TrainSettings(resume=run, epochs=5))
    early = _settings(data, tmp_path / "early", epochs=9, patience=1, schedule="constant", lr=1e-9)
    stopped = train(early)
    assert stopped.stopped_early
    with pytest.raises(TumorlensError, match=r"stopped early after \d of 9 epochs"):
        train(TrainSettings(resume=stopped.run_dir, epochs=20))
    assert (run / "manifest.json").read_bytes() == before
