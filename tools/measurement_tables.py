"""Tables of other measurements: saliency, speed, near-duplicates."""

import numpy as np

from result_cells import (
    NETWORKS,
    RESULTS,
    estimate,
    number,
    points,
    read,
    rows_of,
    table,
    with_interval,
)


def layer_choice() -> str:
    """Energy ratio of each layer and method on validation patients."""
    found = read("localization/layer_choice.json")
    methods = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM"}
    rows = []
    for one in found["best"]:
        those = [
            next(
                row
                for row in found["rows"]
                if row["model"] == model
                and (row["method"], row["layer"]) == (one["method"], one["layer"])
            )
            for model in NETWORKS
        ]
        ratios = (estimate(row["subsets"]["all"]["energy_ratio"], 2) for row in those)
        rows.append(
            (
                f"{methods[one['method']]}, `{one['layer']}`",
                *ratios,
                f"{one['energy_ratio']:.2f}",
                f"{one['pointing_game']:.2f}",
            )
        )
    return table(["method and layer", *NETWORKS.values(), "mean", "pointing game, mean"], rows)


def layer_by_class() -> str:
    """The two best ways, class by class."""
    rows = []
    found = read("localization/layer_choice.json")["rows"]
    for method, layer, words in (
        ("gradcam", "layer2*layer3", "Grad-CAM, `layer2*layer3`"),
        ("hirescam", "layer1*layer2", "HiResCAM, `layer1*layer2`"),
    ):
        for model, name in NETWORKS.items():
            row = next(
                r for r in found if (r["model"], r["method"], r["layer"]) == (model, method, layer)
            )
            cells = (
                estimate(row["subsets"][kind]["energy_ratio"], 2)
                for kind in ("glioma", "meningioma", "pituitary")
            )
            rows.append((f"{words}, {name}", *cells))
    return table(["energy ratio", "glioma", "meningioma", "pituitary"], rows)


def maps_official() -> str:
    """Maps on validation images of the official split beside the centre prior."""
    found = rows_of("study_plain/report/looks.csv")
    rows = []
    for kind in ("glioma", "meningioma", "pituitary"):
        for who, name in (
            *zip(NETWORKS.values(), NETWORKS.values(), strict=True),
            ("centre baseline", "centre prior"),
        ):
            cells = {
                row["figure"]: float(row["mean"])
                for row in found
                if row["class"] == kind and row["who"] == who
            }
            rows.append(
                (kind, name, f"{cells['energy_over_chance']:.1f}", f"{cells['pointing_game']:.2f}")
            )
    return table(["class", "maps of", "energy ratio", "pointing game"], rows)


def phantom_maps() -> str:
    """Maps on simulated tumors."""
    found = read("demo/localization.json")["localization"]["se_resnet18"]
    rows = []
    for kind in ("all", "glioma", "meningioma", "pituitary"):
        network, centre = found["network"][kind], found["centre"][kind]
        rows.append(
            (
                kind,
                network["energy_over_chance"]["n"],
                estimate(network["energy_over_chance"], 1),
                f"{centre['energy_over_chance']['value']:.1f}",
                estimate(network["pointing_game"], 2),
            )
        )
    return table(["tumors", "images", "energy ratio", "centre prior's", "pointing game"], rows)


