"""The command study --report: what the finished runs say, as tables, figures and one answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorlens.comparison.compare import compared_record, differences_csv, differences_plot
from tumorlens.comparison.paired import Comparison
from tumorlens.comparison.run_files import RunFiles, read_study, refuse_mixed
from tumorlens.comparison.text import confusion_sentence, metric_title
from tumorlens.data.patients import read_patients
from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.plots import save
from tumorlens.files import claim, csv_text, write_json, write_manifest, write_text
from tumorlens.image_tables import Tabular, read_groups, transposed
from tumorlens.labels import title
from tumorlens.progress import Progress, silent
from tumorlens.settings import StudySettings
from tumorlens.studies import figures
from tumorlens.studies.summary import (
    HEADLINE,
    PUBLISHED,
    RESAMPLES,
    Seen,
    answer,
    metrics_of,
    networks_of,
    on_public_testing,
    predictions_by_run,
    summarize,
    unit_of,
)
from tumorlens.studies.summary_by_class import LOOKS, Look, Mean, RecallBySite, by_site, looks

_BY_VIEW = (*HEADLINE, "tumor_accuracy", "glioma->meningioma", "meningioma->glioma")


@dataclass(frozen=True)
class StudyReport(Tabular):
    """What the report says."""

    answer: str  # does squeeze-and-excitation help, and whom? In plain words
    runs: int  # how many finished runs it is from
    seen: tuple[Seen, ...]  # every view of every network
    comparisons: dict[str, Comparison]  # by view's name; where both networks have runs
    # Recall of each class at each site; empty where sites are not known
    by_site: tuple[RecallBySite, ...]
    looks: tuple[Look, ...]  # where the maps lie; empty where no run was given boxes
    unit: dict[str, str]  # what intervals resample, protocol by protocol, in words
    # Whether the official runs are scored on the public set's `Testing`, so that the published
    # metrics may stand beside them.
    public: bool
    folder: Path  # where the files are

    def table(self) -> dict[str, list[Any]]:
        """A row for each view, network and metric, as means.csv has them."""
        header = ["view", "model", "runs", "seeds", "folds", "images", "metric", "mean"]
        rows = [
            (
                *(one.view.name, one.model, one.runs, one.seeds, one.folds, one.images, name),
                *(value.value, value.low, value.high, one.std(name), value.n),
            )
            for one in self.seen
            for name, value in one.metrics.items()
        ]
        return transposed([*header, "low", "high", "std_of_runs", "n"], rows)


def draw_report(settings: StudySettings, progress: Progress = silent) -> StudyReport:
    """Draw tables and figures of the finished runs into `out_dir`/report.

    Of the settings `out_dir`, `patients`, `groups` and `resamples` count.

    Raises:
        TumorlensError: no finished run, runs of a protocol that were trained in different ways,
            faults of --groups, or a report folder that is not ours.
    """
    runs = read_study(settings.out_dir)
    refuse_mixed(runs)
    named = read_groups(settings.groups) if settings.groups else None
    table = read_patients(settings.patients) if settings.patients else None
    predictions = predictions_by_run(runs, named, table)
    folder = claim(settings.out_dir / "report", "study")
    seen, comparisons = summarize(runs, predictions, settings.resamples, progress)
    report = StudyReport(
        answer(comparisons),
        len(runs),
        seen,
        comparisons,
        by_site(runs, predictions, resamples=settings.resamples or RESAMPLES),
        looks(runs),
        {name: unit_of(runs, predictions, name) for name in sorted({run.protocol for run in runs})},
        on_public_testing(runs, predictions),
        folder,
    )
    _write(report, runs, settings)
    return report


def _write(report: StudyReport, runs: Sequence[RunFiles], settings: StudySettings) -> None:
    folder = report.folder
    means = report.table()
    write_text(folder / "means.csv", _csv(list(means), zip(*means.values(), strict=True)))
    write_text(folder / "runs.csv", _runs_csv(runs))
    if report.comparisons:
        write_text(folder / "comparison.csv", differences_csv(report.comparisons))
    write_text(folder / "report.md", _page(report, runs))
    write_json(folder / "report.json", _record(report, runs))
    save(figures.story(report.seen, published=report.public), folder / "story.png")
    if report.by_site:
        write_text(folder / "by_site.csv", _by_site_csv(report.by_site))
    if report.looks:
        write_text(folder / "attribution_by_class.csv", _attribution_csv(report.looks))
    for mine in _by_split(report.looks):
        save(figures.attribution_by_class(mine), folder / _attribution_file(mine[0]))
    for name, found in report.comparisons.items():
        save(differences_plot({name: found}), folder / f"comparison_{name}.png")
    write_manifest(
        folder,
        "study",
        arguments=["tumorlens", "study", "--report"],
        settings={
            "patients": settings.patients.as_posix() if settings.patients else None,
            "groups": settings.groups.as_posix() if settings.groups else None,
            "resamples": settings.resamples,
        },
    )


def _record(report: StudyReport, runs: Sequence[RunFiles]) -> dict[str, Any]:
    return {
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
                "metrics": {
                    name: value.to_dict() | {"std_of_runs": one.std(name), "runs": one.values[name]}
                    for name, value in one.metrics.items()
                },
            }
            for one in report.seen
        ],
        "comparisons": {name: compared_record(found) for name, found in report.comparisons.items()},
    }


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Fractions with six decimals; what is not known, None, is empty."""
    texts = ([f"{one:.6f}" if isinstance(one, float) else one for one in row] for row in rows)
    return csv_text(header, texts)


