import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import main
from tumorlens.comparison.compare import compare_and_write
from tumorlens.comparison.text import change, metric_title, significant_changes
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.predictions import Predictions, read, table
from tumorlens.models.build import build_model
from tumorlens.settings import CompareSettings

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def _write(
    file: Path,
    found: float,
    *,
    duplicates: bool = False,
    groups: bool = False,
    first: int = 0,
    each: int = 30,
) -> Path:
    """Predictions that are right but for gliomas, of which the share `found` is."""
    labels = np.repeat([0, 1, 2, 3], each)
    predicted = labels.copy()
    predicted[round(found * each) : each] = 1
    probabilities = np.eye(4)[predicted] * 0.92 + 0.02
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        table(
            Predictions(
                source="",
                classes=CLASSES,
                paths=tuple(
                    f"{CLASSES[label]}/{at + first}.png" for at, label in enumerate(labels)
                ),
                labels=labels,
                probabilities=probabilities,
                duplicates=np.where(np.arange(4 * each) % 3 == 0, "near", "")
                if duplicates
                else None,
                groups=tuple(str(at // 2) for at in range(4 * each)) if groups else None,
            )
        )
    )
    return file


def _run(
    folder: Path, model: str, seed: int, found: float, fold: int | None = None, epochs: int = 20
) -> None:
    protocol = "official" if fold is None else "folds"
    split = "" if fold is None else f"-fold{fold}"
    name = f"{model}-{protocol}{split}-seed{seed}"
    _write(folder / f"{name}-predictions.csv", found, duplicates=True, groups=True, first=fold or 0)
    (folder / f"{name}.json").write_text(
        json.dumps(
            {
                "what": "tumorlens study run",
                "model": model,
                "protocol": protocol,
                "fold": fold,
                "seed": seed,
                "training": {"epochs": epochs},
            }
        )
    )


def test_two_tables_leave_json_csv_picture_and_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = _write(tmp_path / "a/predictions.csv", 0.5, duplicates=True, groups=True, each=60)
    b = _write(tmp_path / "b/predictions.csv", 0.9, duplicates=True, groups=True, each=60)
    out = tmp_path / "out"
    assert (
        main(["compare", str(a), str(b.parent), "--out_dir", str(out), "--resamples", "200"]) == 0
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "b, against a, raises accuracy by 10.0 points" in told
    assert "raises glioma recall by 40.0 points" in told
    names = {path.name for path in out.iterdir()}
    assert names == {"comparison.json", "comparison.csv", "comparison.png", "manifest.json"}
    record = json.loads((out / "comparison.json").read_text())
    glioma = record["subsets"]["all"]["differences"]["recall_glioma"]
    assert glioma["value"] == pytest.approx(0.4)
    assert glioma["significant"]
    assert record["subsets"]["all"]["mcnemar"][0]["glioma"]["b_only"] == 12  # groups of 2
    assert record["subsets"]["all"]["correction"] == "Holm, for 18 metrics"
    assert record["subsets"]["without_near_duplicates"]["images"] == 160
    assert "glioma taken for meningioma" in record["subsets"]["all"]["confusion"]
    assert any("One run each" in caveat for caveat in record["caveats"])
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["images"] for row in rows} == {"all", "without_near_duplicates"}
    assert len(rows) == 36


def test_table_has_the_columns_and_values_of_the_file(tmp_path: Path) -> None:
    a, b = (
        _write(tmp_path / name / "predictions.csv", share, duplicates=True)
        for name, share in (("a", 0.5), ("b", 0.9))
    )
    found = compare_and_write(CompareSettings(a, b, out_dir=tmp_path / "out", resamples=100))
    with (tmp_path / "out/comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = found.table()
    assert list(table) == list(rows[0])
    assert table["metric"] == [row["metric"] for row in rows]
    assert set(table["images"]) == {"all", "without_near_duplicates"}
    at = table["metric"].index("recall_glioma")
    assert (table["a"][at], table["b"][at]) == (0.5, 0.9)
    assert float(rows[at]["difference"]) == pytest.approx(table["difference"][at], abs=1e-6)


def test_study_folder_compares_its_two_networks_over_seeds(tmp_path: Path) -> None:
    for seed, (before, after) in enumerate(((0.5, 0.7), (0.6, 0.7), (0.5, 0.8))):
        _run(tmp_path / "study", "resnet18", seed, before)
        _run(tmp_path / "study", "se_resnet18", seed, after)
    _run(tmp_path / "study", "resnet18", 3, 0.5)  # its partner is not finished yet
    found = compare_and_write(
        CompareSettings(tmp_path / "study", out_dir=tmp_path / "out", resamples=300)
    )
    assert (found.all.a, found.all.b) == ("resnet18", "se_resnet18")
    assert (found.all.seeds, found.all.runs) == (3, 3)
    gain = found.all.differences["recall_glioma"]
    assert gain.value == pytest.approx(0.2)
    assert gain.std == pytest.approx(0.1)
    assert found.without_near_duplicates is not None
    assert found.caveats == ()
    assert "SE-ResNet18, against ResNet18, raises accuracy by 5.0 points" in found.sentence
    assert "with 3 seeds each and 120 images" in found.sentence


def test_seeds_with_other_training_images_are_compared_on_what_none_has_seen(
    tmp_path: Path,
) -> None:
    for seed in (0, 1):
        for model in ("resnet18", "se_resnet18"):
            _run(tmp_path / "study", model, seed, 0.5)
    settings = CompareSettings(tmp_path / "study", out_dir=tmp_path / "out", resamples=100)
    before = compare_and_write(settings).without_near_duplicates
    for model in ("resnet18", "se_resnet18"):  # the second seed has learnt one image more
        path = tmp_path / "study" / f"{model}-official-seed1-predictions.csv"
        with path.open() as file:
            rows = list(csv.DictReader(file))
        next(row for row in rows if not row["near_duplicate"])["near_duplicate"] = "near"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    after = compare_and_write(settings).without_near_duplicates
    assert before is not None
    assert after is not None
    assert after.images == before.images - 1


def test_study_of_two_protocols_asks_which(tmp_path: Path) -> None:
    for fold in (None, 0, 1):
        for model in ("resnet18", "se_resnet18"):
            _run(tmp_path / "study", model, 0, 0.5, fold)
    asked = CompareSettings(tmp_path / "study", out_dir=tmp_path / "out", resamples=100)
    with pytest.raises(TumorlensError, match="has runs of folds and official; name one"):
        compare_and_write(asked)
    found = compare_and_write(replace(asked, protocol="folds"))
    assert (found.all.folds, found.all.images) == (2, 240)
    assert "with one seed each, 2 folds and 240 images" in found.sentence
    for model in ("resnet18", "se_resnet18"):
        _run(tmp_path / "study", model, 1, 0.5, 1)
    found = compare_and_write(replace(asked, protocol="folds"))
    assert "with 3 runs each (up to 2 seeds in 2 folds) and 240 images" in found.sentence


def test_two_studies_of_both_networks_are_compared_network_by_network(tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    for seed in (0, 1):
        for model, before, after in (("resnet18", 0.5, 0.7), ("se_resnet18", 0.5, 0.6)):
            _run(short, model, seed, before)
            _run(long, model, seed, after, epochs=40)
    asked = CompareSettings(short, long, out_dir=tmp_path / "out", resamples=100)
    with pytest.raises(TumorlensError, match="holds two networks; .* name one by --model"):
        compare_and_write(asked)
    found = compare_and_write(replace(asked, model="se_resnet18"))
    assert found.all.a == f"SE-ResNet18 ({short.as_posix()})"
    assert found.all.differences["recall_glioma"].value == pytest.approx(0.1)
    _run(short, "se_resnet18", 2, 0.5, epochs=40)
    with pytest.raises(TumorlensError, match="seed2 was trained with epochs 40, .* with 20; a st"):
        compare_and_write(asked)


def test_what_cannot_be_compared_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = _write(tmp_path / "a.csv", 0.5)
    _run(tmp_path / "one", "resnet18", 0, 0.5)

    def told(*words: str) -> str:
        assert main(["compare", *words, "--out_dir", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "two things to compare must be given" in told()
    assert "a second thing to compare must be named" in told(str(a))
    assert "a study of resnet18 alone" in told(str(tmp_path / "one"))
    assert "there is no such file" in told(str(a), str(tmp_path / "none.csv"))
    other = _write(tmp_path / "b.csv", 0.5, first=1)
    assert "networks are compared on the same images" in told(str(a), str(other))
    (tmp_path / "empty").mkdir()
    assert "holds no finished run" in told(str(tmp_path / "empty"))
    twice = (str(tmp_path / "one"), str(tmp_path / "one"))
    assert "has runs of resnet18 alone" in told(*twice, "--model", "se_resnet18")
    assert not (tmp_path / "out").exists()


def test_groups_file_makes_patients_of_images(tmp_path: Path) -> None:
    a, b = _write(tmp_path / "a.csv", 0.5), _write(tmp_path / "b.csv", 0.8)
    asked = CompareSettings(a, b, out_dir=tmp_path / "out", resamples=200)
    alone = compare_and_write(asked)
    assert alone.all.unit == "120 images"
    assert any("each image counts for itself" in caveat for caveat in alone.caveats)
    groups = tmp_path / "groups.csv"
    groups.write_text(
        "path,group\n" + "".join(f"glioma/{at}.png,patient{at // 10}\n" for at in range(30))
    )
    grouped = compare_and_write(replace(asked, groups=groups))
    assert grouped.all.unit == "93 groups of near-duplicates"
    tests = grouped.all.mcnemar[0]["glioma"]
    assert (tests["b_only"], tests["a_only"]) == (2, 0)  # the patients 1 and 2


def test_two_checkpoints_are_scored_on_the_images_they_remember(tmp_path: Path) -> None:
    for label, name in enumerate(("glioma", "notumor")):
        (tmp_path / "data/test" / name).mkdir(parents=True)
        (tmp_path / "data/train" / name).mkdir(parents=True)
        for number in range(3):
            image = np.random.default_rng((label, number)).integers(0, 255, (32, 32))
            image = Image.fromarray(image.astype(np.uint8))
            image.save(tmp_path / "data/test" / name / f"{number}.png")
            image.rotate(45).save(tmp_path / "data/train" / name / f"{number}.png")
    for model in ("resnet18", "se_resnet18"):
        network = build_model(model, 2, seed=0)
        checkpoints.save(
            Checkpoint(
                model, ("glioma", "notumor"), Preprocessing(32, 0.5, 0.2), network.state_dict(),
                None, {}, {},
            ),
            tmp_path / f"{model}.pt",
        )  # fmt: skip
    found = compare_and_write(
        CompareSettings(
            tmp_path / "resnet18.pt",
            tmp_path / "se_resnet18.pt",
            data_dir=tmp_path / "data",
            out_dir=tmp_path / "out",
            resamples=100,
            device="cpu",
            threads=1,
        )
    )
    assert (found.all.a, found.all.b, found.all.images) == ("resnet18", "se_resnet18", 6)
    assert "tumor_accuracy" not in found.all.differences


def test_words_say_direction_size_and_interval(tmp_path: Path) -> None:
    a, b = _write(tmp_path / "a.csv", 0.9, each=100), _write(tmp_path / "b.csv", 0.88, each=100)
    found = compare_and_write(CompareSettings(a, b, out_dir=tmp_path / "out", resamples=200)).all
    assert change("recall_glioma", found.differences["recall_glioma"]).startswith(
        "lowers glioma recall by 2.0 points (95% -"
    )
    assert change("recall_notumor", found.differences["recall_notumor"]).startswith(
        "leaves notumor recall where it is (95% -"
    )
    assert significant_changes(found).startswith("Of 18 metrics none changes significantly")
    assert metric_title("auroc_pituitary") == "pituitary AUROC"
    assert metric_title("glioma->meningioma") == "glioma taken for meningioma"
    assert read(a).groups is None
