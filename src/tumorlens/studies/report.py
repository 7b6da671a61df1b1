"""The verb study --report: what the finished runs say, as tables, figures and one answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorlens.comparison import plot as comparison_plots
from tumorlens.comparison.compare import compared_record, differences_csv, pairs_of_study
from tumorlens.comparison.paired import Comparison, Pair, compare
from tumorlens.comparison.run_files import RunFiles, read_study, refuse_mixed
from tumorlens.comparison.text import sentence, whom
from tumorlens.data.patients import PatientTable, read_patients, unit_words
from tumorlens.data.public_patients import is_testing
from tumorlens.data.splits import read_groups
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.plots import save
from tumorlens.evaluation.predictions import Predictions, copies_of_any
from tumorlens.files import claim, csv_text, write_json, write_manifest, write_text
from tumorlens.progress import Progress, silent
from tumorlens.settings import StudySettings
from tumorlens.studies import figures
from tumorlens.studies.by_site import RecallBySite, by_site, by_site_csv
from tumorlens.studies.looks import Look, looks, looks_csv
from tumorlens.studies.means import over_runs
from tumorlens.studies.page import looks_file, page
from tumorlens.studies.views import FIGURES, LOOKS, PUBLISHED, Seen, View, views

# Draws behind each interval; as `compare` for differences.
_RESAMPLES = 2000
_OF_DIFFERENCES = 5000
# How the answer begins for each protocol.
_PROTOCOLS = {
    "official": "On the official split",
    "patients": "On unseen patients",
    "folds": "On the folds",
}


@dataclass(frozen=True)
class StudyReport:
    """What the report says.

    Attributes:
        answer: does squeeze-and-excitation help, and whom? In plain words.
        runs: how many finished runs it is from.
        seen: every view of every network.
        comparisons: by view's name; where both networks have runs.
        by_site: recall of each class at each site; empty where sites are not known.
        looks: where the networks look; empty where no run was given boxes.
        unit: what intervals resample, protocol by protocol, in words.
        public: whether the official runs are scored on the public set's `Testing`, so that the
            published figures may stand beside them.
        folder: where the files are.
    """

    answer: str
    runs: int
    seen: tuple[Seen, ...]
    comparisons: dict[str, Comparison]
    by_site: tuple[RecallBySite, ...]
    looks: tuple[Look, ...]
    unit: dict[str, str]
    public: bool
    folder: Path


def draw_report(settings: StudySettings, progress: Progress = silent) -> StudyReport:
    """Draw tables and figures of the finished runs into `out_dir`/report.

    Args:
        settings: `out_dir`, `patients`, `groups` and `resamples` count.
        progress: told of "reporting", views done of all.

    Raises:
        TumorlensError: no finished run, runs of a protocol that were trained in different ways,
            faults of --groups, or a report folder that is not ours.
    """
    runs = read_study(settings.out_dir)
    refuse_mixed(runs)
    named = read_groups(settings.groups) if settings.groups else None
    table = read_patients(settings.patients) if settings.patients else None
    folder = claim(settings.out_dir / "report", "study")
    there = {run.protocol for run in runs}
    asked = [view for view in views() if view.protocol in there]
    seen: list[Seen] = []
    comparisons: dict[str, Comparison] = {}
    answers = _answers(runs, named, table)
    pairs = {name: _pairs([run for run in runs if run.protocol == name], answers) for name in there}
    for done, view in enumerate(asked, start=1):
        of_view = [run for run in runs if run.protocol == view.protocol]
        for model in sorted({run.model for run in of_view}, key=list(PUBLISHED).index):
            mine = [run for run in of_view if run.model == model]
            found = _seen(view, model, mine, answers, settings.resamples or _RESAMPLES)
            if found is not None:
                seen.append(found)
        compared = _compared(view, pairs[view.protocol], settings.resamples or _OF_DIFFERENCES)
        if compared is not None:
            comparisons[view.name] = compared
        progress("reporting", done, len(asked), view.what)
    report = StudyReport(
        answer(comparisons),
        len(runs),
        tuple(seen),
        comparisons,
        by_site(runs, answers, resamples=settings.resamples or _RESAMPLES),
        looks(runs),
        {name: _unit(runs, answers, name) for name in sorted(there)},
        _on_public_testing(runs, answers),
        folder,
    )
    _write(report, runs, settings)
    return report


def _on_public_testing(runs: Sequence[RunFiles], answers: Mapping[str, Predictions]) -> bool:
    official = [answers[run.name] for run in runs if run.protocol == "official"]
    named = [[one.classes[label] for label in one.labels] for one in official]
    return bool(named) and all(map(is_testing, named))


def _unit(runs: Sequence[RunFiles], answers: Mapping[str, Predictions], protocol: str) -> str:
    """What is resampled over all folds of a protocol, in words."""
    tests = {run.fold: answers[run.name] for run in runs if run.protocol == protocol}
    counts = [one.unit_counts() for one in tests.values()]
    return unit_words(
        sum(patients for patients, _ in counts),
        sum(groups for _, groups in counts),
        sum(len(one.paths) for one in tests.values()),
    )


def _answers(
    runs: Sequence[RunFiles], named: Mapping[str, str] | None, table: PatientTable | None
) -> dict[str, Predictions]:
    """Each run's answers by its name, in the groups of `named`, with the patients of `table`.

    A copy that any run of a test part has in training is one for all of them, where that is known.
    """
    found = {run.name: run.predictions() for run in runs}
    for test in {(run.protocol, run.fold) for run in runs}:
        of_test = [run.name for run in runs if (run.protocol, run.fold) == test]
        copies = copies_of_any(found[name] for name in of_test)
        if copies is not None:
            found |= {name: found[name].with_copies(copies) for name in of_test}
    if named is not None:
        found = {name: one.grouped(named) for name, one in found.items()}
    if table is not None:
        found = {name: one.of_patients(table) for name, one in found.items()}
    return found


def _kept(view: View, answers: Predictions) -> Predictions | None:
    keep = view.keep(answers)
    return answers.only(keep) if keep is not None and keep.any() else None


def _seen(
    view: View,
    model: str,
    runs: Sequence[RunFiles],
    answers: Mapping[str, Predictions],
    resamples: int,
) -> Seen | None:
    parts = []
    for run in runs:
        left = _kept(view, answers[run.name])
        if left is None:
            return None
        parts.append((run.fold, left))
    found, values = over_runs(parts, FIGURES, resamples=resamples)
    return Seen(
        view=view,
        model=model,
        runs=len(runs),
        seeds=len({run.seed for run in runs}),
        folds=len({run.fold for run in runs}),
        images=sum({fold: len(left.paths) for fold, left in parts}.values()),
        figures=found,
        values=values,
    )


def _pairs(
    runs: Sequence[RunFiles], answers: Mapping[str, Predictions]
) -> tuple[list[Pair], tuple[str, str]] | None:
    """One protocol's runs side by side; None: not two networks with a fold and seed in common."""
    try:
        return pairs_of_study(runs, answers)
    except TumorlensError:
        return None


