import contextlib
import csv
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tumorlens.checkpoint import file as checkpoints
from tumorlens.errors import TumorlensError
from tumorlens.settings import TrainSettings
from tumorlens.training.fit import TrainingInterruptedError, train
from tumorlens.training.recipes import memory_of, resolve

ROOT = Path(__file__).parents[2]


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    small = TrainSettings(
        model="se_resnet18",
        data_dir=data,
        out_dir=out,
        epochs=3,
        batch_size=8,
        image_size=32,
        threads=1,
        device="cpu",
    )
    return replace(small, **changes)


def _same_weights(one: Path, other: Path) -> bool:
    a, b = (checkpoints.load(path).weights for path in (one, other))
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 6, "valid": 3, "test": 2})


def test_run_leaves_what_the_contract_says(data: Path, tmp_path: Path) -> None:
    heard = []
    result = train(
        _settings(data, tmp_path / "model"),
        lambda stage, done, total, note="": heard.append((stage, done, total)),
    )
    assert result.run_dir == tmp_path / "model/runs/se_resnet18-seed0-1"
    names = {path.name for path in result.run_dir.iterdir() if path.is_file()}
    assert {
        "best_model.pt",
        "best_model.json",
        "last.ckpt",
        "metrics.csv",
        "training_curves.png",
        "manifest.json",
    } <= names
    assert result.counts == {"train": 24, "valid": 12, "test": 8}
    assert _same_weights(result.checkpoint, result.run_dir / "best_model.pt")
    with (result.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: float(row["valid_macro_f1"]))
    assert result.selected["valid_macro_f1"] == pytest.approx(float(best["valid_macro_f1"]))
    assert result.selected["epoch"] == int(best["epoch"])
    assert ("training", 9, 9) in heard
    assert [item for item in heard if item[0] == "epoch"] == [("epoch", n, 3) for n in (1, 2, 3)]
    record = checkpoints.load(result.checkpoint).data
    assert record is not None
    assert record.fingerprints.shape == (24, 32)
    assert len(record.test) == 8


def test_every_image_is_trained_on_in_every_epoch(data: Path, tmp_path: Path) -> None:
    # The published notebook returned from inside its batch loop: an "epoch" was one batch.
    class Count(Callback):
        def __init__(self):
            self.seen: dict[int, list[int]] = {}

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.seen.setdefault(trainer.current_epoch, []).extend(batch[2].tolist())

    count = Count()
    train(_settings(data, tmp_path / "model", epochs=2), extra_callbacks=(count,))
    assert {epoch: len(set(seen)) for epoch, seen in count.seen.items()} == {0: 24, 1: 24}


def test_best_weights_are_those_of_the_best_epoch_not_of_the_last(
    data: Path, tmp_path: Path
) -> None:
    class Keep(Callback):
        def __init__(self):
            self.weights: dict[int, dict[str, torch.Tensor]] = {}

        def on_validation_end(self, trainer, module):
            state = module.network.state_dict()
            self.weights[trainer.current_epoch + 1] = {k: v.clone() for k, v in state.items()}

    keep = Keep()
    result = train(
        _settings(data, tmp_path / "model", epochs=6, lr=0.05, schedule="constant", patience=2),
        extra_callbacks=(keep,),
    )
    best = checkpoints.load(result.checkpoint)
    assert result.epochs > result.selected["epoch"], "choose a setting whose last epoch is worse"
    kept = keep.weights[result.selected["epoch"]]
    assert all(torch.equal(best.weights[key], kept[key]) for key in kept)
    assert any(not torch.equal(best.weights[key], keep.weights[result.epochs][key]) for key in kept)
    assert result.stopped_early


def test_memory_is_kept_but_where_tensors_are_large(data: Path, tmp_path: Path) -> None:
    def kept(recipe: str, processes: int = 1) -> bool:
        asked = TrainSettings(model="resnet18", data_dir=data, recipe=recipe)
        return not isinstance(memory_of(resolve(asked), processes), contextlib.nullcontext)

    assert kept("plain")
    assert kept("fast")
    assert not kept("paper")  # 224 px, batch 128
    assert kept("paper", processes=2)


