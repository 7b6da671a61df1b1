import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import Session
from tumorlens.cli import main
from tumorlens.evaluation.intervals import Estimate
from tumorlens.explain.gradcam import Way
from tumorlens.explain.localization import localize
from tumorlens.explain.regions import read_boxes
from tumorlens.explain.report import compare, ranked, sentence

COUNTS = {"train": 1, "valid": 3, "test": 4}
QUICK = ["--resamples", "100", "--layer", "layer2", "--count", "2"]


@pytest.fixture
def root(heads: Callable[..., Path]) -> Path:
    return heads(COUNTS)


def _saved(checkpoint: Checkpoint, path: Path) -> str:
    checkpoints.save(checkpoint, path)
    return str(path)


def _picture(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_boxes_of_two_networks_leave_figures_rows_and_pictures(
    bright: Checkpoint,
    dark: Checkpoint,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [_saved(bright, tmp_path / "a/x.pt"), _saved(dark, tmp_path / "b/y.pt")]
    argv = ["gradcam", "--checkpoint", files[0], "--compare", files[1], *QUICK]
    assert main([*argv, "--data_dir", str(root), "--boxes", str(root / "boxes.csv")]) == 0
    told = capsys.readouterr().out
    assert "4 test images with a box" in told
    assert f"{files[1]} does not localise better than {files[0]}" in told
    out = tmp_path / "a/gradcam"
    found = json.loads((out / "explain.json").read_text())
    assert found["networks"] == files
    first, second = (found["localization"][name]["network"]["all"] for name in files)
    assert first["energy_pointing_game"]["value"] > second["energy_pointing_game"]["value"]
    gap = second["energy_pointing_game"]["value"] - first["energy_pointing_game"]["value"]
    paired = found["comparison"]["localization"]["all"]["energy_pointing_game"]
    assert paired["value"] == pytest.approx(gap)
    assert "faithfulness" not in found
    rows = list(csv.DictReader((out / "localization.csv").read_text().splitlines()))
    assert len(rows) == 2 * 8
    boxed = [float(row["energy_pointing_game"]) for row in rows[:8] if row["energy_pointing_game"]]
    assert np.mean(boxed) == pytest.approx(first["energy_pointing_game"]["value"], rel=1e-4)
    for name in ("localization.png", "attribution.png", "gallery.png", "panel.png"):
        width, height = _picture(out / name)
        assert width > 300
        assert height > 200


def test_faithfulness_sanity_and_agreement_are_a_flag_and_a_number_each(
    bright: Checkpoint, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _saved(bright, tmp_path / "a/x.pt")
    duplicate = _saved(bright, tmp_path / "b/y.pt")
    argv = ["gradcam", "--checkpoint", file, *QUICK, "--data_dir", str(root), "--sample", "3"]
    assert main([*argv, "--faithfulness", "--sanity", "--agree", duplicate]) == 0
    told = capsys.readouterr().out
    out = tmp_path / "a/gradcam"
    found = json.loads((out / "explain.json").read_text())
    assert "localization" not in found
    areas = found["faithfulness"]["networks"]["resnet18"]
    gap = areas["deletion_map"]["value"] - areas["deletion_random"]["value"]
    assert areas["deletion_map_minus_random"]["value"] == pytest.approx(gap)
    assert areas["insertion_centre_prior"]["n"] == 3
    assert found["faithfulness"]["sample"].startswith("3 of 8 test images, drawn with seed 0")
    steps = found["sanity"]["networks"]["resnet18"]["steps"]
    assert next(iter(steps)) == "fc"
    assert list(steps)[-1] == "conv1"
    assert steps["conv1"]["ssim"]["value"] < 0.9
    agreement = found["agreement"]
    assert agreement["between_networks"]["ssim"]["value"] == pytest.approx(1)
    assert agreement["maps_of_different_images"]["ssim"]["value"] < 0.99
    for name in ("faithfulness", "sanity", "agreement"):
        assert _picture(out / f"{name}.png")[0] > 300
    assert "all weights random" in told
    assert main(argv) == 0  # a later run without measures leaves none of an earlier one's
    assert not (out / "explain.json").exists()
    assert not (out / "sanity.png").exists()


def test_faults_are_told_before_anything_is_written(
    bright: Checkpoint, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _saved(bright, tmp_path / "a/x.pt")
    other = _saved(replace(bright, classes=("notumor", "pituitary")), tmp_path / "b/y.pt")
    argv = ["gradcam", "--checkpoint", file, "--data_dir", str(root)]
    for flags, words in (
        (["--boxes", "nowhere.csv"], "--boxes nowhere.csv: there is no such file"),
        (["--agree", other], "notumor, pituitary, --checkpoint is a resnet18 at 64 px for glioma"),
        (["--method", "magic"], "magic"),
        (["--layer", "layer3*layer8"], "--layer layer8"),
        (["--map_size", "8"], "--map_size 8: expected 32 or more"),
        (["--images", str(root), "--sanity"], "--images and --sanity"),
    ):
        assert main([*argv, *flags]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "a/gradcam").exists()


def test_panel_is_drawn_with_the_method_and_size_asked_for(
    bright: Checkpoint, root: Path, tmp_path: Path
) -> None:
    file = _saved(bright, tmp_path / "a/x.pt")
    argv = ["gradcam", "--checkpoint", file, "--data_dir", str(root), "--save_maps", "--count", "2"]
    argv += ["--layer", "layer4", "--method", "layercam"]
    assert main([*argv, "--map_size", "128", "--class", "glioma"]) == 0
    out = tmp_path / "a/gradcam"
    maps = [np.load(path) for path in (out / "maps").glob("*.npy")]
    assert [one.shape for one in maps] == [(4, 4)] * 2
    assert json.loads((out / "gradcam.json").read_text())["method"] == "layercam"


def test_ranks_are_best_middle_and_worst_and_nobody_is_shown_twice() -> None:
    energies = [0.1, 0.9, 0.5, 0.3, 0.7, 0.0, 1.0]
    assert ranked(2, energies) == {"best": [6, 1], "median": [4, 2], "worst": [0, 5]}
    assert ranked(4, [0.5]) == {"best": [0], "median": [], "worst": []}


def test_network_that_looks_astray_is_told_from_one_that_looks_at_the_tumor(
    bright: Checkpoint,
    dark: Checkpoint,
    heads: Callable[..., Path],
    opened: Callable[..., Session],
) -> None:
    root = heads({"train": 1, "valid": 6, "test": 9})
    boxes, way = read_boxes(root / "boxes.csv"), Way("layer2", "gradcam")
    one, other = (
        localize(opened(checkpoint, root), boxes, way, resamples=200)
        for checkpoint in (bright, dark)
    )
    figures = other.metrics["network"]["all"]
    assert figures["energy_pointing_game"]["high"] < figures["box_area_share"]["low"]
    gap = compare(one, other, resamples=200)
    fit = gap["localization"]["all"]
    expected = (
        figures["energy_pointing_game"]["value"]
        - one.metrics["network"]["all"]["energy_pointing_game"]["value"]
    )
    assert fit["energy_pointing_game"]["value"] == pytest.approx(expected)
    assert fit["energy_pointing_game"]["high"] < 0
    ratio = "energy_ratio"
    expected = figures[ratio]["value"] - one.metrics["network"]["all"][ratio]["value"]
    assert fit[ratio]["value"] == pytest.approx(expected)
    assert gap["attribution"]["all"]["outside_head"]["low"] > 0
    assert gap["n"] == 9
    # both are called resnet18
    assert gap["sentence"].startswith(
        "The second ResNet18 does not localise better than the first ResNet18; it localises worse"
    )
    itself = compare(one, one, resamples=100)["localization"]["all"]["energy_pointing_game"]
    assert (itself["value"], itself["low"], itself["high"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("first", "second", "gain", "words"),
    [
        ("resnet18", "se_resnet18", (0.2, 0.1, 0.3), "SE-ResNet18 does localise better than Res"),
        ("se_resnet18", "resnet18", (0.2, 0.1, 0.3), "SE-ResNet18 does not localise better than R"),
        ("se_resnet18", "resnet18", (-0.2, -0.3, -0.1), "does localise better than ResNet18 (ener"),
        ("resnet18", "se_resnet18", (0.2, -0.1, 0.3), "does not localise better than ResNet18 (e"),
        ("resnet18", "se_resnet18", (-0.2, -0.3, -0.1), "does not localise better than ResNet18;"),
    ],
)
def test_sentence_follows_the_interval_whatever_the_order(
    first: str, second: str, gain: tuple[float, float, float], words: str
) -> None:
    told = sentence(first, second, Estimate(*gain, 40))
    assert words in told
    assert told.startswith("SE-ResNet18 ")
    assert "n = 40" in told