def _runs_csv(runs: Sequence[RunFiles]) -> str:
    header = ["run", "model", "protocol", "fold", "seed", "images", "epochs_selected"]
    names = metrics_of({name for run in runs for name in run.record["classes"]})
    rows = []
    for run in runs:
        record = run.record
        scored, alone = record["scores"]["all"], record["tumor_classes_alone"]["all"]
        metrics = scored["metrics"] | {"tumor_accuracy": alone or {}}
        where = (record.get("localization") or {}).get("network", {}).get("all", {})
        facts = [run.name, run.model, run.protocol, run.fold, run.seed, scored["n"]]
        facts += [record["selected"].get("epoch")]
        facts += [metrics.get(name, {}).get("value") for name in names]
        facts += [where.get(name, {}).get("value") for name in LOOKS]
        end = (str(record["minutes"]["training"]), record["device"], record["code"].get("commit"))
        rows.append([*facts, *end])
    return _csv([*header, *names, *LOOKS, "training_minutes", "device", "commit"], rows)


def _by_site_csv(found: Sequence[RecallBySite]) -> str:
    header = ["protocol", "model", "class", "site", "images", "patients", "recall", "low", "high"]
    rows = []
    for one in found:
        facts = [one.protocol, one.model, one.label, one.site, one.recall.n, one.patients]
        rows.append([*facts, one.recall.value, one.recall.low, one.recall.high])
    return _csv(header, rows)


def _attribution_csv(found: Sequence[Look]) -> str:
    header = ["protocol", "split", "class", "who", "runs", "metric", "mean", "low", "high", "folds"]
    rows = []
    for one in found:
        facts = [one.protocol, one.split, one.label, one.who, one.runs]
        for name, mean in one.metrics.items():
            folds = " ".join(f"{fold:.6f}" for fold in mean.folds)
            rows.append([*facts, name, mean.value, mean.low, mean.high, folds])
    return _csv(header, rows)


def _page(report: StudyReport, runs: Sequence[RunFiles]) -> str:
    """The tables in the order of the question: published, no near-duplicates, unseen patients."""
    parts = [f"# Study\n\n{report.answer}\n\n![Story](story.png)\n"]
    official = [one for one in report.seen if one.view.name == "official"]
    if official and report.public:
        parts.append(_beside_published(official))
    units = "; ".join(f"protocol {name}: {unit}" for name, unit in report.unit.items())
    parts.append(
        "## Means over runs\n\nMean over runs ± standard deviation of runs, with the 95% interval "
        f"of the mean. It resamples what is independent ({units}) and, with several seeds, the "
        "seeds. n is the number of images scored.\n"
    )
    views = {one.view.name: one.view.what for one in report.seen}
    for name, what in views.items():
        mine = [one for one in report.seen if one.view.name == name]
        if name != "official" and [one.images for one in mine] == [one.images for one in official]:
            continue  # there are no near-duplicates: the table above says it all
        parts.append(f"### {what[0].upper()}{what[1:]}\n\n{_means(mine)}")
        found = report.comparisons.get(name)
        if found is not None:
            parts.append(f"{_differences(found)}\n{confusion_sentence(found)}\n")
    if report.by_site:
        parts.append(_by_site(report.by_site))
    if report.looks:
        parts.append(_attribution_by_class(report.looks))
    parts.append(_of_runs(runs))
    return "\n".join(parts)


def _cell(value: Estimate, std: float | None = None) -> str:
    """A metric as text: "0.9733 ± 0.0021 (0.964, 0.982)"; the ± is the runs' standard deviation."""
    if value.value != value.value:
        return "-"
    spread = "" if std is None else f" ± {std:.4f}"
    return f"{value.value:.4f}{spread} ({value.low:.3f}, {value.high:.3f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _beside_published(official: Sequence[Seen]) -> str:
    rows = [
        [f"{title(model)}, published", "1", *(f"{values[name]:.4f}" for name in HEADLINE)]
        for model, values in PUBLISHED.items()
    ]
    rows += [
        [
            f"**{title(one.model)}, ours**",
            str(one.runs),
            *(_cell(one.metrics[name], one.std(name)) for name in HEADLINE if name in one.metrics),
        ]
        for one in official
    ]
    header = ["", "runs", *(metric_title(name) for name in HEADLINE)]
    return f"## Testing, as everybody scores it\n\n{_table(header, rows)}"


