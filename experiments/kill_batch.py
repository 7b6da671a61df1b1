"""Does a training that is killed, or whose disk fills, end with the weights of one that is not?

    python experiments/kill_batch.py [--kills 20] [--seed 0] [--out FILE.json]

On a small phantom and a network at 32 px: one training undisturbed, then `--kills` trainings that
are ended by SIGKILL at a random moment of a phase, each phase in turn (decoding, epoch, validation,
checkpoint, calibration, publishing), and resumed. Then two trainings and one evaluation start at
once on an empty cache. Then the disk, a small tmpfs (root) or a limit on file sizes, fills during
the checkpoint, `last.ckpt`, the curves and the publishing. What is compared: every weight and what
calibration adds, bit for bit. POSIX alone: each training is a fork of this process.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.cli import main as command
from tumorlens.data import cache
from tumorlens.evaluation import plots
from tumorlens.phantom.dataset import phantom
from tumorlens.settings import PhantomSettings
from tumorlens.studies.run import code, machine
from tumorlens.training import callbacks, fit
from tumorlens.training.module import Classifier

PHASES = ("decoding", "epoch", "validation", "checkpoint", "calibration", "publishing")
EPOCHS = 3
# Owner, function, phase while it runs, phase after it ("" between phases).
_MARKS = (
    (cache, "load", "decoding", ""),
    (Classifier, "on_train_epoch_start", "epoch", "epoch"),
    (Classifier, "validation_step", "validation", "validation"),
    (callbacks.BestWeights, "on_validation_end", "checkpoint", "epoch"),
    (callbacks.LastState, "on_train_epoch_end", "checkpoint", ""),
    (fit, "calibrate", "calibration", "calibration"),
    (fit, "publish", "publishing", "publishing"),
)
# Where the disk fills: owner, function, what it writes.
_WRITERS = {
    "checkpoint": (checkpoints, "save"),
    "last.ckpt": (callbacks.LastState, "on_train_epoch_end"),
    "curves": (plots, "save"),
    "publishing": (fit, "publish"),
}


@dataclass(frozen=True)
class Ended:
    """How a training's process ended.

    Attributes:
        status: exit status, negative for a signal.
        phase: in which it was then; "" between phases.
        told: what it printed to standard error.
        spans: seconds of each stay in a phase, as (phase, seconds).
    """

    status: int
    phase: str
    told: str
    spans: tuple[tuple[str, float], ...]


def _before(owner: Any, name: str, act: Callable[[], None], after: Callable[[], None]) -> None:
    """Let `act` run before each call of `owner`.`name`, and `after` after it."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        act()
        try:
            return original(*args, **kwargs)
        finally:
            after()

    setattr(owner, name, wrapped)


def _tell(news: int, phase: str) -> None:
    os.write(news, f"{phase}\n".encode())


def _child(words: list[str], news: int, errors: Path, prepare: Callable[[], None]) -> int:
    """A command in this process, a fork, which tells its phases through the pipe `news`."""
    with errors.open("w") as stderr, contextlib.redirect_stdout(io.StringIO()):
        sys.stderr = stderr
        for owner, name, phase, then in _MARKS:
            _before(owner, name, partial(_tell, news, phase), partial(_tell, news, then))
        prepare()
        return command(words)


