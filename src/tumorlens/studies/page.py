"""A study's report as one Markdown page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tumorlens.comparison.paired import Comparison
from tumorlens.comparison.run_files import RunFiles
from tumorlens.comparison.text import confusion_sentence, figure_title, title
from tumorlens.evaluation.intervals import Estimate
from tumorlens.studies.by_site import RecallBySite
from tumorlens.studies.looks import Look, Mean
from tumorlens.studies.views import LOOKS, PUBLISHED, Seen

if TYPE_CHECKING:
    from tumorlens.studies.report import StudyReport

_HEADLINE = ("accuracy", "macro_f1", "recall_glioma", "recall_meningioma")
_BY_VIEW = (*_HEADLINE, "tumor_accuracy", "glioma->meningioma", "meningioma->glioma")


def page(report: "StudyReport", runs: Sequence[RunFiles]) -> str:
    """The tables in the order of the question: published, no near-duplicates, unseen patients."""
    parts = [f"# Study\n\n{report.answer}\n\n![Story](story.png)\n"]
    official = [one for one in report.seen if one.view.name == "official"]
    if official and report.public:
        parts.append(_beside_published(official))
    parts.append("## Means over runs\n\n" + _note(report))
    views = {one.view.name: one.view.what for one in report.seen}
    for name, what in views.items():
        mine = [one for one in report.seen if one.view.name == name]
        if name != "official" and [one.images for one in mine] == [one.images for one in official]:
            continue  # there are no copies: the table above says it all
        parts.append(f"### {what[0].upper()}{what[1:]}\n\n{_means(mine)}")
        found = report.comparisons.get(name)
        if found is not None:
            parts.append(f"{_differences(found)}\n{confusion_sentence(found)}\n")
    if report.by_site:
        parts.append(_by_site(report.by_site))
    if report.looks:
        parts.append(_where_they_look(report.looks))
    parts.append(_of_runs(runs))
    return "\n".join(parts)


def cell(value: Estimate, std: float | None = None) -> str:
    """A figure as text: "0.9733 ± 0.0021 (0.964, 0.982)"; the ± is the runs' standard deviation."""
    if value.value != value.value:
        return "-"
    spread = "" if std is None else f" ± {std:.4f}"
    return f"{value.value:.4f}{spread} ({value.low:.3f}, {value.high:.3f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _beside_published(official: Sequence[Seen]) -> str:
    rows = [
        [f"{title(model)}, published", "1", *(f"{values[name]:.4f}" for name in _HEADLINE)]
        for model, values in PUBLISHED.items()
    ]
    rows += [
        [
            f"**{title(one.model)}, ours**",
            str(one.runs),
            *(cell(one.figures[name], one.std(name)) for name in _HEADLINE if name in one.figures),
        ]
        for one in official
    ]
    header = ["", "runs", *(figure_title(name) for name in _HEADLINE)]
    return f"## Testing, as everybody scores it\n\n{_table(header, rows)}"


def _note(report: "StudyReport") -> str:
    listed = "; ".join(f"{protocol}: {unit}" for protocol, unit in report.unit.items())
    return (
        "Mean over runs ± standard deviation of runs, with the 95% interval of the mean. It "
        f"resamples what is independent ({listed}) and, with several seeds, the seeds. n is the "
        "number of images scored.\n"
    )


def _means(seen: Sequence[Seen]) -> str:
    names = [name for name in _BY_VIEW if name in seen[0].figures]
    header = ["", *(f"{title(one.model)}, {_size(one)}" for one in seen)]
    rows = [
        [
            figure_title(name),
            *(cell(one.figures[name], one.std(name)) for one in seen),
        ]
        for name in names
    ]
    return _table(header, rows)


def _size(one: Seen) -> str:
    seeds = _count(one.seeds, "seed")
    folds = "" if one.folds == 1 and one.view.protocol == "official" else f", {one.folds} folds"
    return f"{_count(one.runs, 'run')} ({seeds}{folds}), n = {one.images:,}"


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
            figure_title(name),
            f"{one.value:+.4f} ({one.low:+.3f}, {one.high:+.3f})",
            f"{one.better:.2f}",
            f"**{one.p_holm:.3f}**" if one.beyond_chance else f"{one.p_holm:.3f}",
        ]
        for name, one in found.differences.items()
        if one.has_value
    ]
    return _table(header, rows)


def _by_site(found: Sequence[RecallBySite]) -> str:
    """A row a class and site, a column a network."""
    models = [model for model in PUBLISHED if any(one.model == model for one in found)]
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
                *(cell(one.recall) if one else "-" for one in of_models),
            ]
        )
    header = ["protocol", "class", "site", "images", *map(title, models)]
    return (
        "## Recall by site\n\nIs a class missed, or the images of one site? Share of a class's "
        "test images that is right, all folds together, with 95% intervals over patients.\n\n"
        f"{_table(header, rows)}"
    )


def _where_they_look(found: Sequence[Look]) -> str:
    """A table a protocol and part: networks, their difference and the centre, class by class."""
    parts = []
    for protocol, part in dict.fromkeys((one.protocol, one.part) for one in found):
        mine = [one for one in found if (one.protocol, one.part) == (protocol, part)]
        most = max(len(mean.folds) for one in mine for mean in one.figures.values())
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
                *(_look(one.figures.get(name), "+" if one.difference else "") for name in LOOKS),
            ]
            for one in mine
        ]
        header = ["class", "", "runs", *(name.replace("_", " ") for name in LOOKS)]
        parts.append(
            f"### {protocol}: boxed {part} images\n\n![Where they look]({looks_file(mine[0])})\n\n"
            f"{note}.\n\n{_table(header, rows)}"
        )
    return "## Where they look\n\n" + "\n".join(parts) if parts else ""


def looks_file(one: Look) -> str:
    """Name of the picture of its protocol and part."""
    return f"looks_{one.protocol}_{one.part}.png"


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
        f"{'; '.join(machines)}; commits {', '.join(commits)}. Each run's settings and figures "
        "are in its own JSON, `runs.csv` has them side by side.\n"
    )
