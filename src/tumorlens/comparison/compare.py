"""The command compare: two networks' predictions, paired and put into files."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tumorlens.comparison.paired import Comparison, Pair, compare, order_of, pair_up
from tumorlens.comparison.run_files import RunFiles, read_study, refuse_mixed
from tumorlens.comparison.text import (
    confusion_sentence,
    metric_title,
    runs_in_words,
    sentence,
    significant_changes,
)
from tumorlens.data.patients import read_patients
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.plots import COLOURS, save
from tumorlens.evaluation.predictions import (
    Predictions,
    absent_caveats,
    near_duplicates_of_any,
    read,
)
from tumorlens.files import (
    SCHEMA,
    check_claim,
    claim,
    csv_text,
    write_json,
    write_manifest,
    write_text,
)
from tumorlens.image_tables import Tabular, read_groups, transposed
from tumorlens.labels import title
from tumorlens.progress import Progress, silent
from tumorlens.settings import CompareSettings, primitives

_ORDER = ("resnet18", "se_resnet18")
_MARKERS = "osD^"
# Columns of probabilities, which are written with four digits.
_SHORT = ("probability_b_better", "p", "p_holm")
_SUBSETS = {
    "all": "all images",
    "without_near_duplicates": "without near-duplicates of training images",
}


@dataclass(frozen=True)
class Compared(Tabular):
    """What the command found."""

    all: Comparison  # the comparison on all images
    # On those that neither network's training has a near-duplicate of; None: not known, none left,
    # or there are no near-duplicates.
    without_near_duplicates: Comparison | None
    sentence: str  # the answer in plain words
    caveats: tuple[str, ...]  # what a reader must know, a sentence each
    out_dir: Path  # where the files are

    @property
    def subsets(self) -> dict[str, Comparison]:
        """Name of the images to the comparison on them."""
        clean = self.without_near_duplicates
        return {"all": self.all} | ({} if clean is None else {"without_near_duplicates": clean})

    def table(self) -> dict[str, list[Any]]:
        """A row for each metric and subset of images, as comparison.csv has them."""
        return _differences(self.subsets)


def compare_and_write(settings: CompareSettings, progress: Progress = silent) -> Compared:
    """Compare `settings.a` and `settings.b`, and write the metrics and the image.

    Raises:
        TumorlensError: faults of what is compared, the flags or the output folder.
    """
    pairs, names = _pairs(settings, progress)
    caveats = []
    if settings.groups is not None:
        named = read_groups(settings.groups)
        pairs = [pair.each(lambda one: one.grouped(named)) for pair in pairs]
    if settings.patients is not None:
        table = read_patients(settings.patients)
        pairs = [pair.each(lambda one: one.of_patients(table)) for pair in pairs]
    if any(one.a.groups is None and one.a.patients is None for one in pairs):
        caveats.append(
            "Neither patients nor near-duplicates are known (no column `patient` or `group`, no "
            "checkpoint): each image counts for itself and intervals may be too narrow; --patients "
            "names them."
        )
    if len(pairs) == 1:
        caveats.append(
            "One run each: another seed would give other networks, which no interval here knows of."
        )
    caveats += absent_caveats([two for one in pairs for two in (one.a, one.b)])
    check_claim(settings.out_dir, "compare")
    found = compare(pairs, names, resamples=settings.resamples, seed=settings.seed)
    clean, without = _without_near_duplicates(pairs), None
    images = [sum(len(one.a.paths) for one in kept) for kept in (clean, pairs)]
    if len(clean) == len(pairs) and images[0] < images[1]:
        without = compare(clean, names, resamples=settings.resamples, seed=settings.seed)
    result = Compared(found, without, sentence(found), tuple(caveats), settings.out_dir)
    _write(result, settings)
    return result


def compared_record(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON primitives."""
    record = asdict(found)
    for name, one in found.differences.items():
        record["differences"][name]["significant"] = one.significant
    return record | {
        "sentence": sentence(found),
        "whom": significant_changes(found),
        "confusion": confusion_sentence(found),
        "correction": f"Holm, for {found.looked_at} metrics",
    }


def _differences(subsets: Mapping[str, Comparison]) -> dict[str, list[Any]]:
    """Column to its values, a row for each metric and subset of images."""
    header = ["images", "n", "metric", "a", "b", "difference", "low", "high", "std_of_runs"]
    header += ["t_low", "t_high", *_SHORT, "test"]
    rows = [
        (
            *(subset, found.images, name, one.a, one.b, one.value, one.low, one.high, one.std),
            *(one.t_low, one.t_high, one.better, one.p, one.p_holm, one.test),
        )
        for subset, found in subsets.items()
        for name, one in found.differences.items()
    ]
    return transposed(header, rows)