def phantom_checks() -> str:
    """Do the maps mean anything?"""
    found = read("demo/checks.json")
    areas = found["faithfulness"]["networks"]["se_resnet18"]
    sanity = found["sanity"]["networks"]["se_resnet18"]
    agree = found["agreement"]
    last = list(sanity["steps"].values())[-1]
    return table(
        ["check", "by the maps", "beside"],
        [
            (
                "deletion, area (lower is better)",
                estimate(areas["deletion_map"], 2),
                estimate(areas["deletion_random"], 2) + " in random order",
            ),
            (
                "insertion, area (higher is better)",
                estimate(areas["insertion_map"], 2),
                estimate(areas["insertion_random"], 2) + " in random order",
            ),
            (
                "rank correlation with the maps of random weights",
                estimate(last["rank"], 2),
                estimate(sanity["maps_of_different_images"]["rank"], 2) + " between images",
            ),
            (
                "rank correlation with the maps of another seed",
                estimate(agree["between_networks"]["rank"], 2),
                estimate(agree["maps_of_different_images"]["rank"], 2) + " between images",
            ),
            (
                "SSIM with the maps of another seed",
                estimate(agree["between_networks"]["ssim"], 2),
                estimate(agree["maps_of_different_images"]["ssim"], 2) + " between images",
            ),
        ],
    )


def step_rate() -> str:
    """Speed of a training step."""
    found = read("speed/training_step_rate.json")["measurements"]
    rows = []
    for one in found:
        if one["precision"] != "bf16-mixed":
            continue
        key = ("network", "image_size", "batch_size")
        full = next(
            r for r in found if r["precision"] == "32-true" and all(r[k] == one[k] for k in key)
        )
        rows.append(
            (
                NETWORKS[one["network"]],
                f"{one['image_size']} px, {one['batch_size']}",
                *(f"{r['images_per_s']['median']:.0f}" for r in (full, one)),
                estimate(one["of_32_true"], 2),
                *(estimate(r["of_torchvision_resnet18"], 2) for r in (full, one)),
            )
        )
    return table(
        [
            "network",
            "size, batch",
            "32 bits, images/s",
            "bf16, images/s",
            "bf16 over 32 bits",
            "over torchvision, 32 bits",
            "over torchvision, bf16",
        ],
        rows,
    )


def busy_machine() -> str:
    """Two threads beside another program."""
    found = read("speed/contended_training.json")["results"]
    ways = {
        "2 threads, default": "two threads, GNU's default",
        "2 threads, passive": "two threads, `OMP_WAIT_POLICY=passive`",
        "2 threads, short spin": "two threads, `GOMP_SPINCOUNT=1000` (set by tumorlens)",
    }
    rows = [
        (words, *(estimate(those[key]["of_one_thread"], 2) for those in found.values()))
        for key, words in ways.items()
    ]
    return table(
        [
            "multiple of one thread's speed",
            "quiet",
            "one core taken",
            "the same at a lower priority",
        ],
        rows,
    )


def gradcam_speed() -> str:
    """Maps in multiples of a forward pass."""
    batches = read("explain/speed.json")["batches"]
    names = {
        "tumorlens": "tumorlens",
        "torchcam": "torchcam 0.5.0",
        "pytorch-grad-cam": "pytorch-grad-cam 1.5.7",
    }
    rows = [
        (words, *(estimate(one[key]["times_forward"], 2) for one in batches.values()))
        for key, words in names.items()
    ]
    return table(["times the forward pass", *batches], rows)


def export_speed() -> str:
    """Exported networks against PyTorch eager."""
    sizes = read("export/speed.json")["sizes"]
    names = {
        "torch eager": "PyTorch eager",
        "torch compiled": "`torch.compile`",
        "onnx fp32": "ONNX, 32 bits",
        "onnx int8": "ONNX, 8 bits",
    }
    columns = [(size, batch) for size in sizes for batch in ("batch 1", "batch 32")]
    files = {"torch eager": "checkpoint", "onnx fp32": "onnx fp32", "onnx int8": "onnx int8"}
    rows = [
        (
            words,
            f"{sizes['96 px']['megabytes'][files[key]]:.1f}" if key in files else "-",
            *(estimate(sizes[s][b][key]["times_eager"], 2) for s, b in columns),
        )
        for key, words in names.items()
    ]
    return table(["time over PyTorch eager's", "MB", *(", ".join(one) for one in columns)], rows)