def test_run_that_trains_on_validation_images_keeps_its_last_epoch(
    data: Path, tmp_path: Path
) -> None:
    last: dict[str, torch.Tensor] = {}

    class Keep(Callback):
        def on_train_epoch_end(self, trainer, module):
            last.update({key: value.clone() for key, value in module.kept.state_dict().items()})

    # `fast` keeps a running mean of the weights, which is not the network in training.
    settings = _settings(data, tmp_path / "whole", train_on_valid=True, recipe="fast")
    whole = train(replace(settings, schedule="constant"), extra_callbacks=(Keep(),))
    assert whole.counts == {"train": 36, "valid": 0, "test": 8}
    assert (whole.selected, whole.epochs, whole.stopped_early) == ({"epoch": 3}, 3, False)
    kept = checkpoints.load(whole.checkpoint)
    assert all(torch.equal(kept.weights[key], last[key]) for key in last)
    assert kept.data is not None
    assert (len(kept.data.train), kept.data.valid) == (36, ())
    assert (
        len(kept.data.fingerprints) == 36
    )  # a near-duplicate of a former validation image is told
    assert kept.temperature is None
    with (whole.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["valid_loss"]) for row in rows] == [("1", ""), ("2", ""), ("3", "")]

    other = replace(settings, schedule="constant", out_dir=tmp_path / "model")
    with pytest.raises(TrainingInterruptedError) as stopped:
        train(other, extra_callbacks=(_StopIn(1),))
    resumed = train(TrainSettings(resume=stopped.value.run_dir, threads=1, device="cpu"))
    assert _same_weights(resumed.checkpoint, whole.checkpoint)


