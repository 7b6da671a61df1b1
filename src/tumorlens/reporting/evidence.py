"""What there is to report of a run: its own files, and the folders that other commands left.

A folder is used only where its manifest names this very checkpoint (by SHA-256) or this very data
folder. What is missing, or of another run, is listed with the command that makes it. No torch:
everything here is JSON, CSV and PNG.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorlens.errors import TumorlensError
from tumorlens.files import MANIFEST, read_json
from tumorlens.settings import ReportSettings

Record = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """What a command wrote."""

    path: Path  # the folder
    manifest: Record  # what wrote it, with which versions
    content: Record  # its main JSON file


@dataclass(frozen=True)
class Gap:
    """Something a full report would have."""

    what: str  # in words
    why: str  # what was found instead; empty if nothing was
    command: str  # what makes it


@dataclass(frozen=True)
class Evidence:
    """A run and all that is known of it; None where nothing is."""

    run_dir: Path  # the run's folder
    checkpoint: Path  # its best_model.pt
    sha256: str  # of that file
    summary: Record  # the JSON beside it
    manifest: Record  # of the training run
    history: tuple[dict[str, str], ...]  # one row an epoch, as text
    # evaluation, gradcam, audit, comparison: folders of those commands
    evaluation: Folder | None
    gradcam: Folder | None
    audit: Folder | None
    comparison: Folder | None
    # a gradcam folder whose explain.json has maps measured against tumors: that of `gradcam`, or
    # another beside it
    localisation: Folder | None
    gaps: tuple[Gap, ...]  # what is missing

    @property
    def name(self) -> str:
        """The run's own name."""
        return str(self.settings.get("run") or self.run_dir.resolve().name)

    @property
    def settings(self) -> Record:
        """The flags of the training."""
        return dict(self.summary.get("settings", {}))

    @property
    def data(self) -> Record:
        """What the checkpoint remembers of its images; empty: nothing."""
        return dict(self.summary.get("data") or {})

    @property
    def counts(self) -> str:
        """How many images are in each split."""
        images = self.data.get("images", {})
        return ", ".join(f"{count:,} {split}" for split, count in images.items())

    @property
    def recipe(self) -> Record:
        """What flags and recipe came to; patience only where something could run out of it."""
        resolved = dict(self.settings.get("recipe_resolved", {}))
        if self.nothing_chose:
            resolved.pop("patience", None)
        return resolved

    @property
    def nothing_chose(self) -> bool:
        """Whether the validation images trained too."""
        return bool(self.settings.get("train_on_valid"))

    @property
    def kept(self) -> str:
        """Which epoch's weights were kept, and why."""
        epoch = self.summary.get("selected", {}).get("epoch", "?")
        if self.nothing_chose:
            return f"the last epoch, {epoch}; the validation images trained too and chose none"
        loss = self.settings.get("monitor") == "loss"
        metric = "lowest validation loss" if loss else "highest validation macro F1"
        return f"epoch {epoch}, by the {metric}"


def gather(settings: ReportSettings) -> Evidence:
    """Find what belongs to `settings.run_dir`.

    Raises:
        TumorlensError: no run folder, an unfinished one, or a folder named by a flag that does not
            belong to it.
    """
    run_dir = _run_folder(settings.run_dir)
    checkpoint = run_dir / "best_model.pt"
    summary = _json(checkpoint.with_suffix(".json"))
    manifest = _json(run_dir / MANIFEST)
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    gaps: list[Gap] = []
    if not manifest.get("complete"):
        why = "The run is not complete: what follows is its best epoch so far."
        gaps.append(Gap("the rest of the training", why, f"tumorlens train --resume {run_dir}"))
    # model/runs/RUN, and model, where best_model.pt was when a command without --out_dir was asked.
    above = run_dir.resolve().parent
    places = (run_dir, above.parent) if above.name == "runs" else (run_dir,)

    def of_checkpoint(
        command: str, file: str, given: Path | None, what: str, more: str = ""
    ) -> Folder | None:
        gap = Gap(what, "", f"tumorlens {command} --checkpoint {checkpoint}{more}")

        def of_another(found: Folder) -> str:
            same = found.manifest.get("checkpoint_sha256") == digest
            return "" if same else f"{found.path} is of another checkpoint."

        return _find(command, file, given, places, gaps, gap, of_another)

    evaluation = of_checkpoint(
        "evaluate", "metrics.json", settings.evaluation, "scores on held-out images"
    )
    classes = [str(name) for name in summary.get("classes", [])] or ["glioma"]
    more = f" --class {'glioma' if 'glioma' in classes else classes[0]}"
    gradcam = of_checkpoint("gradcam", "gradcam.json", settings.gradcam, "attribution maps", more)
    audit = _find_audit(settings, summary, places, gaps)
    comparison = None
    if settings.compare is not None:
        compared = _folder(settings.compare, "compare", "comparison.json")
        if isinstance(compared, str):
            raise TumorlensError(f"--compare {settings.compare}: {compared}")
        comparison = compared
    return Evidence(
        run_dir=run_dir,
        checkpoint=checkpoint,
        sha256=digest,
        summary=summary,
        manifest=manifest,
        history=_history(run_dir / "metrics.csv"),
        evaluation=evaluation,
        gradcam=gradcam,
        audit=audit,
        comparison=comparison,
        localisation=_localisation(gradcam, places, digest),
        gaps=tuple(gaps),
    )


