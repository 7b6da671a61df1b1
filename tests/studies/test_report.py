import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tumorlens.cli import main
from tumorlens.comparison.run_files import run_name
from tumorlens.data import public_patients
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.predictions import Predictions, table
from tumorlens.settings import StudySettings
from tumorlens.studies.figures import story
from tumorlens.studies.report import draw_report
from tumorlens.studies.summary import over_runs

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def _predictions(found: float, *, each: int = 40, fold: int | None = None) -> Predictions:
    """Right but for gliomas: of those without a near-duplicate the share `found` is right."""
    labels = np.repeat([0, 1, 2, 3], each)
    duplicates = np.where(np.arange(4 * each) % 2 == 0, "exact", "")
    fresh = np.flatnonzero((labels == 0) & (duplicates == ""))
    predicted = labels.copy()
    predicted[fresh[round(found * len(fresh)) :]] = 1
    return Predictions(
        source="",
        classes=CLASSES,
        paths=tuple(f"{fold}/{number}.png" for number in range(4 * each)),
        labels=labels,
        probabilities=np.eye(4)[predicted] * 0.92 + 0.02,
        duplicates=duplicates if fold is None else np.full(4 * each, ""),
        groups=tuple(map(str, range(4 * each))),
        patients=None
        if fold is None
        else tuple(f"{fold}-{at // 2}" if at < 2 * each else "" for at in range(4 * each)),
        sites=None if fold is None else ("north", "south", "", "") * each,
    )


@pytest.fixture
def finish(tmp_path: Path) -> Callable[..., None]:
    """Leave a run's files: finish("resnet18", 0, 0.5, fold=2)."""

    def leave(
        model: str, seed: int, found: float, fold: int | None = None, **training: object
    ) -> None:
        protocol = "official" if fold is None else "patients"
        name = run_name(model, protocol, fold, seed)
        predictions = _predictions(found, fold=fold)
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}-predictions.csv").write_text(table(predictions))
        right = float((predictions.probabilities.argmax(axis=1) == predictions.labels).mean())
        # Of gliomas the share `found` is hit, and of all tumors half of it.
        where = {
            label: {
                "energy_pointing_game": {"value": 0.3},
                "pointing_game": {"value": found * share},
            }
            for label, share in (("all", 0.5), ("glioma", 1.0), ("small", 1.0))
        }
        centre = {label: {"pointing_game": {"value": 0.4}} for label in where}
        record = {
            "what": "tumorlens study run",
            "model": model,
            "protocol": protocol,
            "fold": fold,
            "seed": seed,
            "training": training,
            "scores": {"all": {"n": 160, "metrics": {"accuracy": {"value": right}}}},
            "tumor_classes_alone": {"all": {"value": 0.8}},
            "classes": list(CLASSES),
            "localization": {"split": "test", "network": where, "centre_prior": centre},
            "minutes": {"training": 7.5, "scoring": 1.0},
            "selected": {"epoch": 3},
            "device": "cpu",
            "machine": "a processor, 2 cores",
            "code": {"commit": "abc1234"},
        }
        (folder / f"{name}.json").write_text(json.dumps(record))

    return leave


def test_mean_over_runs_is_the_mean_over_folds_of_their_seeds() -> None:
    runs = [(0, _predictions(0.5)), (0, _predictions(0.9)), (1, _predictions(0.1))]
    found, values = over_runs(runs, ("recall_glioma", "tumor_accuracy", "accuracy"), resamples=300)
    recalls = [0.5 + 0.5 * share for share in (0.5, 0.9, 0.1)]
    recall = found["recall_glioma"]
    assert recall.value == pytest.approx((recalls[0] / 2 + recalls[1] / 2 + recalls[2]) / 2)
    assert recall.n == 80
    assert values["recall_glioma"] == pytest.approx(recalls)
    assert recall.low < recall.value < recall.high <= 1
    assert found["tumor_accuracy"].n == 240
    assert found["accuracy"].n == 320


