"""The report as one self-contained HTML page, and the model card; both drawn from `Evidence`."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from tumorlens import __version__
from tumorlens.errors import TumorlensError
from tumorlens.files import write_text
from tumorlens.labels import title
from tumorlens.progress import Progress, silent
from tumorlens.reporting import claim, tables
from tumorlens.reporting.evidence import Evidence, Gap, estimates, gather
from tumorlens.settings import ReportSettings

CARD = "MODEL_CARD.md"
# In the first lines of the page: what may be written over.
_GENERATOR = '<meta name="generator" content="tumorlens report'
# The card's last line: a digest of what stands above it, so that an author's own words are kept.
_SEAL = re.compile(r"\n<!-- tumorlens report ([0-9a-f]{64}) -->\n?$")


@dataclass(frozen=True)
class RunReport:
    """What `report` wrote."""

    page: Path  # the HTML file
    card: Path  # MODEL_CARD.md
    card_kept: bool  # the card that was there has words of its author and was left as it is
    gaps: tuple[Gap, ...]  # what a full report would have too
    filled: int  # items of the checklist that the run answers, of 44


def report(settings: ReportSettings, progress: Progress = silent) -> RunReport:
    """Write the page and the model card of a run.

    Raises:
        TumorlensError: see `evidence.gather`; or a file of somebody else is in the page's place.
    """
    found = gather(settings)
    page = settings.out or found.run_dir / "report.html"
    if page.is_dir():
        raise TumorlensError(f"--out {page}: is a folder, expected a file such as report.html.")
    if page.exists() and _GENERATOR not in _head(page):
        raise TumorlensError(
            f"--out {page}: the file there was not written by tumorlens report and is left alone; "
            "name another --out, or move it."
        )
    card = page.parent / CARD
    kept = card.exists() and not _untouched(card)
    items = claim.checklist(found)
    progress("reporting", 0, 2)
    write_text(page, _render("report.html", found, items, autoescape=True))
    progress("reporting", 1, 2)
    if not kept:
        # In the order of Mitchell et al. 2019, "Model Cards for Model Reporting".
        write_text(card, sealed(_render("model_card.md", found, items, finalize=_plain)))
    progress("reporting", 2, 2)
    return RunReport(page, card, kept, found.gaps, sum(bool(item.answer) for item in items))


def sealed(card: str) -> str:
    """A card and the digest that tells whether anyone has changed it since."""
    digest = hashlib.sha256(card.encode("utf-8")).hexdigest()
    return f"{card}\n<!-- tumorlens report {digest} -->\n"


def _untouched(card: Path) -> bool:
    text = card.read_text(encoding="utf-8", errors="replace")
    seal = _SEAL.search(text)
    return seal is not None and sealed(text[: seal.start()]).rstrip() == text.rstrip()


def _head(page: Path) -> str:
    with page.open(encoding="utf-8", errors="replace") as file:
        return file.read(2000)


def _plain(value: object) -> object:
    """Names of classes and folders come from the disk: nothing in them may be markup."""
    if not isinstance(value, str):
        return value
    return re.sub(r"([|<>`*\[\]\\])", r"\\\1", " ".join(value.split()))


def _render(name: str, found: Evidence, items: tuple[claim.Item, ...], **options: Any) -> str:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, **options
    )
    text = resources.files("tumorlens.reporting").joinpath(f"templates/{name}").read_text("utf-8")
    metrics = found.evaluation.content if found.evaluation else None
    model = str(found.summary["model_name"])
    classes = [str(item) for item in found.summary["classes"]]
    words = [str(word) for word in found.manifest.get("arguments", [])]
    return environment.from_string(text).render(
        found=found,
        version=__version__,
        title=title(model),
        network=claim.network_in_words(model),
        classes=classes,
        data=found.data,
        data_name=Path(str(found.data.get("data_dir", ""))).name,
        counts=found.counts,
        prepared=found.summary["preprocessing"],
        metrics=metrics,
        per_class=tables.PER_CLASS,
        items=items,
        maps=claim.maps_of(found),
        figures=_figures(found),
        compared=[
            (", ".join(path).replace("_", " "), tables.cell(entry))
            for path, entry in estimates(found.comparison.content if found.comparison else None)
        ],
        localised=tables.localised(
            found.localisation.content if found.localisation else None, classes
        ),
        localisation=tables.LOCALISATION,
        environment=claim.environment(found),
        command=" ".join([*(Path(word).name for word in words[:1]), *words[1:]]),
        flat=_flat,
        scores=_scores(metrics) if metrics else {},
    )


def _scores(metrics: tables.Record) -> dict[str, Any]:
    headline = {"accuracy": "accuracy", "macro_f1": "macro F1"}
    headline |= {f"recall_{name}": f"{name} recall" for name in metrics.get("bias_pair") or ()}
    return {
        "overall": tables.rows(metrics, tables.OVERALL),
        "calibration": tables.rows(metrics, tables.CALIBRATION),
        "classes": list(tables.by_class(metrics)),
        "bias": tables.bias(metrics),
        "clean": tables.clean_subset(metrics),
        "duplicates": tables.leakage_sentence(metrics),
        "bias_sentence": metrics.get("bias", {}).get("sentence", ""),
        "wrong": tables.wrong(metrics),
        "headline": tables.rows(metrics, headline),
    }


def _figures(found: Evidence) -> dict[str, str]:
    places = {"curves": found.run_dir / "training_curves.png"}
    if found.evaluation:
        for name in ("roc", "reliability", "subgroups", "errors"):
            places[name] = found.evaluation.path / f"{name}.png"
    if found.gradcam:
        places["panel"] = found.gradcam.path / "panel.png"
    if found.localisation:
        for name in ("localization", "gallery"):
            places[name] = found.localisation.path / f"{name}.png"
    if found.comparison:
        for path in sorted(found.comparison.path.glob("*.png")):
            places[f"compare_{path.stem}"] = path
    return {
        name: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        for name, path in places.items()
        if path.is_file()
    }


def _flat(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_flat(item)}" for key, item in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return value if isinstance(value, str) else json.dumps(value)
