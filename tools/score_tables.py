"""Tables of scores: the ladder, the official split, unseen patients."""

from collections.abc import Mapping, Sequence

from result_cells import (
    METRICS,
    MORE,
    NETWORKS,
    by_metric,
    estimate,
    number,
    points,
    read,
    rows_of,
    table,
    with_interval,
)

# As published: accuracy, macro F1, recall of glioma and meningioma on Testing.
PUBLISHED = {
    "ResNet18": ("0.894", "0.887", "0.723", "0.850"),
    "SE-ResNet18": ("0.896", "0.894", "0.840", "0.912"),
}

_GLIOMA = {"class": "glioma"}


def _means(report: str, views: Mapping[str, str], metrics: Mapping[str, str]) -> str:
    """Mean and interval of each network in each view of a study's `means.csv`."""
    rows = []
    for view, words in views.items():
        for model, name in NETWORKS.items():
            found = rows_of(f"{report}/means.csv", view=view, model=model)
            cells = {row.get("metric") or row["figure"]: row for row in found}
            images = f"{int(found[0]['images']):,}"
            values = (
                # Of fewer than 20 images of a class nothing is claimed.
                with_interval(cells[one]["mean"], cells[one]["low"], cells[one]["high"])
                if int(cells[one]["n"]) >= 20 and not (one == "macro_f1" and "copies" in view)
                else "-"
                for one in metrics
            )
            rows.append((f"{name}, {words}", images, *values))
    return table(["", "images", *metrics.values()], rows)


def _difference(*comparisons: tuple[str, str, str]) -> str:
    """SE-ResNet18 minus ResNet18: words, file, and which images."""
    rows = []
    for words, name, images in comparisons:
        found = by_metric(rows_of(f"{name}.csv", images=images))
        significant = sum(float(one["p_holm"]) < 0.05 for one in found.values() if one["p_holm"])
        cells = (points(found[metric]) for metric in METRICS)
        rows.append((words, *cells, f"{significant} of {len(found)}"))
    head = ["SE-ResNet18 minus ResNet18, points", *METRICS.values(), "significant metrics (Holm)"]
    return table(head, rows)


def se_helps() -> str:
    """SE against ResNet18 on the official split and on unseen patients."""
    return _difference(
        (
            "official split, `plain`, 30 epochs, three seeds",
            "study_plain/report/comparison",
            "official",
        ),
        ("official split, `fast`, three seeds", "official_fast/differences", "official"),
        ("unseen patients, `fast`, five folds", "patients/report/comparison", "patients"),
    )


def se_sentences() -> str:
    """Does SE help, in two sentences."""
    found = by_metric(rows_of("patients/report/comparison.csv", images="patients"))
    significant = sum(float(one["p_holm"]) < 0.05 for one in found.values() if one["p_holm"])
    recalls = [
        rows_of("patients/report/by_site.csv", model="resnet18", **_GLIOMA, site=site)[0]["recall"]
        for site in ("letters", "digits")
    ]
    methods = read("bias/methods_fast.json")["networks"]["resnet18"]["methods"]
    last = methods["last layer, classes of equal size"]["glioma_recall_of_the_rare_site"]
    gain = 100 * last["minus_none"]["value"]
    gaps = [
        number(methods[name]["gap_glioma_meningioma"]["value"], 2)
        for name in ("as it is", "offsets for worst class by all folds")
    ]
    return (
        f"On unseen patients, SE-ResNet18 minus ResNet18 is {points(found['accuracy'])} points of "
        f"accuracy, and {significant or 'none'} of {len(found)} metrics differs significantly.\n"
        f"The class-wise bias follows the site instead: ResNet18 finds {float(recalls[0]):.0%} of "
        f"gliomas of one style of patient identifier and {float(recalls[1]):.0%} of the other. "
        f"[A last layer trained again](docs/results/class-wise-bias.md) finds {gain:.0f} points "
        "more of the latter at no loss of accuracy. "
        f"[One offset for each class](docs/how-to/operating-point.md), fitted on validation people "
        f"of all folds, brings the gap between glioma and meningioma from {gaps[0]} to {gaps[1]}.\n"
    )


