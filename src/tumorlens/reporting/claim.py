"""The CLAIM checklist, 2024 update: what a run answers by itself, and what its author must say.

Tejani, Klontzas, Gatti, Mongan, Moy, Park, Kahn, "Checklist for Artificial Intelligence in Medical
Imaging (CLAIM): 2024 Update", Radiology: Artificial Intelligence 2024, 6(4):e240300. Items are
named here in few words; the paper says what each asks for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tumorlens.labels import MODELS, is_foreign
from tumorlens.reporting import tables
from tumorlens.reporting.evidence import Evidence
from tumorlens.settings import METHOD_NAMES, MapMethod

ITEMS = {
    1: ("Title", "Identified as a study of AI, with the kind of method"),
    2: ("Abstract", "Summary of design, methods, results, conclusions"),
    3: ("Introduction", "Background; intended use and role"),
    4: ("Introduction", "Aims and hypotheses"),
    5: ("Study design", "Prospective or retrospective"),
    6: ("Study design", "Goal of the study"),
    7: ("Data", "Sources"),
    8: ("Data", "Inclusion and exclusion criteria"),
    9: ("Data", "Preprocessing"),
    10: ("Data", "Selection of subsets"),
    11: ("Data", "De-identification"),
    12: ("Data", "Missing data"),
    13: ("Data", "Image acquisition"),
    14: ("Reference standard", "How it was obtained"),
    15: ("Reference standard", "Why this one"),
    16: ("Reference standard", "Who annotated"),
    17: ("Reference standard", "Annotation of the test set"),
    18: ("Reference standard", "Agreement between and within raters"),
    19: ("Partitions", "How images were assigned"),
    20: ("Partitions", "Level at which they are disjoint"),
    21: ("Testing data", "Intended sample size"),
    22: ("Model", "Description"),
    23: ("Model", "Software"),
    24: ("Model", "Initial parameters"),
    25: ("Training", "Approach"),
    26: ("Training", "How the final model was chosen"),
    27: ("Training", "Ensembling"),
    28: ("Evaluation", "Metrics"),
    29: ("Evaluation", "Significance and uncertainty"),
    30: ("Evaluation", "Robustness or sensitivity"),
    31: ("Evaluation", "Explainability"),
    32: ("Evaluation", "On internal data"),
    33: ("Evaluation", "On external data"),
    34: ("Evaluation", "Trial registration"),
    35: ("Results: data", "Cases included and excluded"),
    36: ("Results: data", "Demographic and clinical characteristics"),
    37: ("Results: performance", "Metrics and their uncertainty"),
    38: ("Results: performance", "Diagnostic performance and its precision"),
    39: ("Results: performance", "Failure analysis"),
    40: ("Discussion", "Limitations"),
    41: ("Discussion", "Implications for practice"),
    42: ("Other", "Protocol or further technical details"),
    43: ("Other", "Availability of software, model, data"),
    44: ("Other", "Funding and the role of funders"),
}

_SOURCES: dict[MapMethod, str] = {
    "gradcam": "Selvaraju et al. 2017",
    "gradcam++": "Chattopadhay et al. 2018",
    "layercam": "Jiang et al. 2021",
    "hirescam": "Draelos and Carin 2020",
}


@dataclass(frozen=True)
class Item:
    """One item of the checklist."""

    number: int  # 1 to 44
    # section, title: where it belongs, what it asks
    section: str
    title: str
    answer: str  # from the run's files; empty: for the author
    open: str  # what the author must add to the answer, or say instead of one; may be empty


def checklist(found: Evidence) -> tuple[Item, ...]:
    """All 44 items, in order."""
    answers = {number: (answer, more) for number, answer, more in (*_data(found), *_model(found))}
    if found.evaluation is not None:
        of_results = _results(found, found.evaluation.content)
        answers |= {number: (answer, more) for number, answer, more in of_results}
    if found.gradcam is not None:
        drawn = found.gradcam.content.get("chosen", "")
        checked = "Whether the maps were checked against marked tumors."
        answers[31] = f"{maps_of(found)}: {drawn}.", checked
    return tuple(
        Item(number, section, title, *answers.get(number, ("", "")))
        for number, (section, title) in ITEMS.items()
    )


def maps_of(found: Evidence) -> str:
    """Method, its source, and layer of the run's maps; "" where there are none."""
    if found.gradcam is None:
        return ""
    content = found.gradcam.content
    method: MapMethod = content.get("method", "gradcam")
    title = f"{METHOD_NAMES.get(method, method)} ({_SOURCES.get(method, 'no source')})"
    return f"{title} at {content.get('layer', 'layer4')}"