def test_last_weights_that_are_not_finite_are_no_result(data: Path, tmp_path: Path) -> None:
    class Break(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.is_last_batch:  # after every loss, which were all finite
                torch.nn.init.constant_(module.network.fc.bias, float("nan"))

    with pytest.raises(TumorlensError, match="diverged, the last epoch's weights are not finite"):
        train(
            _settings(data, tmp_path / "model", epochs=1, train_on_valid=True),
            extra_callbacks=(Break(),),
        )
    assert not (tmp_path / "model/best_model.pt").exists()


def test_same_seed_same_weights_other_seed_other_weights(data: Path, tmp_path: Path) -> None:
    runs = [
        train(_settings(data, tmp_path / "model", epochs=1, seed=seed)).run_dir / "best_model.pt"
        for seed in (1, 1, 2)
    ]
    assert runs[0] != runs[1]  # the second run did not overwrite the first
    assert _same_weights(runs[0], runs[1])
    assert not _same_weights(runs[0], runs[2])


def test_two_networks_leave_two_runs_and_say_what_was_replaced(data: Path, tmp_path: Path) -> None:
    first = train(_settings(data, tmp_path / "model", epochs=1))
    second = train(_settings(data, tmp_path / "model", epochs=1, model="resnet18"))
    assert first.replaced is None
    assert second.replaced == "se_resnet18-seed0-1"
    assert checkpoints.load(first.run_dir / "best_model.pt").model_name == "se_resnet18"
    assert checkpoints.load(second.checkpoint).model_name == "resnet18"


def test_file_in_the_checkpoints_place_that_is_not_ours_stays(data: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "model/best_model.pt"
    theirs.parent.mkdir()
    torch.save({"their": "model"}, theirs)
    before = theirs.read_bytes()
    with pytest.raises(TumorlensError, match="not written by tumorlens"):
        train(_settings(data, theirs.parent))
    assert theirs.read_bytes() == before
    assert not (theirs.parent / "runs").exists()


class _StopIn(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [0, 2])
def test_run_resumed_after_ctrl_c_ends_like_one_never_interrupted(
    data: Path, tmp_path: Path, epoch: int
) -> None:
    whole = train(_settings(data, tmp_path / "whole"))
    settings = _settings(data, tmp_path / "model")
    with pytest.raises(TrainingInterruptedError) as stopped:
        train(settings, extra_callbacks=(_StopIn(epoch),))
    run = stopped.value.run_dir
    assert not (tmp_path / "model/best_model.pt").exists()
    resumed = train(TrainSettings(resume=run, threads=1, device="cpu"))
    assert resumed.run_dir == run
    assert _same_weights(resumed.checkpoint, whole.checkpoint)
    last = [torch.load(r.run_dir / "last.ckpt", weights_only=True) for r in (whole, resumed)]
    for key, value in last[0]["state_dict"].items():
        assert torch.equal(value, last[1]["state_dict"][key]), key
    columns = ("epoch", "train_loss", "valid_loss", "valid_macro_f1", "lr")
    tables = []
    for folder in (whole.run_dir, run):
        with (folder / "metrics.csv").open() as file:
            tables.append([[row[name] for name in columns] for row in csv.DictReader(file)])
    assert tables[0] == tables[1]
    with pytest.raises(TumorlensError, match="this run is complete"):
        train(TrainSettings(resume=run))


def test_run_resumed_after_kill_9_ends_like_one_never_interrupted(
    data: Path, tmp_path: Path
) -> None:
    whole = train(_settings(data, tmp_path / "whole"))
    # A real process, killed by itself in the middle of the second epoch.
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from lightning.pytorch import Callback, Trainer
        from tumorlens.settings import TrainSettings
        from tumorlens.training.fit import train

        class Die(Callback):
            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                if trainer.current_epoch == 1 and batch_idx == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

        train(TrainSettings(model="se_resnet18", data_dir=Path(sys.argv[1]),
              out_dir=Path(sys.argv[2]), epochs=3, batch_size=8, image_size=32, threads=1,
              device="cpu"), extra_callbacks=(Die(),))
    """)
    died = subprocess.run(
        [sys.executable, "-c", script, str(data), str(tmp_path / "model")], check=False, timeout=120
    )
    assert died.returncode == -signal.SIGKILL
    run = tmp_path / "model/runs/se_resnet18-seed0-1"
    resumed = train(TrainSettings(resume=run, threads=1, device="cpu"))
    assert _same_weights(resumed.checkpoint, whole.checkpoint)
    assert resumed.epochs == 3


def test_run_that_stopped_early_and_died_while_calibrating_ends_like_one_that_did_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = {"epochs": 6, "lr": 0.05, "schedule": "constant", "patience": 2}
    whole = train(_settings(data, tmp_path / "whole", **worse))
    assert whole.stopped_early

    def stop(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tumorlens.training.fit.calibrate", stop)
        with pytest.raises(TrainingInterruptedError) as stopped:
            train(_settings(data, tmp_path / "model", **worse))
    run = stopped.value.run_dir
    assert not (tmp_path / "model/best_model.pt").exists()
    resumed = train(TrainSettings(resume=run, threads=1, device="cpu"))
    assert (resumed.epochs, resumed.selected) == (whole.epochs, whole.selected)
    assert _same_weights(resumed.checkpoint, whole.checkpoint)
    ends = [checkpoints.load(result.checkpoint) for result in (resumed, whole)]
    assert ends[0].temperature == ends[1].temperature is not None
    last = [torch.load(r.run_dir / "last.ckpt", weights_only=True) for r in (whole, resumed)]
    assert last[0]["global_step"] == last[1]["global_step"]


def test_run_goes_on_from_any_directory_and_keeps_the_command_that_started_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "se_resnet18"])
    settings = _settings(data.relative_to(tmp_path), Path("model"), epochs=2)
    with pytest.raises(TrainingInterruptedError) as stopped:
        train(settings, extra_callbacks=(_StopIn(1),))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "argv", ["train.py", "--resume", "there"])
    resumed = train(
        TrainSettings(resume=Path("..") / stopped.value.run_dir, threads=1, device="cpu")
    )
    assert resumed.checkpoint == tmp_path / "model/best_model.pt"
    assert resumed.checkpoint.is_file()
    assert list(elsewhere.iterdir()) == []
    manifest = json.loads((resumed.run_dir / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["arguments"] == ["train.py", "--model", "se_resnet18"]


def test_loss_that_chooses_the_epoch_is_the_one_that_is_told(data: Path, tmp_path: Path) -> None:
    told = []
    train(
        _settings(data, tmp_path / "model", monitor="loss"),
        lambda stage, done, total, note="": told.append(note) if stage == "epoch" else None,
    )
    losses = [float(note.split("valid loss ")[1].split(" ")[0]) for note in told]
    assert f"valid loss {losses[-1]:.3f} (best {min(losses):.3f}), accuracy" in told[-1]
    assert told[-1].count("best") == 1


def test_process_of_the_second_machine_knows_that_it_is_not_the_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    # As on a plain cluster: neither RANK nor LOCAL_RANK is set.
    for name, value in (("NODE_RANK", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    ranks = []

    def fit(trainer: Trainer, *_: object) -> None:  # there is no first machine to train with
        ranks.append((trainer.global_rank, trainer.is_global_zero, trainer.world_size))

    monkeypatch.setattr("tumorlens.training.fit._fit", fit)
    told = []
    settings = _settings(data, tmp_path / "model", num_nodes=2, precision="32-true")
    result = train(settings, lambda stage, *_: told.append(stage))
    assert ranks == [(1, False, 2)]
    assert result.selected == {}  # the first one tells, and writes
    assert "class" not in told
    assert not (tmp_path / "model").exists()


def test_resume_wants_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="not a run folder"):
        train(TrainSettings(resume=tmp_path))


def test_skipped_files_are_recorded(data: Path, tmp_path: Path) -> None:
    (data / "train/glioma/glioma000.png").write_text("no image")
    result = train(_settings(data, tmp_path / "model", epochs=1, on_bad_image="skip"))
    summary = json.loads((tmp_path / "model/best_model.json").read_text())
    assert list(result.skipped) == ["train/glioma/glioma000.png"]
    assert list(summary["data"]["skipped"]) == ["train/glioma/glioma000.png"]


_TWO = """
import sys
import numpy as np, torch
from lightning.pytorch import Callback, Trainer
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.augment import Augmentation
from tumorlens.models.build import build_model
from tumorlens.training.module import Classifier, training_batches, validation_batches
from tumorlens.training.recipes import Recipe

world, out = int(sys.argv[1]), sys.argv[2]

class Watch(Callback):
    losses, seen, gradients = [], [], None
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]) * (1 if world == 2 else 2))
        self.seen += batch[2].tolist()
    def on_before_optimizer_step(self, trainer, module, optimizer):
        if self.gradients is None:
            self.gradients = {k: p.grad.clone() for k, p in module.network.named_parameters()}