STEPS = {
    "official": "official split, all test images",
    "without_near_duplicates": "without near-duplicates of training images",
    "patients": "unseen patients",
    "display": "the worst everyday change of display",
    "site": "unseen patients, gliomas of the rarer site",
    "site_out": "the same, and no glioma of that site was in training",
    "external": "gliomas of other scanners",
}


def _ladder(metric: str, steps: Sequence[str], *, images: bool) -> str:
    """One metric of each network and recipe, step by step."""
    networks = read("ladder/ladder.json")["ladder"]
    rows = []
    for step in steps:
        found = [one.get(step, {}).get(metric) for one in networks.values()]
        cells = [
            "-" if one is None else estimate(one, 2) if "low" in one else number(one["value"], 2)
            for one in found
        ]
        counts = [f"{n:,}" for n in sorted({one["n"] for one in found if one and "n" in one})]
        rows.append((STEPS[step], *([" to ".join(counts)] if images else []), *cells))
    heads = (name.split(", ") for name in networks)
    names = [f"{NETWORKS[model]}, `{recipe}`" for model, recipe in heads]
    return table(["step", *(["images"] if images else []), *names], rows)


def ladder() -> str:
    """Gliomas found, in four steps."""
    return _ladder("glioma_recall", ("official", "patients", "display", "external"), images=False)


def ladder_of_gliomas() -> str:
    """Gliomas found, in every step."""
    return _ladder("glioma_recall", list(STEPS), images=True)


def ladder_of_accuracy() -> str:
    """Accuracy, in the steps that have all classes."""
    steps = ("official", "without_near_duplicates", "patients", "display")
    return _ladder("accuracy", steps, images=True)


def patients() -> str:
    """Five folds by patient, a column a network and view."""
    views = {"patients": "all images", "patients_one_a_group": "one image a group"}
    lines = [
        [cell.strip() for cell in line.strip("|\n ").split("|")]
        for line in _means("patients/report", views, MORE).splitlines()
        if not line.startswith("| ---")
    ]
    bassi = [
        "Bassi 2026, pretrained, 224 px",
        "-",
        "0.952",
        "-",
        "0.944",
        "0.900",
        "-",
        "-",
        "0.937",
    ]
    lines[0] = ["", *lines[0][-len(MORE) - 1 :]]
    head, *rows = zip(*lines, bassi, strict=True)
    return table(head, rows)


def patients_by_site() -> str:
    """Recall of each class at each site."""
    found = rows_of("patients/report/by_site.csv")
    keys = list(dict.fromkeys((row["class"], row["site"]) for row in found))
    rows = []
    for kind, site in keys:
        those = {row["model"]: row for row in found if (row["class"], row["site"]) == (kind, site)}
        one = those["resnet18"]
        cells = (
            with_interval(those[m]["recall"], those[m]["low"], those[m]["high"]) for m in NETWORKS
        )
        rows.append((kind, site, one["patients"], one["images"], *cells))
    return table(["class", "identifier", "patients", "images", *NETWORKS.values()], rows)


def interval_units() -> str:
    """Intervals over patients and over images."""
    networks = read("patients/intervals_over_patients_and_images.json")["networks"]
    rows = [
        (
            f"{NETWORKS[model]}, {MORE[metric]}",
            *(number(one[k]) for k in ("width_over_images", "width_over_patients")),
            f"{one['ratio']:.1f}",
        )
        for model, found in networks.items()
        for metric, one in found["metrics"].items()
    ]
    return table(["width of the interval", "over images", "over patients", "ratio"], rows)