def _means(seen: Sequence[Seen]) -> str:
    header = [""]
    for one in seen:
        official = one.folds == 1 and one.view.protocol == "official"
        grid = _count(one.seeds, "seed") + ("" if official else f", {one.folds} folds")
        header.append(f"{title(one.model)}, {_count(one.runs, 'run')} ({grid}), n = {one.images:,}")
    metrics = seen[0].metrics
    names = [name for name in _BY_VIEW if name in metrics]
    if "recall_glioma" not in metrics:  # other classes than the public set's
        names = [*metrics]
    rows = [
        [metric_title(name), *(_cell(one.metrics[name], one.std(name)) for one in seen)]
        for name in names
    ]
    return _table(header, rows)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _differences(found: Comparison) -> str:
    header = [
        f"{title(found.b)} minus {title(found.a)}, {_count(found.runs, 'pair')} of runs, "
        f"n = {found.images:,}",
        "difference (95%)",
        "P(better)",
        "p, Holm",
    ]
    rows = [
        [
            metric_title(name),
            f"{one.value:+.4f} ({one.low:+.3f}, {one.high:+.3f})",
            f"{one.better:.2f}",
            f"**{one.p_holm:.3f}**" if one.significant else f"{one.p_holm:.3f}",
        ]
        for name, one in found.differences.items()
        if one.has_value
    ]
    return _table(header, rows)


def _by_site(found: Sequence[RecallBySite]) -> str:
    models = networks_of(one.model for one in found)
    recall = {(one.protocol, one.model, one.label, one.site): one for one in found}
    rows = []
    for protocol, label, site in dict.fromkeys((s.protocol, s.label, s.site) for s in found):
        of_models = [recall.get((protocol, model, label, site)) for model in models]
        there = next(one for one in of_models if one)
        rows.append(
            [
                protocol,
                label,
                site,
                f"{there.recall.n:,} of {_count(there.patients, 'patient')}",
                *(_cell(one.recall) if one else "-" for one in of_models),
            ]
        )
    header = ["protocol", "class", "site", "images", *map(title, models)]
    return (
        "## Recall by site\n\nIs a class missed, or the images of one site? Share of a class's "
        "test images that is right, all folds together, with 95% intervals over patients.\n\n"
        f"{_table(header, rows)}"
    )


def _attribution_by_class(found: Sequence[Look]) -> str:
    """A table a protocol and split: networks, their difference and the centre, class by class."""
    parts = []
    for mine in _by_split(found):
        most = max(len(mean.folds) for one in mine for mean in one.metrics.values())
        note = (
            f"Means over {most} folds, with the 95% t interval over the folds"
            if most > 1
            else "Means over runs"
        )
        rows = [
            [
                one.label,
                one.who,
                str(one.runs),
                *(_look(one.metrics.get(name), "+" if one.difference else "") for name in LOOKS),
            ]
            for one in mine
        ]
        header = ["class", "", "runs", *(name.replace("_", " ") for name in LOOKS)]
        parts.append(
            f"### {mine[0].protocol}: boxed {mine[0].split} images\n\n![Where they "
            f"look]({_attribution_file(mine[0])})\n\n{note}.\n\n{_table(header, rows)}"
        )
    return "## Where the maps lie\n\n" + "\n".join(parts)


def _by_split(found: Sequence[Look]) -> list[list[Look]]:
    groups: dict[tuple[str, str], list[Look]] = {}
    for one in found:
        groups.setdefault((one.protocol, one.split), []).append(one)
    return list(groups.values())


def _attribution_file(one: Look) -> str:
    return f"attribution_{one.protocol}_{one.split}.png"


def _look(mean: Mean | None, sign: str) -> str:
    if mean is None:
        return "-"
    if mean.low is None or mean.high is None:
        return f"{mean.value:{sign}.3f}"
    return f"{mean.value:{sign}.3f} ({mean.low:{sign}.3f}, {mean.high:{sign}.3f})"


def _of_runs(runs: Sequence[RunFiles]) -> str:
    minutes = sum(run.record["minutes"]["training"] for run in runs)
    machines = sorted({f"{run.record['device']} of {run.record['machine']}" for run in runs})
    commits = sorted({str(run.record["code"].get("commit", "unknown")) for run in runs})
    return (
        f"## Runs\n\n{len(runs)} finished runs, {minutes:.0f} minutes of training together, on "
        f"{'; '.join(machines)}; commits {', '.join(commits)}. Each run's settings and metrics "
        "are in its own JSON, `runs.csv` has them side by side.\n"
    )