def duplicate_counts() -> str:
    """Near-duplicates of `Training` in `Testing`."""
    found = read("audit/leak.json")
    columns = {**found["by_class"], "all": found["all"]}
    words = {
        "images": "images",
        "exact": "byte-identical to a training image",
        "re-encoded": "re-encoded",
        "mirrored": "mirrored",
        "turned": "turned",
    }
    rows = [(text, *(one[key] for one in columns.values())) for key, text in words.items()]
    rows.append(
        (
            "no near-duplicate in Training",
            *(one["images"] - one["with_copy"] for one in columns.values()),
        )
    )
    return table(["Testing", *columns], rows)


def leak_scores() -> str:
    """Scores by what is left out."""
    words = {
        "all": "all",
        "without_byte_identical": "no exact duplicate",
        "showing_no_picture_of_training": "no near-duplicate in Training",
    }
    found = read("audit/leak.json")["models"]
    rows = [
        (
            f"{NETWORKS[model.removesuffix('-seed0')]}, {text}",
            one["by_the_audit"][key]["n"],
            *(
                estimate(one["by_the_audit"][key]["figures"][m])
                for m in ("accuracy", "recall_glioma")
            ),
        )
        for model, one in found.items()
        for key, text in words.items()
    ]
    return table(["`plain`, 15 epochs", "images", "accuracy", "glioma recall"], rows)


def fingerprint_bits() -> str:
    """What fingerprints alone find."""
    found = read("audit/same_picture.json")["fingerprints_alone_by_bits"]
    rows = [
        (bits, f"{one['recall']:.1%}", f"{one['precision']:.1%}")
        for bits, one in found.items()
        if int(bits) <= 20
    ]
    return table(
        ["bits that may differ", "same-slice pairs found", "pairs found that are true"], rows
    )


def audit_speed() -> str:
    """The audit beside imagehash."""
    found = read("audit/audit_vs_imagehash.json")
    rows = []
    for key, words, quality in (
        ("imagehash", "imagehash, pHash within 4 bits", "imagehash"),
        ("audit, first run", "tumorlens audit, first run", "audit"),
        ("audit, from cache", "tumorlens audit, from its cache", "audit"),
    ):
        q = found["quality"][quality]
        rows.append(
            (
                words,
                f"{found['median_seconds'][key]:.1f}",
                found["peak_MiB"][key],
                f"{q['recall']:.1%}",
                f"{q['precision']:.1%}",
            )
        )
    return table(
        ["7,019 files", "seconds", "MiB", "same-slice pairs found", "pairs found that are true"],
        rows,
    )


def shortcuts() -> str:
    """What tells the classes without anatomy."""
    found = read("patients_audit/audit.json")["shortcuts"]
    rows = [
        (
            one["property"],
            with_interval(one["score"], one["low"], one["high"]),
            f"{one['chance']:.2f}",
        )
        for one in found
    ]
    return table(["property of an image", "balanced accuracy by it alone", "chance"], rows)


def recipe_trials() -> str:
    """Each trial of a recipe for other displays and sites, on one fold's validation people."""
    rows = []
    for path in sorted((RESULTS / "display_recipe_search").glob("*.json")):
        found = read(f"display_recipe_search/{path.name}")
        stress = found["stress"]
        lost = 100 * (stress["unchanged"] - stress["worst"]["accuracy"])
        rows.append(
            (
                found["candidate"],
                NETWORKS[found["model"]],
                found["fold"],
                estimate(found["validation"]["accuracy"], 2),
                estimate(found["validation"]["tumors_alone"], 2),
                f"{lost:.1f} ({stress['worst']['change'].split(' (')[0]})",
                estimate(found["site_out"]["glioma_recall"], 2),
            )
        )
    head = ["trial", "network", "fold", "accuracy", "tumors alone"]
    head += ["worst everyday change costs, points", "gliomas of the unseen site"]
    return table(head, sorted(rows, key=lambda row: (row[1], row[2])))