def _compared(
    view: View, pairs: tuple[list[Pair], tuple[str, str]] | None, resamples: int
) -> Comparison | None:
    if pairs is None:
        return None
    kept = []
    for pair in pairs[0]:
        keep = view.keep(pair.a)
        if keep is None or not keep.any():
            return None
        kept.append(pair.only(keep))
    return compare(kept, pairs[1], resamples=resamples)


def answer(comparisons: Mapping[str, Comparison]) -> str:
    """Does squeeze-and-excitation help, and whom? A sentence or two for each protocol."""
    if not comparisons:
        return (
            "Does SE help, and whom? Not known yet: the two networks have no finished run of one "
            "protocol, fold and seed in common."
        )
    told = []
    for name, what in (
        ("official", "On the official split"),
        ("patients", "On unseen patients"),
        ("folds", "On the folds"),
    ):
        found = comparisons.get(name)
        if found is not None:
            told.append(f"{what}: {sentence(found)} {whom(found)}")
    return "Does SE help, and whom? " + " ".join(told)


def _write(report: StudyReport, runs: Sequence[RunFiles], settings: StudySettings) -> None:
    folder = report.folder
    write_text(folder / "means.csv", means_csv(report.seen))
    write_text(folder / "runs.csv", runs_csv(runs))
    if report.comparisons:
        write_text(folder / "comparison.csv", differences_csv(report.comparisons))
    write_text(folder / "report.md", page(report, runs))
    write_json(
        folder / "report.json",
        {
            "answer": report.answer,
            "runs": [run.name for run in runs],
            "means": [
                {
                    "view": one.view.name,
                    "model": one.model,
                    "runs": one.runs,
                    "seeds": one.seeds,
                    "folds": one.folds,
                    "images": one.images,
                    "figures": {
                        name: value.to_dict()
                        | {"std_of_runs": one.std(name), "runs": one.values[name]}
                        for name, value in one.figures.items()
                    },
                }
                for one in report.seen
            ],
            "comparisons": {
                name: compared_record(found) for name, found in report.comparisons.items()
            },
        },
    )
    save(figures.story(report.seen, published=report.public), folder / "story.png")
    if report.by_site:
        write_text(folder / "by_site.csv", by_site_csv(report.by_site))
    if report.looks:
        write_text(folder / "looks.csv", looks_csv(report.looks))
    for name in dict.fromkeys(map(looks_file, report.looks)):
        mine = [one for one in report.looks if looks_file(one) == name]
        save(figures.where_they_look(mine), folder / name)
    for name, found in report.comparisons.items():
        save(comparison_plots.differences({name: found}), folder / f"comparison_{name}.png")
    write_manifest(
        folder,
        "study",
        command=["tumorlens", "study", "--report"],
        settings={
            "patients": settings.patients.as_posix() if settings.patients else None,
            "groups": settings.groups.as_posix() if settings.groups else None,
            "resamples": settings.resamples,
        },
    )