def differences_csv(subsets: Mapping[str, Comparison]) -> str:
    """One row a metric and subset of images; what has no value is empty."""

    def text(column: str, value: Any) -> Any:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        form = ".4g" if column in _SHORT else ".6f"
        return value if isinstance(value, str | int) else format(value, form)

    table = _differences(subsets)
    texts = [[text(name, value) for value in values] for name, values in table.items()]
    return csv_text(list(table), zip(*texts, strict=True))


def differences_plot(subsets: Mapping[str, Comparison]) -> Figure:
    """A row a metric, b minus a in points; filled where it is significant.

    Of several subsets of the images the first decides the rows.
    """
    first = next(iter(subsets.values()))
    rows = [name for name, one in first.differences.items() if one.has_value]
    drawn = Figure(figsize=(7.6, 1.6 + 0.34 * len(rows)), layout="constrained")
    axes = drawn.subplots()
    axes.axvline(0, color="#666666", linewidth=1)
    for index, (name, found) in enumerate(subsets.items()):
        colour = COLOURS[(1, 0, 2, 3)[index % 4]]
        shift = 0.24 * (index - (len(subsets) - 1) / 2)
        for row, metric in enumerate(rows):
            one = found.differences.get(metric)
            if one is None or not one.has_value:
                continue
            axes.errorbar(
                100 * one.value,
                row + shift,
                xerr=[[100 * max(0.0, end)] for end in (one.value - one.low, one.high - one.value)],
                fmt=_MARKERS[index % len(_MARKERS)],
                color=colour,
                markerfacecolor=colour if one.significant else "white",
                capsize=2,
                markersize=5,
            )
        label = f"{_SUBSETS.get(name, name)}, n = {found.images:,}"
        axes.plot([], [], _MARKERS[index % len(_MARKERS)], color=colour, label=label)
    axes.set_yticks(range(len(rows)), [metric_title(metric) for metric in rows])
    axes.invert_yaxis()
    a, b = title(first.a), title(first.b)  # paths at times, and long ones
    heading = textwrap.fill(f"{b} minus {a}", 80, break_on_hyphens=False)
    drawn.supxlabel(
        f"{heading}\npoints, with 95% intervals, each "
        f"metric's own; filled: significant after Holm's correction for {len(rows)} metrics",
        fontsize=9,
    )
    names = textwrap.fill(f"{b} against {a}", 60, break_on_hyphens=False)
    axes.set_title(f"{names}\n{runs_in_words(first)}", fontsize=10)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="best")
    return drawn


def pairs_of_study(
    runs: Sequence[RunFiles], predictions: Mapping[str, Predictions] | None = None
) -> tuple[list[Pair], tuple[str, str]]:
    """The runs that both networks have of one protocol, side by side.

    Args:
        runs: of one protocol.
        predictions: of each, by name; None: read from its file.

    Raises:
        TumorlensError: not two networks, or they share no fold and seed.
    """
    there = sorted({run.model for run in runs}, key=lambda name: (name not in _ORDER, name))
    if len(there) != 2:
        raise TumorlensError(
            f"{runs[0].predictions_file.parent}: a study of {', '.join(there)} alone; two "
            "networks are compared, so name a second study, or run the other network too."
        )
    first, second = ([run for run in runs if run.model == name] for name in there)
    return _matched(first, second, predictions), (there[0], there[1])


def _matched(
    a: Sequence[RunFiles], b: Sequence[RunFiles], predictions: Mapping[str, Predictions] | None
) -> list[Pair]:
    """The runs of one fold and seed side by side."""
    of_a, of_b = ({(run.fold, run.seed): run for run in runs} for runs in (a, b))
    shared = sorted(of_a.keys() & of_b, key=lambda key: (-1 if key[0] is None else key[0], key[1]))
    if not shared:
        raise TumorlensError(
            "the two networks have no fold and seed in common; run both on the same ones."
        )
    pairs = []
    for fold, seed in shared:
        one, other = (
            run.predictions() if predictions is None else predictions[run.name]
            for run in (of_a[fold, seed], of_b[fold, seed])
        )
        pairs.append(pair_up(one, other, fold=fold, seed=seed))
    return pairs


def _pairs(settings: CompareSettings, progress: Progress) -> tuple[list[Pair], tuple[str, str]]:
    assert settings.a is not None  # CompareSettings.__post_init__ saw to it
    first = _study_runs(settings.a, settings)
    if settings.b is None:
        if first is None:
            raise TumorlensError(
                f"{settings.a}: is no study folder, so a second thing to compare must be named, "
                f"such as tumorlens compare {settings.a} OTHER."
            )
        return pairs_of_study(first)
    second = _study_runs(settings.b, settings)
    if first is not None and second is not None:
        for path, runs in ((settings.a, first), (settings.b, second)):
            if len({run.model for run in runs}) > 1:
                raise TumorlensError(
                    f"{path}: holds two networks; compare it alone, or name one by --model."
                )
        names = _distinct(first[0].model, second[0].model, settings.a, settings.b)
        return _matched(first, second, None), names
    one, name_of_one = _predictions(settings.a, settings, progress)
    other, name_of_other = _predictions(settings.b, settings, progress)
    names = _distinct(name_of_one, name_of_other, settings.a, settings.b)
    return [pair_up(_with_facts_of(other, one), other)], names