def other_scanners() -> str:
    """Gliomas of other scanners that bundled networks, a trial and the folds' networks find."""
    forms = {
        "png_all": "PNG, 99.5th percentile",
        "png": "the same, slices with a volume",
        "slice_by_maximum": "slice by its maximum",
        "nifti_by_predict": "NIfTI by `predict`",
    }
    rows = []
    sources = {
        "bundled before, `plain`": "bundled",
        "bundled now, `robust`": "robust_bundled",
        "trial of `robust` with outlines": "robust_outlines",
    }
    for words, name in sources.items():
        for model, of_forms in read(f"ladder/external_{name}.json")["checkpoints"].items():
            cells = [estimate(of_forms[form]["recall"], 2) for form in forms]
            wrong = f"{100 * of_forms['png_all']['confident_errors']:.0f}%"
            rows.append((f"{NETWORKS[model]}, {words}", *cells, wrong))
    for recipe in ("fast", "robust"):
        every = read(f"ladder/external_{recipe}.json")["checkpoints"]
        for model, words in NETWORKS.items():
            folds = [one for name, one in every.items() if name.partition("-")[0] == model]
            means = [np.mean([one[form]["recall"]["value"] for one in folds]) for form in forms]
            wrong = np.mean([one["png_all"]["confident_errors"] for one in folds])
            which = f"{words}, `{recipe}`, mean of {len(folds)} folds"
            rows.append((which, *(number(mean, 2) for mean in means), f"{100 * wrong:.0f}%"))
    return table(["network", *forms.values(), "confident errors"], rows)


def robust_price() -> str:
    """`robust` minus `fast` on the same folds, in points."""
    names = {
        "accuracy": "accuracy",
        "tumors_alone": "tumors alone",
        "glioma_recall": "glioma",
        "meningioma_recall": "meningioma",
        "notumor_recall": "notumor",
        "pituitary_recall": "pituitary",
    }
    rows = []
    for model, found in read("robust/minus_fast.json")["networks"].items():
        which = f"{NETWORKS[model]}, {len(found['folds'])} folds"
        fast, robust = found["methods"]["as it is"], found["methods"]["robust"]
        rows.append((f"{which}, `fast`", *(estimate(fast[n], 2) for n in names)))
        rows.append((f"{which}, `robust`", *(estimate(robust[n], 2) for n in names)))
        minus = (robust[name]["minus_none"] for name in names)
        cells = (points({**one, "difference": one["value"]}) for one in minus)
        rows.append((f"{which}, difference in points", *cells))
    return table(["unseen patients", *names.values()], rows)


def robust_on_testing() -> str:
    """The bundled networks on Testing, before and now."""
    names = ("accuracy", "recall_glioma", "recall_meningioma", "recall_notumor", "recall_pituitary")
    rows = []
    for model, words in NETWORKS.items():
        found = read(f"weights/{model}.json")
        every = {
            "bundled before, `plain`": found["scores_of_the_weights_before"]["figures"],
            "bundled now, `robust`": found["scores"]["all"]["metrics"],
        }
        for recipe, metrics in every.items():
            rows.append((f"{words}, {recipe}", *(estimate(metrics[n], 2) for n in names)))
    return table(["Testing", *(name.replace("recall_", "") for name in names)], rows)


def outlines_price() -> str:
    """What tumors put into other images cost: the same folds, ResNet18."""
    names = ("accuracy", "recall_glioma", "recall_meningioma", "recall_notumor", "recall_pituitary")
    folders = {"fast": "patients", "robust": "robust", "robust, outlines": "robust_outlines"}
    rows = []
    for fold in (0, 1):
        for recipe, folder in folders.items():
            found = read(f"{folder}/resnet18-patients-fold{fold}-seed0.json")["scores"]["all"]
            cells = [estimate(found["metrics"][name], 2) for name in names]
            rows.append((f"fold {fold}, {recipe}", *cells))
    return table(["fold, recipe", *(name.replace("recall_", "") for name in names)], rows)