def means_csv(seen: Sequence[Seen]) -> str:
    """One row a view, network and figure."""
    header = ["view", "model", "runs", "seeds", "folds", "images", "figure", "mean", "low", "high"]
    rows = []
    for one in seen:
        for name, value in one.figures.items():
            spread = one.std(name)
            numbers = [f"{number:.6f}" for number in (value.value, value.low, value.high)]
            counts = [one.view.name, one.model, one.runs, one.seeds, one.folds, one.images]
            rows.append(
                [*counts, name, *numbers, "" if spread is None else f"{spread:.6f}", value.n]
            )
    return csv_text([*header, "std_of_runs", "n"], rows)


def runs_csv(runs: Sequence[RunFiles]) -> str:
    """One row a run: its figures as `study` wrote them."""
    header = ["run", "model", "protocol", "fold", "seed", "images", "epochs_selected"]
    rows = []
    for run in runs:
        record = run.record
        scored, alone = record["scores"]["all"], record["tumor_classes_alone"]["all"]
        values = [scored["figures"].get(name, {}).get("value") for name in FIGURES]
        if "tumor_accuracy" in FIGURES:
            values[FIGURES.index("tumor_accuracy")] = alone["value"] if alone else None
        where = (record.get("localization") or {}).get("network", {}).get("all", {})
        looked = [where.get(name, {}).get("value") for name in LOOKS]
        facts = [run.name, run.model, run.protocol, "" if run.fold is None else run.fold, run.seed]
        numbers = ["" if value is None else f"{value:.6f}" for value in (*values, *looked)]
        minutes = record["minutes"]["training"]
        commit = record["code"].get("commit", "")
        selected = record["selected"].get("epoch", "")
        rows.append([*facts, scored["n"], selected, *numbers, minutes, record["device"], commit])
    return csv_text([*header, *FIGURES, *LOOKS, "training_minutes", "device", "commit"], rows)