def test_one_run_has_an_interval_and_no_spread() -> None:
    found, values = over_runs(
        [(None, _predictions(1.0))], ("accuracy", "recall_glioma"), resamples=100
    )
    assert values == {"accuracy": (1,), "recall_glioma": (1,)}
    recall = found["recall_glioma"]
    assert (recall.value, recall.high) == (1, 1)
    assert recall.low == pytest.approx(0.025 ** (1 / 40))


def test_more_seeds_narrow_the_interval_when_they_agree() -> None:
    shares = (0.5, 0.55, 0.6)
    two = over_runs(
        [(None, _predictions(s)) for s in shares[:2]], ("recall_glioma",), resamples=400
    )
    six = over_runs(
        [(None, _predictions(s)) for s in shares * 2], ("recall_glioma",), resamples=400
    )
    widths = [found[0]["recall_glioma"] for found in (two, six)]
    assert widths[0].high - widths[0].low > widths[1].high - widths[1].low


def test_runs_without_an_error_do_not_have_a_mean_without_width() -> None:
    runs = [(None, _predictions(1.0)), (None, _predictions(1.0))]
    recall = over_runs(runs, ("recall_glioma",), resamples=100)[0]["recall_glioma"]
    assert (recall.value, recall.high) == (1, 1)
    assert recall.low == pytest.approx(0.025 ** (1 / 40))