def _data(found: Evidence) -> Iterator[tuple[int, str, str]]:
    data, prepared = found.data, found.summary["preprocessing"]
    size = prepared["image_size"]
    yield (
        9,
        f"One grey channel, fitted into {size} x {size} pixels without changing proportions, "
        f"divided by 255, minus {prepared['mean']:.4f}, divided by {prepared['std']:.4f} (of "
        "the training images).",
        "Anything done to the images before they came into the data folder.",
    )
    if not data:
        return
    counts, skipped = found.counts, data.get("skipped", {})
    yield 12, f"{len(skipped)} files could not be decoded and were left out.", "Clinical data."
    yield 19, f"{counts} images; {data['protocol']}.", ""
    yield 20, _disjoint(found), "Whether patients are in one partition each."
    yield (
        35,
        f"{counts} images; {len(skipped)} left out as undecodable.",
        "Patients or examinations, included and excluded.",
    )


def _disjoint(found: Evidence) -> str:
    if found.evaluation is not None:
        return tables.leakage_sentence(found.evaluation.content)
    if found.audit is not None:
        across = found.audit.content["near_duplicates"]["across_splits"]
        return f"The audit found {across:,} pairs of the same image across partitions."
    return ""


def network_in_words(name: str) -> str:
    """A network's name, and where it was published."""
    if name not in MODELS:
        return f"{name}, code of the user's own" if is_foreign(name) else name
    words, _, reduction = MODELS[name]
    if reduction is None:
        return f"{words} (He et al. 2016)"
    return (
        f"{words.removeprefix('SE-')} with squeeze-and-excitation in every residual block (Hu et "
        f"al. 2018), reduction {reduction}"
    )


def _start(found: Evidence) -> str:
    """What the weights were before training."""
    settings, name = found.settings, str(found.summary["model_name"])
    first = f"Random, from seed {settings.get('seed')}"
    if is_foreign(name):
        first = f"As {name} makes them, with seed {settings.get('seed')}"
    elif not settings.get("init"):
        first += "; no pretraining"
    return ". ".join([first, *settings.get("starting_network", [])]) + "."


def _model(found: Evidence) -> Iterator[tuple[int, str, str]]:
    name = str(found.summary["model_name"])
    recipe = found.recipe
    size, classes = found.summary["preprocessing"]["image_size"], found.summary["classes"]
    yield (
        22,
        f"{network_in_words(name)}; input {size} x {size} pixels; output {len(classes)} "
        f"classes: {', '.join(classes)}.",
        "",
    )
    yield 23, environment(found), ""
    patience = "no early stopping" if found.nothing_chose else f"patience {recipe.get('patience')}"
    yield 24, _start(found), ""
    yield (
        25,
        f"At most {recipe.get('epochs')} epochs ({found.manifest.get('epochs', '?')} run), "
        f"batches of {recipe.get('batch_size')}, {recipe.get('optimizer', 'Adam')}, "
        f"learning rate {recipe.get('lr')} ({recipe.get('schedule')}), {patience}; "
        "augmentation and all other settings are listed under Training.",
        "How many models were trained, and what was tried before.",
    )
    yield 26, f"{found.kept[0].upper()}{found.kept[1:]}.", ""
    yield 27, "None: one network.", ""


def _results(found: Evidence, metrics: tables.Record) -> Iterator[tuple[int, str, str]]:
    split, n = metrics["split"], metrics["images"]
    main = tables.rows(metrics, tables.OVERALL)[:3]
    scores = "; ".join(f"{row.name} {row.all.text} ({row.all.interval})" for row in main)
    of_class = "; ".join(
        f"{name} sensitivity {cells[0].text} ({cells[0].interval}), specificity {cells[2].text} "
        f"({cells[2].interval})"
        for name, _, cells in tables.by_class(metrics)
    )
    yield (
        28,
        "Accuracy, balanced accuracy, macro F1, Matthews correlation, recall, precision, "
        "specificity, F1, AUROC and average precision of each class, calibration.",
        "",
    )
    yield 29, f"Intervals: {metrics['interval']}.", ""
    if tables.clean_subset(metrics):
        yield (
            30,
            "Scored again without the images that show a training image.",
            "Other scanners, noise, subgroups.",
        )
    known = found.data.get("data_dir")
    scored = known is not None and Path(str(metrics.get("data_dir"))).resolve() == Path(known)
    note = "Whether these images come from another institution than the training images."
    if scored and split in ("valid", "test"):
        yield 32, f"{n:,} {split} images of the folder that the network was trained from.", ""
    elif not scored:
        yield 33, f"{n:,} {split} images of another folder than the training images.", note
    yield 37, f"{n:,} {split} images: {scores}.", ""
    yield 38, of_class + ".", ""
    yield (
        39,
        f"{tables.wrong(metrics)} of {n:,} images are predicted wrong; the most confident "
        "errors are shown under Errors.",
        "What they have in common.",
    )


def environment(found: Evidence) -> str:
    """Python, packages and platform of the training run."""
    packages = found.manifest.get("packages", {})
    parts = [
        f"tumorlens {found.manifest.get('tumorlens', '?')}",
        f"Python {found.manifest.get('python', '?')}",
        *(f"{name} {version}" for name, version in packages.items()),
    ]
    return ", ".join(parts) + f"; {found.manifest.get('platform', '?')}."