def run(
    words: list[str],
    work: Path,
    kill: tuple[str, int, float] | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> Ended:
    """A command in a process of its own.

    Args:
        words: of the command line.
        work: folder for what it tells.
        kill: phase, which stay in it (0-based) and seconds into that stay; None: let it end.
        prepare: called in the process before the command.
    """
    errors = work / "stderr.txt"
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 70
        try:
            os.close(reader)
            status = _child(words, writer, errors, prepare)
        finally:
            os._exit(status)
    os.close(writer)
    phases: list[tuple[str, float]] = []
    stays: Counter[str] = Counter()
    with os.fdopen(reader) as told:
        for line in told:
            phase = line.strip()
            if not phases or phases[-1][0] != phase:
                phases.append((phase, time.monotonic()))
                stays[phase] += 1
                if kill and kill[0] == phase and kill[1] == stays[phase] - 1:
                    time.sleep(kill[2])
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
    ended = time.monotonic()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    times = [start for _, start in phases[1:]] + [ended]
    spans = tuple(
        (phase, end - start) for (phase, start), end in zip(phases, times, strict=True) if phase
    )
    return Ended(status, phases[-1][0] if phases else "", errors.read_text(), spans)


def _train(data: Path, out: Path) -> list[str]:
    words = ["train", "--model", "resnet18", "--data_dir", str(data), "--out_dir", str(out)]
    words += ["--epochs", str(EPOCHS), "--image_size", "32", "--batch_size", "8", "--lr", "0.003"]
    return [*words, "--device", "cpu", "--threads", "1", "--precision", "32-true"]


def _go_on(data: Path, out: Path) -> list[str]:
    """The command that a user would give: resume where there is a run, else start again."""
    runs = list((out / "runs").glob("*"))
    if not runs:
        return _train(data, out)
    (run_dir,) = runs
    return ["train", "--resume", str(run_dir), "--device", "cpu", "--threads", "1"]


def _same(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same weights and calibration, bit for bit."""
    a, b = checkpoints.load(one), checkpoints.load(other)
    for x, y in ((a.class_means, b.class_means), (a.feature_covariance, b.feature_covariance)):
        if x is None or y is None or not torch.equal(x, y):
            return False
    same = all(torch.equal(value, b.weights[key]) for key, value in a.weights.items())
    return same and (a.selected, a.calibration) == (b.selected, b.calibration)


def kills(
    data: Path, work: Path, count: int, seed: int, phases: Sequence[str] = PHASES, each: int = 2
) -> dict[str, Any]:
    """One training undisturbed, then `count` that are killed and resumed, `each` in every phase."""
    rng = random.Random(seed)
    whole = work / "whole"
    with _own_cache(work / "cache-whole"):
        undisturbed = run(_train(data, whole), work)
    assert undisturbed.status == 0, undisturbed.told
    spans: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for phase, seconds in undisturbed.spans:
        spans[phase].append(seconds)
    rows: list[dict[str, Any]] = []
    for number in range(3 * count):
        landed = Counter(row["killed_in"] for row in rows)
        lacking = [phase for phase in phases if landed[phase] < each]
        if len(rows) >= count and not lacking:
            break
        phase = (lacking or phases)[number % len(lacking or phases)]
        stay = rng.randrange(len(spans[phase]))
        moment = rng.random() * spans[phase][stay]
        out = work / f"killed{number}"
        with _own_cache(work / f"cache{number}"):
            killed = run(_train(data, out), work, (phase, stay, moment))
            if killed.status != -signal.SIGKILL:  # it was done before
                shutil.rmtree(out)
                continue
            resumed = run(_go_on(data, out), work)
        same = resumed.status == 0 and _same(out / "best_model.pt", whole / "best_model.pt")
        rows.append(
            {
                "killed_in": killed.phase or "between",
                "stay": stay,
                "seconds_into_it": round(moment, 4),
                "resumed_status": resumed.status,
                "same": same,
                "left_beside": sorted(path.name for path in out.rglob(".*")),
            }
            | ({} if same else {"told": resumed.told[-500:]})
        )
        print(f"{len(rows)} of {count}: {rows[-1]}", file=sys.stderr, flush=True)
        shutil.rmtree(out)
    return {
        "undisturbed_seconds_by_phase": {p: round(sum(spans[p]), 3) for p in PHASES},
        "kills": len(rows),
        "by_phase": dict(Counter(row["killed_in"] for row in rows)),
        "same_weights": sum(row["same"] for row in rows),
        "runs": rows,
    }


def at_once(data: Path, work: Path) -> dict[str, Any]:
    """Two trainings and one evaluation, started together on an empty cache."""
    whole = work / "whole" / "best_model.pt"
    words = [_train(data, work / f"beside{number}") for number in (1, 2)]
    words += [
        [
            *("evaluate", "--checkpoint", str(whole), "--out_dir", str(work / "evaluation")),
            *("--device", "cpu", "--threads", "1", "--resamples", "100"),
        ]
    ]
    ended = []
    with _own_cache(work / "cache-cold"):
        started = []
        for number, one in enumerate(words):
            mine = work / f"at-once{number}"
            mine.mkdir()
            started.append((os.fork(), mine))
            if started[-1][0] == 0:
                os._exit(abs(run(one, mine).status))
        for process, mine in started:
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            ended.append({"status": status, "told": (mine / "stderr.txt").read_text()[-300:]})
    same = [_same(work / f"beside{number}" / "best_model.pt", whole) for number in (1, 2)]
    scored = json.loads((work / "evaluation" / "metrics.json").read_text())
    return {
        "statuses": [one["status"] for one in ended],
        "same_weights": same,
        "images_scored": scored["all"]["n"],
    }


def full_disk(data: Path, work: Path) -> dict[str, Any]:
    """The disk fills while a training writes; then there is room again and it is resumed."""
    found = {}
    whole = work / "whole" / "best_model.pt"
    for what, (owner, name) in _WRITERS.items():
        with _small_disk(work / "disk") as (disk, kind):
            out = disk / "model"

            def fill(disk: Path = disk, kind: str = kind) -> None:
                if kind != "tmpfs":
                    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
                    return
                with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
                    while True:
                        file.write(bytes(1 << 20))

            def prepare(owner: Any = owner, name: str = name, fill: Any = fill) -> None:
                _before(owner, name, fill, lambda: None)

            with _own_cache(work / "cache-disk"):
                stopped = run(_train(data, out), work, prepare=prepare)
                (disk / "filler").unlink(missing_ok=True)
                resumed = run(_go_on(data, out), work)
            news = ("class", "epoch", "describing")
            said = [line for line in stopped.told.splitlines() if not line.startswith(news)]
            found[what] = {
                "disk": kind,
                "status": stopped.status,
                "told": [line.replace(str(disk), "DISK") for line in said],
                "resumed_status": resumed.status,
                "same": resumed.status == 0 and _same(out / "best_model.pt", whole),
            }
            print(f"full disk, {what}: {found[what]}", file=sys.stderr, flush=True)
    return found


@contextlib.contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("TUMORLENS_CACHE")
    os.environ["TUMORLENS_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["TUMORLENS_CACHE"]
        if before is not None:
            os.environ["TUMORLENS_CACHE"] = before


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[tuple[Path, str]]:
    """An empty folder, and "tmpfs" where it is a small disk of its own."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder, "tmpfs" if mounted else "RLIMIT_FSIZE"
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def batch(work: Path, count: int, seed: int, images: int = 6) -> dict[str, Any]:
    """All three parts on a phantom of `images` training images a class."""
    data = work / "phantom"
    phantom(PhantomSettings(out=data, train=images, valid=3, test=2, size=64, seed=seed))
    torch.set_num_threads(1)
    return {
        "killed": kills(data, work, count, seed),
        "at_once_on_a_cold_cache": at_once(data, work),
        "full_disk": full_disk(data, work),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    default = Path(__file__).parents[1] / "results" / "robustness" / "kill_batch.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = batch(Path(folder), args.kills, args.seed)
    facts = {
        "command": f"python experiments/kill_batch.py --kills {args.kills} --seed {args.seed}",
        "what": "resnet18, 32 px, 3 epochs of 24 phantom images",
        "torch": torch.__version__,
        "machine": machine(),
        **code(),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts | found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