def estimates(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Record]]:
    """Every metric with an interval ({value, low, high, ...}) in nested JSON, and where it is."""
    if isinstance(content, dict):
        if {"value", "low", "high"} <= content.keys():
            yield path, content
            return
        for key, item in content.items():
            yield from estimates(item, (*path, str(key)))
    elif isinstance(content, list):
        for number, item in enumerate(content):
            yield from estimates(item, (*path, str(number + 1)))


def _run_folder(given: Path) -> Path:
    expected = "expected a folder that train.py made, such as model/runs/se_resnet18-seed0-1"
    if not given.is_dir():
        found = "a file" if given.is_file() else "nothing"
        raise TumorlensError(f"--run_dir {given}: found {found}, {expected}.")
    folder = given
    if not (given / MANIFEST).is_file() and (given / "runs").is_dir():
        # The folder above all runs: its best_model.pt says whose it is.
        run = str(_json(given / "best_model.json").get("settings", {}).get("run", ""))
        if run and Path(run).name == run and (given / "runs" / run).is_dir():
            folder = given / "runs" / run
    if _json(folder / MANIFEST).get("command") != "train":
        raise TumorlensError(f"--run_dir {given}: not a run folder, {expected}.")
    missing = [n for n in ("best_model.pt", "best_model.json") if not (folder / n).is_file()]
    if missing:
        raise TumorlensError(
            f"--run_dir {given}: no {' and no '.join(missing)} in it, so that no weights were kept "
            f"yet; go on with tumorlens train --resume {folder}."
        )
    return folder


def _find(
    command: str,
    file: str,
    given: Path | None,
    places: Sequence[Path],
    gaps: list[Gap],
    gap: Gap,
    of_another: Callable[[Folder], str],
) -> Folder | None:
    """A command's folder, given or in one of `places`; None, and a gap more, where there is none.

    `of_another` says in a sentence why a folder is not the run's; "" where it is.
    """
    name = {"evaluate": "evaluation"}.get(command, command)
    reason = ""
    for path in [given] if given else [place / name for place in places]:
        found = _folder(path, command, file)
        if isinstance(found, Folder):
            other = of_another(found)
            if not other:
                return found
            found = other
        if given:
            raise TumorlensError(f"--{name} {given}: {found}")
        if path.is_dir():
            reason = found
    gaps.append(Gap(gap.what, reason, gap.command))
    return None


def _localisation(gradcam: Folder | None, places: Sequence[Path], digest: str) -> Folder | None:
    beside = [path for place in places if place.is_dir() for path in sorted(place.iterdir())]
    for path in [*([gradcam.path] if gradcam else []), *beside]:
        found = _folder(path, "gradcam", "explain.json")
        if (
            isinstance(found, Folder)
            and found.manifest.get("checkpoint_sha256") == digest
            and found.content.get("localization")
        ):
            return found
    return None


def _find_audit(
    settings: ReportSettings, summary: Record, places: Sequence[Path], gaps: list[Gap]
) -> Folder | None:
    known = (summary.get("data") or {}).get("data_dir")
    command = f"tumorlens audit {known or 'DATA_DIR'} --out_dir {places[0] / 'audit'}"
    gap = Gap("the audit of the data: near-duplicates, conflicting labels, shortcuts", "", command)

    def of_another(found: Folder) -> str:
        audited = str(found.content.get("data_dir", ""))
        # audit.json has the folder as the user wrote it, from wherever he stood.
        stood = (Path(), found.path.resolve().parent)
        if settings.audit or (
            known is not None and any((place / audited).resolve() == Path(known) for place in stood)
        ):
            return ""
        return f"{found.path} is of another data folder."

    return _find("audit", "audit.json", settings.audit, (*places, Path()), gaps, gap, of_another)


def _folder(path: Path, command: str, file: str) -> Folder | str:
    if not path.is_dir():
        return "there is no such folder."
    manifest, content = _json(path / MANIFEST), _json(path / file)
    if manifest.get("tool") != "tumorlens" or manifest.get("command") != command:
        return f"{path} was not written by tumorlens {command}."
    if not content or not manifest.get("complete"):
        return f"{path} is unfinished: no whole {file} in it."
    return Folder(path, manifest, content)


def _json(path: Path) -> Record:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _history(path: Path) -> tuple[dict[str, str], ...]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(csv.DictReader(file))
    except OSError:
        return ()