def precision_pair() -> str:
    """One fold in 16 and in 32 bits."""
    found = by_metric(rows_of("precision_pair/comparison/comparison.csv", images="all"))
    rows = [
        (MORE[metric], number(one["a"]), number(one["b"]), points(one))
        for metric in ("accuracy", "macro_f1", "tumor_accuracy")
        for one in [found[metric]]
    ]
    return table(["ResNet18, fold 0, seed 0", "bf16", "32 bits", "difference, points"], rows)


def official_plain() -> str:
    """30 epochs of `plain`, with what was published."""
    views = {
        "official": "all test images",
        "official_without_same_bytes": "no exact duplicate in training",
        "official_without_copies": "no near-duplicate in training",
    }
    published = [(f"{name}, published", "1,311", *values) for name, values in PUBLISHED.items()]
    head, rule, *rows = _means("study_plain/report", views, METRICS).splitlines(keepends=True)
    shown = table(published[0], published[1:]).splitlines(keepends=True)
    return "".join([head, rule, shown[0], *shown[2:], *rows])


def official_fast() -> str:
    """`fast` on the official split."""
    views = {
        "official": "all test images",
        "official_without_copies": "no near-duplicate in training",
    }
    return _means("official_fast", views, METRICS)


def official_seeds() -> str:
    """Every run of both recipes."""
    rows = [
        (
            recipe,
            NETWORKS[row["model"]],
            row["seed"],
            *(f"{float(row[one]):.3f}" for one in METRICS),
            f"{float(row['training_minutes']):.0f}",
        )
        for recipe, name in (("plain, 30 epochs", "study_plain/report"), ("fast", "official_fast"))
        for row in rows_of(f"{name}/runs.csv")
    ]
    return table(["recipe", "network", "seed", *METRICS.values(), "minutes"], rows)


def official_15() -> str:
    """15 epochs of `plain`, one seed each, and what near-duplicates add."""
    rows = []
    for model, name in NETWORKS.items():
        found = read(f"official/{model}-seed0.json")
        for key, words in {
            "all": "all test images",
            "without_exact_copies": "no exact duplicate in training",
            "without_copies": "no near-duplicate in training",
        }.items():
            metrics = found[key]["figures"]
            rows.append(
                (
                    f"{name}, {words}",
                    f"{found[key]['n']:,}",
                    *(estimate(metrics[one]) for one in METRICS),
                )
            )
    return table(["", "images", *METRICS.values()], rows)


def leakage_inflation() -> str:
    """Score of all test images minus that without near-duplicates, points."""
    rows = []
    for model, name in NETWORKS.items():
        found = read(f"official/{model}-seed0.json")["flattery"]
        cells = (
            [100 * found[one][k] for k in ("value", "low", "high")]
            for one in ("accuracy", "balanced_accuracy")
        )
        rows.append((name, *(with_interval(*one, digits=1) for one in cells)))
    return table(["leakage inflation, points", "accuracy", "balanced accuracy"], rows)


def recipe_pairs() -> str:
    """`plain` and `fast`, seed 0, paired; differences are `plain` minus `fast`."""
    words = MORE | {"precision_pituitary": "pituitary precision"}
    rows = []
    for name, network, plain, fast in (
        ("plain_and_fast_resnet18", "ResNet18", "b", "a"),
        ("plain_and_fast", "SE-ResNet18", "a", "b"),
    ):
        found = by_metric(rows_of(f"recipe/{name}/comparison.csv", images="all"))
        for metric in ("accuracy", "recall_meningioma", "precision_pituitary"):
            one = found[metric]
            difference = points(one, turned=plain == "a")
            holm = f"{float(one['p_holm']):.2g}"
            cells = (number(one[plain]), number(one[fast]), difference, holm)
            rows.append((f"{network}, {words[metric]}", *cells))
    head = ["all 1,311 test images", "`plain`", "`fast`", "difference, points", "p (Holm)"]
    return table(head, rows)