def other_displays() -> str:
    """The worst everyday change of display, on every fourth test image of the folds."""
    rows = []
    for name, steps in read("ladder/ladder.json")["ladder"].items():
        model, recipe = name.split(", ")
        worst = steps["display"]
        lost = 100 * (worst["unchanged"] - worst["accuracy"]["value"])
        rows.append(
            (
                f"{NETWORKS[model]}, `{recipe}`",
                number(worst["unchanged"]),
                estimate(worst["accuracy"]),
                worst["change"].split(" (")[0],
                f"{lost:.1f}",
                number(worst["glioma_recall"]["value"]),
            )
        )
    head = ["network, recipe", "accuracy", "at the worst everyday change", "which"]
    return table([*head, "points lost", "glioma recall there"], rows)


def _bias_methods(file: str) -> str:
    """Methods against class-wise bias, over the folds of each network."""
    names = {
        "accuracy": "accuracy",
        "macro_f1": "macro F1",
        "glioma_recall": "glioma recall",
        "meningioma_recall": "meningioma recall",
        "gap_glioma_meningioma": "gap",
        "worst_class_recall": "worst class",
        "glioma_recall_of_the_rare_site": "gliomas of the rarer site",
        "ece": "ECE",
    }
    rows = []
    for model, found in read(f"bias/{file}.json")["networks"].items():
        for method, metrics in found["methods"].items():
            values = [number(metrics[name]["value"]) for name in names]
            minus = metrics["accuracy"]["minus_none"]
            price = "-" if minus is None else points({**minus, "difference": minus["value"]})
            count = len(found.get("runs") or found["folds"])
            rows.append((f"{NETWORKS[model]}, {count} folds", method, *values, price))
    return table(["network", "method", *names.values(), "accuracy minus none, points"], rows)


def install_sizes() -> str:
    """Packages and megabytes that the wheel brings, and what each extra adds, now and before."""
    found = read("install/install.json")["sizes"]
    before, after = (found[when]["installs"] for when in ("before", "after"))
    rows = []
    for name, now in after.items():
        then = before[name]["packages"] if name in before else "-"
        mb = "-" if now["mb"] is None else number(now["mb"], 0)
        rows.append((f"`{name}`" if name != "base" else "tumorlens", then, now["packages"], mb))
    return table(["", "packages before", "packages", "MB"], rows)


def install_starts() -> str:
    """Megabytes of the wheel, and processor seconds of whole processes, before and now."""
    found = read("install/install.json")
    rows = [
        (
            "wheel, MB",
            *(number(found["sizes"][w]["wheel_bytes"] / 1e6, 1) for w in ("before", "after")),
        )
    ]
    for what, seconds in found["starts"]["before"].items():
        rows.append((f"{what}, s", number(seconds), number(found["starts"]["after"][what])))
    return table(["", "before", "now"], rows)


def class_bias_fast() -> str:
    """Methods after training, recipe `fast`."""
    return _bias_methods("methods_fast")


def class_bias_robust() -> str:
    """Methods after training, recipe `robust`."""
    return _bias_methods("methods_robust")


def class_bias_trained() -> str:
    """Methods that train a network anew, short runs of recipe `robust`."""
    return _bias_methods("trained")


def coverage_of_sets() -> str:
    """How often sets of classes have the true class of test people, by class and site."""
    rows = []
    for recipe in ("fast", "robust"):
        for model, found in read(f"bias/methods_{recipe}.json")["networks"].items():
            asked = found["sets"]["asked"]
            for name, one in found["sets"]["found"].items():
                cells = (one["patients"], asked, estimate(one["coverage"], 2))
                which = f"{NETWORKS[model]}, `{recipe}`"
                rows.append((which, name, *cells, number(one["mean_size"], 2)))
    return table(["network, recipe", "images", "patients", "asked", "coverage", "classes"], rows)