def _study_runs(path: Path, settings: CompareSettings) -> list[RunFiles] | None:
    """The runs asked for of a study's folder; None where `path` is none."""
    if not path.is_dir() or (path / "predictions.csv").is_file():
        return None
    runs = read_study(path)
    protocol, there = settings.protocol, sorted({run.protocol for run in runs})
    if protocol is None and len(there) > 1:
        raise TumorlensError(f"{path}: has runs of {' and '.join(there)}; name one by --protocol.")
    chosen = [run for run in runs if run.protocol == (protocol or there[0])]
    if not chosen:
        raise TumorlensError(f"--protocol {protocol}: {path} has runs of {there[0]} alone.")
    refuse_mixed(chosen)
    of_model = [run for run in chosen if settings.model in (None, run.model)]
    if not of_model:
        raise TumorlensError(
            f"--model {settings.model}: {path} has runs of {chosen[0].model} alone."
        )
    return of_model


def _predictions(
    path: Path, settings: CompareSettings, progress: Progress
) -> tuple[Predictions, str]:
    """Predictions of a network and its name, from a checkpoint, a CSV or a folder with one."""
    table = path / "predictions.csv" if path.is_dir() else path
    ending = next((one for one in (".csv.gz", ".csv") if table.name.lower().endswith(one)), "")
    if ending:
        name = table.name[: -len(ending)].removesuffix("-predictions")
        return read(table), table.parent.name if name == "predictions" else name
    # torch is loaded for checkpoints alone.
    from tumorlens.checkpoint.session import ImageChoice, open_session  # noqa: PLC0415
    from tumorlens.device import cpu_threads, pick_device  # noqa: PLC0415
    from tumorlens.evaluation.evaluate import predictions_of  # noqa: PLC0415

    with cpu_threads(settings.threads):
        session = open_session(
            path,
            ImageChoice(settings.data_dir, patients=settings.patients),
            device=pick_device(settings.device),
            batch_size=settings.batch_size,
            progress=progress,
        )
        return predictions_of(session), session.checkpoint.model_name


def _with_facts_of(other: Predictions, one: Predictions) -> Predictions:
    """`one` with what `other` alone knows of the images: it is theirs, not the network's."""
    if set(other.paths) != set(one.paths):  # refused by `pair_up`, which says what differs
        return one
    ordered = other.only(order_of(other.paths, like=one.paths))
    return replace(
        one,
        groups=one.groups or ordered.groups,
        patients=one.patients or ordered.patients,
        sites=one.sites or ordered.sites,
    )


def _distinct(a: str, b: str, path_a: Path, path_b: Path) -> tuple[str, str]:
    """Names that tell the two apart."""
    if a != b:
        return a, b
    return f"{title(a)} ({path_a.as_posix()})", f"{title(b)} ({path_b.as_posix()})"


def _without_near_duplicates(pairs: Sequence[Pair]) -> list[Pair]:
    """What is left of each pair: the same images of a fold, no network's near-duplicates."""
    left = []
    for pair in pairs:
        of_fold = [two for two in pairs if two.fold == pair.fold]
        duplicates = near_duplicates_of_any(
            predictions for two in of_fold for predictions in (two.a, two.b)
        )
        keep = np.array([duplicates is not None and not duplicates[path] for path in pair.a.paths])
        if keep.any():
            left.append(pair.only(keep))
    return left


def _write(result: Compared, settings: CompareSettings) -> None:
    claim(result.out_dir, "compare")
    subsets = result.subsets
    write_json(
        result.out_dir / "comparison.json",
        {
            "schema": SCHEMA,
            "sentence": result.sentence,
            "caveats": list(result.caveats),
            "interval": f"95%, {settings.resamples} draws of {result.all.unit} for both networks "
            "at once, with several runs also of seeds (t); Tango's where they differ on fewer than "
            "10",
            "subsets": {name: compared_record(found) for name, found in subsets.items()},
        },
    )
    write_text(result.out_dir / "comparison.csv", differences_csv(subsets))
    save(differences_plot(subsets), result.out_dir / "comparison.png")
    write_manifest(result.out_dir, "compare", settings=primitives(settings), seed=settings.seed)