torch.set_num_threads(1)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (21, 32, 32), dtype=np.uint8)
labels = rng.integers(0, 4, 21)
recipe = Recipe(32, 1, 8, 1e-3, "constant", 5, Augmentation())
module = Classifier(build_model("se_resnet18", 4, 1), 4, Preprocessing(32, 0.5, 0.3), recipe, 2, 0)
watch = Watch()
trainer = Trainer(accelerator="cpu", devices=world, strategy="ddp" if world == 2 else "auto",
    max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
    accumulate_grad_batches=1 if world == 2 else 2, callbacks=[watch])
rank = trainer.global_rank
trainer.fit(module,
    training_batches(images, labels, np.arange(16), 4, 0, rank=rank, world=world),
    validation_batches(images, labels, np.arange(16, 21), rank=rank, world=world))
torch.save({"losses": watch.losses, "seen": watch.seen, "gradients": watch.gradients,
    "valid": {k: float(v) for k, v in trainer.callback_metrics.items()}}, f"{out}.{rank}")
"""


def test_two_processes_equal_one_that_accumulates_two_half_batches(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    for world in (1, 2):
        done = subprocess.run(
            [sys.executable, str(script), str(world), str(tmp_path / f"world{world}")],
            check=False,
            timeout=180,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    alone = torch.load(tmp_path / "world1.0", weights_only=True)
    first, second = (torch.load(tmp_path / f"world2.{rank}", weights_only=True) for rank in (0, 1))
    assert not set(first["seen"]) & set(second["seen"])
    assert sorted(first["seen"] + second["seen"]) == sorted(alone["seen"]) == list(range(16))
    for step in (0,):  # before the first optimiser step the weights are the same in both
        assert first["losses"][step] == pytest.approx(alone["losses"][2 * step], abs=1e-5)
        assert second["losses"][step] == pytest.approx(alone["losses"][2 * step + 1], abs=1e-5)
    for key, gradient in alone["gradients"].items():
        torch.testing.assert_close(first["gradients"][key], gradient, atol=1e-5, rtol=1e-5)
        assert torch.equal(first["gradients"][key], second["gradients"][key])
    # Running means of batch norm differ by process, so the metrics may; their images may not.
    assert first["valid"] == second["valid"]


def test_command_trains_in_two_processes_and_leaves_one_run(data: Path, tmp_path: Path) -> None:
    words = ["train", "--model", "resnet18", "--data_dir", str(data), "--devices", "2"]
    words += ["--device", "cpu", "--epochs", "2", "--image_size", "32", "--batch_size", "8"]
    words += ["--threads", "1", "--out_dir", str(tmp_path / "model")]
    done = subprocess.run(
        [sys.executable, "-m", "tumorlens", *words],
        check=False,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MEMBER: 2/2" in done.stderr
    # The first process alone writes and tells.
    assert [line.split()[1] for line in done.stderr.splitlines() if line[:5] == "epoch"] == [
        "1/2",
        "2/2",
    ]
    assert done.stdout.count("Checkpoint:") == 1
    (run,) = (tmp_path / "model/runs").iterdir()
    assert json.loads((run / "manifest.json").read_text())["complete"]
    found = checkpoints.load(tmp_path / "model/best_model.pt")
    assert found.temperature is not None
    with (run / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_classes_are_told_with_their_counts_and_folders(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_folder({"Training": 5, "Testing": 1}, classes=("glioma", "no_tumor"))
    told = []
    train(
        _settings(data, tmp_path / "model", epochs=1),
        lambda stage, done, total, note="": (
            told.append((done, total, note)) if stage == "class" else None
        ),
    )
    counts = "4 train, 1 valid, 1 test"
    assert told == [
        (1, 2, f"glioma: {counts}; from Testing/glioma, Training/glioma"),
        (2, 2, f"notumor: {counts}; from Testing/no_tumor, Training/no_tumor"),
    ]


def test_disk_that_fills_is_one_sentence_that_names_what_to_go_on_with(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(_settings(data, tmp_path / "whole"))

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("tumorlens.training.callbacks.write_text", full)
        with pytest.raises(TumorlensError) as stopped:
            train(_settings(data, tmp_path / "model"))
    run = tmp_path / "model/runs/se_resnet18-seed0-1"
    assert str(stopped.value) == (
        f"{run / 'metrics.csv'}: cannot be written (No space left on device); free some room and "
        f"go on with --resume {run}."
    )
    resumed = train(TrainSettings(resume=run, threads=1, device="cpu"))
    assert _same_weights(resumed.checkpoint, whole.checkpoint)
    assert resumed.replaced is None


def test_runs_killed_while_they_keep_or_publish_weights_end_like_one_that_was_not(
    data: Path, tmp_path: Path
) -> None:
    """experiments/kill_batch.py in short; results/robustness/kill_batch.json has all of it."""
    script = (
        "import json, sys; from pathlib import Path; import kill_batch\n"
        "data, work = map(Path, sys.argv[1:])\n"
        "phases = ('checkpoint', 'publishing')\n"
        "print(json.dumps(kill_batch.kills(data, work, 2, 0, phases, each=1)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(data), str(tmp_path)],
        check=False,
        timeout=300,
        capture_output=True,
        text=True,
        cwd=ROOT / "experiments",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {"checkpoint", "publishing"} <= set(found["by_phase"])
    assert found["same_weights"] == found["kills"] >= 2


def test_recipe_of_a_run_folder_alone_repeats_the_run(data: Path, tmp_path: Path) -> None:
    changed = replace(
        _settings(data, tmp_path / "one"),
        set=("optimizer.weight_decay=0.01", "augmentation.gamma=0.2"),
        class_weights="balanced",
    )
    first = train(changed)
    again = train(
        TrainSettings(
            recipe=str(first.run_dir / "recipe.toml"),
            out_dir=tmp_path / "two",
            device=changed.device,
            threads=changed.threads,
        )
    )
    assert _same_weights(first.checkpoint, again.checkpoint)
    other = train(replace(changed, set=(), out_dir=tmp_path / "three"))
    assert not _same_weights(first.checkpoint, other.checkpoint)


def test_logger_of_csv_keeps_the_metrics_and_the_recipe(data: Path, tmp_path: Path) -> None:
    result = train(replace(_settings(data, tmp_path / "model"), logger="csv"))
    table = (result.run_dir / "csv/metrics.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    kept = [float(row["valid_macro_f1"]) for row in rows if row["valid_macro_f1"]]
    assert max(kept) == pytest.approx(result.selected["valid_macro_f1"], abs=1e-4)
    assert "label_smoothing" in (result.run_dir / "csv/hparams.yaml").read_text(encoding="utf-8")


def test_logger_of_mlflow_writes_a_store_of_files(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(setting, raising=False)
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    result = train(replace(_settings(data, tmp_path / "model"), logger="mlflow"))
    client = mlflow.MlflowClient((tmp_path / "model/mlruns").as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "tumorlens"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == result.run_dir.name
    assert run.data.metrics["valid_macro_f1"] == pytest.approx(
        result.selected["valid_macro_f1"], abs=0.5
    )
    assert run.data.params["optimizer"] == "adam"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_logger_that_is_not_installed_is_one_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        TumorlensError, match=r"needs the package wandb.*pip install tumorlens\[wandb"
    ):
        train(replace(_settings(data, tmp_path / "model"), logger="wandb"))
