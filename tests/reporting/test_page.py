import html.parser
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tumorlens
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import main
from tumorlens.data.dataset import load_for_training
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.files import write_manifest
from tumorlens.models.build import build_model

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.fixture
def run_dir(
    make_folder: Callable[..., Path], record_of: Callable[..., Any], tmp_path: Path
) -> Path:
    """A finished run of an untrained network, in model/runs/."""
    root = make_folder({"train": 2, "valid": 1, "test": 2}, size=32)
    (root / "test" / "glioma" / "copy.png").write_bytes(
        min((root / "train" / "glioma").iterdir()).read_bytes()
    )
    data = load_for_training(resolve(root), 32)
    folder = tmp_path / "model" / "runs" / "resnet18-seed0-1"
    trained = Checkpoint(
        model_name="resnet18",
        classes=CLASSES,
        preprocessing=Preprocessing(32, 0.25, 0.2),
        weights=build_model("resnet18", 4).state_dict(),
        data=record_of(data),
        settings={
            "seed": 0,
            "monitor": "macro_f1",
            "run": folder.name,
            "recipe_resolved": {"epochs": 3, "batch_size": 4, "lr": 0.001},
        },
        selected={"epoch": 2, "valid_macro_f1": 0.5},
    )
    checkpoints.save(trained, folder / "best_model.pt")
    write_manifest(folder, "train", epochs=3)
    return folder


def _said(page: Path) -> str:
    """The page's text without markup, in one line."""
    text = re.sub(r"<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _addresses(page: Path) -> list[str]:
    found: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "iframe", "object")
            found.extend(value or "" for key, value in attrs if key in ("src", "href", "srcset"))
            assert not [key for key, _ in attrs if key.startswith("on")]

    Reader().feed(page.read_text(encoding="utf-8"))
    return found


def test_page_of_a_bare_run_names_the_commands_that_are_missing(run_dir: Path) -> None:
    made = tumorlens.report(run_dir=run_dir)
    assert [gap.command.split(" --")[0] for gap in made.gaps][:2] == [
        "tumorlens evaluate",
        "tumorlens gradcam",
    ]
    said = _said(made.page)
    assert f"tumorlens evaluate --checkpoint {run_dir / 'best_model.pt'}" in said
    assert "Weights kept: epoch 2, by the highest validation macro F1." in said
    assert "8 train, 4 valid, 9 test" in said
    assert said.count("not a medical device") == 1


def test_run_without_validation_images_is_said_to_have_kept_its_last_epoch(run_dir: Path) -> None:
    trained = checkpoints.load(run_dir / "best_model.pt")
    settings = trained.settings | {"train_on_valid": True}
    checkpoints.save(replace(trained, settings=settings), run_dir / "best_model.pt")
    made = tumorlens.report(run_dir=run_dir)
    kept = "the last epoch, 2; the validation images trained too and chose none."
    said, card = _said(made.page), made.card.read_text(encoding="utf-8")
    assert f"Weights kept: {kept}" in said
    assert f"- Weights kept: {kept}\n- Software" in card
    assert f"how the final model was chosen. T{kept[1:]}" in card
    for heading in ("patience", "monitor"):  # which did nothing
        assert f" {heading} " not in said
        assert f" {heading} " not in card