def test_report_tells_all_views_and_answers(
    finish: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(3):
        finish("resnet18", seed, 0.1 * seed)
        finish("se_resnet18", seed, 0.6 + 0.1 * seed)
    for fold in (2, 3):
        finish("resnet18", 0, 0.5, fold)
        finish("se_resnet18", 0, 0.5, fold)
    study = tmp_path / "study"
    argv = ["study", "--report", "--out_dir", str(study)]
    assert main([*argv, "--resamples", "300"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Does SE help, and whom? On the official split: SE-ResNet18, against ResNet18" in told
    assert "raises glioma recall by 30.0 points" in told
    assert "On unseen patients: SE-ResNet18, against ResNet18, leaves accuracy where" in told
    names = {path.name for path in (study / "report").iterdir()}
    assert names >= {"means.csv", "runs.csv", "comparison.csv", "report.md", "report.json"}
    assert names >= {"story.png", "manifest.json", "comparison_official.png"}
    with (study / "report/means.csv").open() as file:
        rows = {(row["view"], row["model"], row["metric"]): row for row in csv.DictReader(file)}
    all_images = rows["official", "resnet18", "recall_glioma"]
    assert float(all_images["mean"]) == pytest.approx(0.55)
    assert float(all_images["std_of_runs"]) == pytest.approx(0.05)
    assert (all_images["runs"], all_images["seeds"], all_images["images"]) == ("3", "3", "160")
    clean = rows["official_without_near_duplicates", "resnet18", "recall_glioma"]
    assert float(clean["mean"]) == pytest.approx(0.1)
    assert clean["images"] == "80"
    assert rows["patients", "resnet18", "accuracy"]["images"] == "320"
    with (study / "report/by_site.csv").open() as file:
        sites = {(row["model"], row["class"], row["site"]): row for row in csv.DictReader(file)}
    # Gliomas of even number are north's and never missed, of odd number half.
    north, south = (sites["resnet18", "glioma", name] for name in ("north", "south"))
    assert (north["images"], north["patients"]) == ("20", "20")
    assert (float(north["recall"]), float(south["recall"])) == (1.0, 0.5)
    page = (study / "report/report.md").read_text()
    assert "published" not in page  # these are other images
    monkeypatch.setattr(
        public_patients, "KNOWN_COUNTS", {9: {"Testing": dict.fromkeys(CLASSES, 40)}}
    )
    assert main([*argv, "--resamples", "300"]) == 0
    page = (study / "report/report.md").read_text()
    assert "| ResNet18, published | 1 | 0.8940 | 0.8867 | 0.7233 | 0.8497 |" in page
    assert "| SE-ResNet18, published | 1 | 0.8955 | 0.8941 | 0.8400 | 0.9118 |" in page
    assert "**SE-ResNet18, ours** | 3 |" in page
    assert "2 runs (1 seed, 2 folds), n = 320" in page
    assert "patients: 80 patients and 160 groups of images whose patient is not known" in page
    assert "10 finished runs, 75 minutes of training together" in page
    with (study / "report/runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 10
    assert runs[0]["energy_pointing_game"] == "0.300000"
    assert runs[0]["tumor_accuracy"] == "0.800000"


def test_report_tells_class_by_class_where_they_look(
    finish: Callable[..., None], tmp_path: Path
) -> None:
    for fold, share in ((0, 0.2), (1, 0.4)):
        finish("resnet18", 0, share, fold)
        finish("se_resnet18", 0, share + 0.1, fold)
    finish("se_resnet18", 1, 0.5, 1)  # has no duplicate
    finish("resnet18", 0, 0.9)
    found = draw_report(StudySettings(report=True, out_dir=tmp_path / "study", resamples=100))
    seen = {(one.protocol, one.label, one.who): one for one in found.looks}
    assert {label for _protocol, label, _who in seen} == {"all", "glioma"}
    one = seen["patients", "glioma", "ResNet18"].metrics["pointing_game"]
    assert one.value == pytest.approx(0.3)
    assert one.folds == pytest.approx((0.2, 0.4))
    assert (one.low, one.high) == (
        0,
        1,
    )  # 12.7 standard errors of 0.1 either way, but it is a share
    other = seen["patients", "glioma", "SE-ResNet18"]
    assert other.runs == 3
    assert other.metrics["pointing_game"].folds == pytest.approx((0.3, 0.5))
    change = seen["patients", "glioma", "SE-ResNet18 minus ResNet18"].metrics["pointing_game"]
    assert (change.value, change.low, change.high) == pytest.approx((0.1, 0.1, 0.1))
    assert seen["patients", "all", "centre prior"].metrics["pointing_game"].value == 0.4
    alone = seen["official", "glioma", "ResNet18"].metrics["pointing_game"]
    assert (alone.value, alone.low) == (0.9, None)
    page = (found.folder / "report.md").read_text()
    assert (
        "| glioma | SE-ResNet18 minus ResNet18 | 2 | +0.000 (+0.000, +0.000) | - | +0.100" in page
    )
    for name in ("attribution_patients_test.png", "attribution_official_test.png"):
        assert f"]({name})" in page
        assert (found.folder / name).stat().st_size > 10_000
    with (found.folder / "attribution_by_class.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["who"] == "centre prior"]
    assert {row["mean"] for row in rows} == {"0.400000"}


def test_report_tells_whether_a_class_is_missed_or_the_images_of_a_site(
    finish: Callable[..., None], tmp_path: Path
) -> None:
    finish("resnet18", 0, 0.5, fold=2)
    finish("se_resnet18", 0, 1.0, fold=2)
    finish("se_resnet18", 1, 0.0, fold=2)
    found = draw_report(StudySettings(report=True, out_dir=tmp_path / "study", resamples=100))
    rows = {(one.model, one.label, one.site): one for one in found.by_site}
    # Gliomas of odd number alone are missed, and they are south's; of two seeds one finds them all.
    north, south = (rows["se_resnet18", "glioma", name].recall for name in ("north", "south"))
    assert (north.n, south.n) == (10, 10)
    assert (north.value, south.value) == (1.0, 0.5)
    page = (found.folder / "report.md").read_text()
    assert "## Recall by site" in page
    assert "| patients | glioma | north | 10 of 10 patients |" in page
    with (found.folder / "by_site.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 4 * 2


def test_images_of_a_named_group_are_drawn_together(
    finish: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish("resnet18", 0, 0.5)
    finish("se_resnet18", 0, 0.9)
    patients = tmp_path / "patients.csv"
    names = [f"None/{number}.png,patient {number // 20}" for number in range(160)]
    patients.write_text("\n".join(["path,group", *names]))
    argv = ["study", "--report", "--out_dir", str(tmp_path / "study"), "--resamples", "300"]
    widths, votes = [], []
    for more in ([], ["--groups", str(patients)]):
        assert main([*argv, *more]) == 0
        told = json.loads((tmp_path / "study/report/report.json").read_text())
        recall = told["means"][0]["metrics"]["recall_glioma"]
        widths.append(recall["high"] - recall["low"])
        votes.append(told["comparisons"]["official"]["differences"]["recall_glioma"]["p"])
    assert widths[1] > 1.5 * widths[0]
    assert votes[0] < 0.05 < votes[1]
    page = (tmp_path / "study/report/report.md").read_text()
    assert "official: 8 groups of near-duplicates" in page
    assert main([*argv, "--groups", str(tmp_path / "none.csv")]) == 2
    assert "--groups" in capsys.readouterr().err


def test_report_of_what_is_there_so_far_claims_no_more(
    finish: Callable[..., None], tmp_path: Path
) -> None:
    finish("se_resnet18", 0, 0.5)
    found = draw_report(StudySettings(report=True, out_dir=tmp_path / "study", resamples=100))
    assert "Not known yet" in found.answer
    assert [one.view.name for one in found.seen] == [
        "official",
        "official_without_same_bytes",
        "official_without_near_duplicates",
    ]
    assert found.comparisons == {}
    finish("resnet18", 1, 0.5)  # another seed: still nothing to pair
    found = draw_report(StudySettings(report=True, out_dir=tmp_path / "study", resamples=100))
    assert found.comparisons == {}
    finish("resnet18", 0, 0.5)
    found = draw_report(StudySettings(report=True, out_dir=tmp_path / "study", resamples=100))
    assert set(found.comparisons) == {one.view.name for one in found.seen}
    assert (
        "with one seed each and 160 images none of these is statistically significant"
        in found.answer
    )


def test_study_of_other_classes_shows_its_own(
    finish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CLASSES", ("cyst", "lesion", "notumor", "scar"))
    finish("se_resnet18", 0, 0.5)
    finish("resnet18", 0, 0.6)
    found = draw_report(StudySettings(report=True, out_dir=tmp_path / "study", resamples=100))
    folder = tmp_path / "study" / "report"
    page = (folder / "report.md").read_text()
    assert "| cyst recall |" in page
    assert "glioma recall" not in page
    header = (folder / "runs.csv").read_text().splitlines()[0].split(",")
    assert [name for name in header if name.startswith("recall_")] == [
        *("recall_cyst", "recall_lesion", "recall_notumor", "recall_scar")
    ]
    drawn = story(found.seen, published=False)
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles == ["accuracy", *(f"{name} recall" for name in CLASSES)]
    assert all(axes.lines for axes in drawn.axes)


def test_report_of_nothing_says_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").mkdir()
    assert main(["study", "--report", "--out_dir", str(tmp_path / "study")]) == 2
    assert "holds no finished run of a study" in capsys.readouterr().err


def test_report_of_runs_that_were_trained_in_different_ways_is_refused(
    finish: Callable[..., None], tmp_path: Path
) -> None:
    finish("resnet18", 0, 0.5, image_size=96)  # as before there was a flag --train_on_valid
    finish("resnet18", 0, 0.5, fold=0, image_size=64)  # of another protocol, so another question
    finish("se_resnet18", 0, 0.5, image_size=96, train_on_valid=True)
    study = StudySettings(out_dir=tmp_path / "study", report=True)
    told = "se_resnet18-official-seed0 was trained with train_on_valid True, resnet18-.* with False"
    with pytest.raises(TumorlensError, match=told):
        draw_report(study)
    assert not (tmp_path / "study/report").exists()


def test_runs_of_one_fold_on_other_images_have_no_mean(
    finish: Callable[..., None], tmp_path: Path
) -> None:
    finish("resnet18", 0, 0.5)
    finish("resnet18", 1, 0.5)
    file = tmp_path / "study/resnet18-official-seed1-predictions.csv"
    first, *rest = file.read_text().splitlines(keepends=True)
    study = StudySettings(out_dir=tmp_path / "study", report=True)
    for changed, told in (
        ("".join([first, *rest[1:]]), "is in one of the two alone"),
        ("".join([first, *reversed(rest)]), "in another order"),
    ):
        file.write_text(changed)
        with pytest.raises(TumorlensError, match=f"seed0 and .*seed1 were scored on .*{told}"):
            draw_report(study)
    assert not (tmp_path / "study/report").exists()
