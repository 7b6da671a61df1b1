"""What happens after each epoch of a run: history, best weights, news for the listener."""

import time
from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from torch import nn

from tumorlens.checkpoint import file as checkpoints
from tumorlens.evaluation import plots
from tumorlens.files import csv_text, write_text
from tumorlens.progress import Progress
from tumorlens.training.module import Classifier

COLUMNS = (
    *("epoch", "train_loss", "valid_loss", "valid_accuracy", "valid_macro_f1"),
    *("lr", "seconds"),
)


class History(Callback):
    """One row an epoch in `metrics.csv` and `training_curves.png`; travels in `last.ckpt`.

    Args:
        folder: where the two go.
        progress: told of "training" and "epoch".
        monitor: what chooses the epoch, "valid_macro_f1" or "valid_loss".
    """

    def __init__(self, folder: Path, progress: Progress, monitor: str = "valid_macro_f1") -> None:
        self.folder = folder
        self.progress = progress
        self.monitor = monitor
        self.rows: list[dict[str, float]] = []
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of the interrupted run."""
        self.rows = list(state_dict["rows"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the epoch's clock."""
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Tell the listener how far the whole run is."""
        steps = int(trainer.num_training_batches)
        epochs = trainer.max_epochs or 0
        if trainer.is_global_zero:
            self.progress(
                "training",
                trainer.current_epoch * steps + trainer.fit_loop.batch_idx + 1,
                epochs * steps,
                f"epoch {trainer.current_epoch + 1}/{epochs}",
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's row."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {name: metrics[name] for name in COLUMNS if name in metrics}
        row["epoch"] = trainer.current_epoch + 1
        row["train_loss"] = float(cast(Classifier, pl_module).train_loss.compute())
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = time.monotonic() - self._started
        self.rows = [kept for kept in self.rows if kept["epoch"] < row["epoch"]] + [row]
        if not trainer.is_global_zero:
            return
        table = [[kept.get(name, "") for name in COLUMNS] for kept in self.rows]
        write_text(self.folder / "metrics.csv", csv_text(COLUMNS, table))
        said = f"train loss {_told(row['train_loss'], 3)}"
        if "valid_loss" in row:
            loss, score = _told(row["valid_loss"], 3), _told(row["valid_macro_f1"], 4)
            every = [kept[self.monitor] for kept in self.rows if isfinite(kept[self.monitor])]
            if every and self.monitor == "valid_loss":
                loss += f" (best {min(every):.3f})"
            elif every:
                score += f" (best {max(every):.4f})"
            said += f", valid loss {loss}, accuracy {row['valid_accuracy']:.4f}, macro F1 {score}"
        self.progress("epoch", int(row["epoch"]), trainer.max_epochs or 0, said)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Draw the curves."""
        if trainer.is_global_zero and self.rows:
            drawn = plots.training_curves(self.rows, self.monitor)
            plots.save(drawn, self.folder / "training_curves.png")


def _told(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if isfinite(value) else "not finite"


class LastState(callbacks.Checkpoint):
    """Writes `last.ckpt`, Lightning's own, after each epoch, in one step.

    Lightning's ModelCheckpoint writes to the system's temporary folder and moves the file, which on
    another disk is a copy that a kill can cut short. As a `Checkpoint` it comes after every other
    callback, when their state is up to date.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the state of the finished epoch."""
        beside = self.path.with_name(".last-partial.ckpt")
        try:
            trainer.save_checkpoint(beside)  # every process takes part, the first one writes
            if trainer.is_global_zero:
                beside.replace(self.path)
        finally:
            if trainer.is_global_zero:
                beside.unlink(missing_ok=True)


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, which a resumed run remembers too; the name is that of its state in `last.ckpt`.

    Lightning restores the count of epochs without a better metric, and not that it had run out:
    a run that was stopped early and then killed in its calibration would train on.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Stop before the first step where the run had stopped."""
        trainer.should_stop = self.stopped_epoch > 0 or self.wait_count >= self.patience


class KeptWeights(Callback):
    """Writes a run's `best_model.pt`, which is `template` with weights and metrics."""

    NOTHING = "no epoch had a finite validation metric"  # why there may be no file at the end

    def __init__(self, template: checkpoints.Checkpoint) -> None:
        assert template.path is not None  # where it is written
        self.template, self.path = template, template.path
        self.kept: checkpoints.Checkpoint | None = None  # what this process wrote last

    def keep(self, trainer: Trainer, network: nn.Module, metrics: Mapping[str, float]) -> None:
        """Write the weights of the epoch under way."""
        selected = {"epoch": trainer.current_epoch + 1, **metrics}
        self.kept = checkpoints.with_weights(self.template, network, selected)
        checkpoints.save(self.kept, self.path)


class BestWeights(KeptWeights):
    """Keeps the weights of the best validation epoch so far.

    Best is by `monitor`: "valid_macro_f1" (higher is better) or "valid_loss" (lower is better).
    """

    def __init__(self, template: checkpoints.Checkpoint, monitor: str) -> None:
        super().__init__(template)
        self.monitor = monitor
        self.sign = -1.0 if monitor == "valid_loss" else 1.0
        self.best = -inf

    def state_dict(self) -> dict[str, Any]:
        """The best metric so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best metric of the interrupted run."""
        self.best = float(state_dict["best"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights if this epoch is better than every one before."""
        if trainer.sanity_checking:
            return
        every = trainer.callback_metrics.items()
        metrics = {name: float(value) for name, value in every if name.startswith("valid_")}
        value = self.sign * metrics[self.monitor]
        if not value > self.best:  # a NaN is never better
            return
        self.best = value
        if trainer.is_global_zero:
            self.keep(trainer, cast(Classifier, pl_module).kept, metrics)


class LastWeights(KeptWeights):
    """Keeps the last epoch's weights: where there is nothing to choose by."""

    NOTHING = "the last epoch's weights are not finite"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights if this epoch is the last and all of them are finite."""
        if trainer.current_epoch + 1 != trainer.max_epochs or not trainer.is_global_zero:
            return
        network = cast(Classifier, pl_module).kept
        if all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            self.keep(trainer, network, {})