def test_page_with_everything_stands_alone(run_dir: Path, tmp_path: Path) -> None:
    checkpoint = run_dir / "best_model.pt"
    tumorlens.evaluate(checkpoint=checkpoint, resamples=100)
    tumorlens.gradcam(checkpoint=checkpoint, class_name="glioma", count=2)
    root = Path(str(checkpoints.load(checkpoint).data_dir))
    boxes = tmp_path / "boxes.csv"
    tumors = sorted(p for name in CLASSES[:2] for p in (root / "test" / name).iterdir())
    rows = [f"{path.relative_to(root).as_posix()},0.2,0.2,0.6,0.7" for path in tumors]
    boxes.write_text("\n".join(["path,box_x0,box_y0,box_x1,box_y1", *rows]))
    measured = run_dir / "gradcam_boxes"  # beside the folder that the panel is from
    tumorlens.gradcam(checkpoint=checkpoint, boxes=boxes, out_dir=measured, resamples=100)
    tumorlens.audit(data_dir=root, out_dir=run_dir / "audit")
    made = tumorlens.report(run_dir=run_dir, out=tmp_path / "page.html")
    assert made.gaps == ()
    assert all(
        address.startswith(("data:image/png;base64,", "#")) for address in _addresses(made.page)
    )
    said = _said(made.page)
    metrics = json.loads((run_dir / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    values = metrics["all"]["metrics"]
    assert f"accuracy {values['accuracy']['value']:.4f}" in said
    assert "1 of these 9 images are near-duplicates of a training image (1 byte for byte" in said
    assert (
        "without near-duplicates "
        f"{metrics['without_near_duplicates']['metrics']['accuracy']['value']:.4f}" in said
    )
    assert "share of glioma taken for meningioma" in said
    assert metrics["bias"]["sentence"] in said
    assert said.index("Recall is lowest for") < said.index("Validation images")
    assert "largest gap: " in said
    assert "1 of 9 test images (11.1%) are near-duplicates of an image of train" in said
    page = made.page.read_text(encoding="utf-8")
    assert page.count("<img ") >= 6  # ROC, reliability, errors, Grad-CAM, localisation, gallery
    explained = json.loads((measured / "explain.json").read_text(encoding="utf-8"))
    energy = explained["localization"]["resnet18"]["network"]["glioma"]["energy_ratio"]
    assert f"glioma resnet18 {energy['value']:.4f}" in said
    assert "glioma centre prior" in said
    assert page.count("prefers-color-scheme: dark") == 1
    assert "@media print" in page
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"| accuracy | {values['accuracy']['value']:.4f} |" in card
    assert f"| glioma | resnet18 | {energy['value']:.4f} (" in card
    assert made.filled >= 19


def test_evaluation_of_another_checkpoint_is_not_shown(run_dir: Path) -> None:
    tumorlens.evaluate(checkpoint=run_dir / "best_model.pt", resamples=100)
    manifest = run_dir / "evaluation" / "manifest.json"
    values = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(values | {"checkpoint_sha256": "0" * 64}), encoding="utf-8")
    made = tumorlens.report(run_dir=run_dir)
    assert "is of another checkpoint" in made.gaps[0].why
    assert 'id="scores"' not in made.page.read_text(encoding="utf-8")
    with pytest.raises(TumorlensError, match="^evaluation .* is of another checkpoint"):
        tumorlens.report(run_dir=run_dir, evaluation=run_dir / "evaluation")


def test_folder_above_the_runs_stands_for_the_run_of_its_best_model(run_dir: Path) -> None:
    above = run_dir.parents[1]
    for name in ("best_model.pt", "best_model.json"):
        (above / name).write_bytes((run_dir / name).read_bytes())
    assert tumorlens.report(run_dir=above).page == run_dir / "report.html"


def test_card_with_an_authors_words_is_kept_and_ours_is_replaced(run_dir: Path) -> None:
    card = tumorlens.report(run_dir=run_dir).card
    ours = card.read_text(encoding="utf-8")
    assert not tumorlens.report(run_dir=run_dir).card_kept
    assert card.read_text(encoding="utf-8") == ours
    edited = ours.replace("For the author: who is to", "Students are to")
    card.write_text(edited, encoding="utf-8")
    assert tumorlens.report(run_dir=run_dir).card_kept
    assert card.read_text(encoding="utf-8") == edited


def test_page_of_somebody_else_is_left_alone(run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text("<p>mine</p>", encoding="utf-8")
    with pytest.raises(TumorlensError, match="not written by tumorlens report"):
        tumorlens.report(run_dir=run_dir, out=other)
    assert other.read_text(encoding="utf-8") == "<p>mine</p>"


def test_names_from_the_disk_are_text_and_no_markup(run_dir: Path) -> None:
    summary = run_dir / "best_model.json"
    values = json.loads(summary.read_text(encoding="utf-8"))
    values["classes"][0] = "<img src=x onerror=alert(1)>|a"
    summary.write_text(json.dumps(values), encoding="utf-8")
    made = tumorlens.report(run_dir=run_dir)
    _addresses(made.page)
    assert "&lt;img src=x" in made.page.read_text(encoding="utf-8")
    assert r"\<img src=x onerror=alert(1)\>\|a" in made.card.read_text(encoding="utf-8")


def test_figures_of_a_comparison_are_listed_with_their_intervals(
    run_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    metric = {"value": 0.0123, "low": -0.01, "high": 0.04, "n": 9}
    (folder / "comparison.json").write_text(
        json.dumps({"differences": {"macro_f1": metric}}), encoding="utf-8"
    )
    write_manifest(folder, "compare")
    said = _said(tumorlens.report(run_dir=run_dir, compare=folder).page)
    assert "differences, macro f1 0.0123 -0.010 to 0.040" in said
    with pytest.raises(TumorlensError, match="^compare .* no such folder"):
        tumorlens.report(run_dir=run_dir, compare=tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["nowhere", "data"])
def test_what_is_no_run_folder_gets_one_sentence(
    run_dir: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"tumorlens report: --run_dir {tmp_path / name}: ")
    assert "expected a folder that train.py made" in told


def test_command_prints_where_page_and_card_are(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run_dir)]) == 0
    told = capsys.readouterr().out
    assert str(run_dir / "report.html") in told
    assert str(run_dir / "MODEL_CARD.md") in told
    assert "Not in it: scores on held-out images." in told
