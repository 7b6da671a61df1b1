import contextlib
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tumorlens import __version__
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import COMMANDS, main
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.models.build import build_model


def _fails(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return " ".join(told.split())


def test_help_lists_every_verb_and_says_it_is_no_medical_device(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {command}" in told for command in COMMANDS)
    assert "not a medical device" in told
    assert main(["--version"]) == 0


def test_training_asks_for_huge_pages_unless_the_user_has_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "THP_MEM_ALLOC_ENABLE"
    monkeypatch.setenv(name, "0")
    assert main(["train"]) == 2
    assert os.environ[name] == "0"
    monkeypatch.delenv(name)
    assert main(["cache", "polish"]) == 2
    assert name not in os.environ
    assert main(["train"]) == 2
    assert os.environ[name] == "1"


def test_threads_sleep_while_they_wait_unless_the_user_has_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "GOMP_SPINCOUNT"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv(name, raising=False)
    assert main(["cache", "polish"]) == 2
    assert name not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["cache", "polish"]) == 2
    assert os.environ[name] == "1000"
    monkeypatch.setenv(name, "7")
    assert main(["cache", "polish"]) == 2
    assert os.environ[name] == "7"


def test_ctrl_c_ends_the_page_without_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page:
        address = "http://127.0.0.1:1"

        def wait(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("tumorlens.web.serve.serve", lambda _: contextlib.nullcontext(Page()))
    assert main(["serve", "--checkpoint", "resnet18"]) == 0
    told = capsys.readouterr()
    assert told.out.endswith("Ended.\n")
    assert told.err == ""


def test_help_names_no_default_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gradcam", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--class STR Explain images" in told
    assert "unset" not in told
    assert "(default: )" not in told
    assert "(default: gradcam)" in told


def test_unknown_verb_suggests_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean `train`?" in _fails(capsys, ["trian"])
    assert "there are train, evaluate" in _fails(capsys, ["xyzzy"])


def test_ctrl_c_without_a_word_of_its_own_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("tumorlens.cli.cache.run", stop)
    assert main(["cache", "show"]) == 130
    assert capsys.readouterr().err == "\ntumorlens cache: interrupted\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train"], "--model and --data_dir must be given"),
        (["train", "--model", "vgg", "--data_dir", "x"], "vgg"),
        (["train", "--modle", "resnet18"], "--modle.*did you mean --model"),
        (["train", "--model", "resnet18", "--data_dir", "x", "--epochs", "ten"], "'ten'.*INT"),
        (
            ["train", "--model", "resnet18", "--data_dir", "x", "--epochs", "0"],
            "--epochs 0: expected",
        ),
        (
            ["train", "--model", "resnet18", "--data_dir", "nowhere"],
            "--data_dir nowhere: there is no",
        ),
        (["evaluate"], "--checkpoint must be given"),
        (["evaluate", "--checkpoint", "nowhere.pt"], "--checkpoint nowhere.pt: found nothing"),
        (["gradcam", "--checkpoint", "nowhere.pt"], "--checkpoint nowhere.pt: found nothing"),
        (["gradcam", "--checkpoint", "x", "--clas", "y"], "--clas"),
        (["audit", "."], "no image found"),
        (["split", "."], "no image found"),
        (["cache", "polish"], "expected `show` or `clear`"),
    ],
)
def test_wrong_input_gets_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    told = _fails(capsys, argv)
    assert re.search(words, told), told
    assert told.startswith(f"tumorlens {argv[0]}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"train": 4, "valid": 2, "test": 3})


@pytest.fixture
def checkpoint(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "model"
    argv = ["train", "--model", "se_resnet18", "--data-dir", str(folder), "--out-dir", str(out)]
    assert main([*argv, "--epochs=1", "--batch_size", "8", "--image_size", "32"]) == 0
    return out / "best_model.pt"


def test_contract_from_training_to_grad_cam(
    checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.with_suffix(".json").is_file()

    assert main(["evaluate", "--checkpoint", str(checkpoint), "--resamples", "100"]) == 0
    told = capsys.readouterr().out
    assert "recall of glioma" in told
    assert "No image is a near-duplicate of a training image" in told
    out = checkpoint.parent / "evaluation"
    names = {path.name for path in out.iterdir()}
    assert names == {
        "metrics.json",
        "predictions.csv",
        "subgroups.json",
        "subgroups.csv",
        "subgroups.png",
        "confusion_matrix.png",
        "roc.png",
        "reliability.png",
        "errors.png",
        "manifest.json",
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["split"] == "test"
    assert metrics["images"] == 12
    header, *rows = (out / "predictions.csv").read_text().splitlines()
    assert header.startswith("path,label,prediction,prob_glioma,prob_meningioma,prob_notumor")
    assert len(rows) == 12
    assert rows[0].startswith("test/glioma/")
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--resamples", "100"]) == 0  # again

    argv = ["gradcam", "--checkpoint", str(checkpoint), "--class", "glioma", "--save_maps"]
    assert main(argv) == 0
    assert main([*argv, "--target", "predicted", "--layer", "layer3"]) == 0
    out = checkpoint.parent / "gradcam"
    assert (out / "panel.png").stat().st_size > 10_000
    found = json.loads((out / "gradcam.json").read_text())
    assert [image["label"] for image in found["images"]] == ["glioma"] * 3
    assert len(list((out / "overlays").glob("*.png"))) == 3
    with Image.open(next((out / "overlays").glob("*.png"))) as overlay:
        assert overlay.size == (48, 48)


def test_images_of_ones_own_two_networks_and_bad_files(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    Image.linear_gradient("L").convert("RGB").resize((80, 40)).save(own / "wide.png")
    (own / "text.jpg").write_text("no image")
    argv = ["gradcam", "--checkpoint", str(checkpoint), "--images", str(own), "--out_dir"]
    assert main([*argv, str(tmp_path / "cam"), "--compare", str(checkpoint)]) == 0
    told = capsys.readouterr()
    assert "text.jpg: is not a PNG" in told.err
    found = json.loads((tmp_path / "cam/gradcam.json").read_text())
    assert len(found["images"]) == 2
    assert list(found["skipped"]) == [(own / "text.jpg").as_posix()]
    told = _fails(capsys, [*argv, str(tmp_path / "true"), "--target", "true"])
    assert "--target true: given --images have no true class" in told
    told = _fails(capsys, [*argv, str(tmp_path / "x"), "--layer", "layer9"])
    assert "--layer layer9" in told
    told = _fails(capsys, [*argv, str(tmp_path / "y"), "--class", "astrocytoma"])
    assert "--class astrocytoma: the checkpoint knows no such class" in told


def test_folder_of_somebody_else_is_not_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("work")
    argv = ["--checkpoint", str(checkpoint), "--out_dir", str(thesis)]
    for command in ("evaluate", "gradcam"):
        assert "not written by tumorlens" in _fails(capsys, [command, *argv])
    assert [path.name for path in thesis.iterdir()] == ["chapter.tex"]


def test_valid_part_is_scored_with_a_warning_where_there_is_no_test(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"train": 4, "valid": 2}, name="two")
    argv = ["train", "--model", "resnet18", "--data_dir", str(folder), "--out_dir", str(tmp_path)]
    assert main([*argv, "--epochs", "1", "--batch_size", "8", "--image_size", "32"]) == 0
    checkpoint = tmp_path / "best_model.pt"
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--resamples", "100"]) == 0
    assert "Optimistic" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert metrics["split"] == "valid"
    assert "selected the model" in metrics["caveats"][0]


def test_validation_images_of_a_network_that_trained_on_its_own_are_called_memory(
    checkpoint: Path, make_folder: Callable[..., Path]
) -> None:
    trained = checkpoints.load(checkpoint)
    settings = trained.settings | {"train_on_valid": True}
    checkpoints.save(replace(trained, settings=settings), checkpoint)
    argv = ["--checkpoint", str(checkpoint), "--split", "valid", "--resamples", "100"]
    folder = make_folder({"train": 4, "valid": 2}, name="other")
    assert main(["evaluate", *argv, "--data_dir", str(folder)]) == 0
    metrics = json.loads((checkpoint.parent / "evaluation/metrics.json").read_text())
    assert metrics["split"] == "valid"
    assert "Memory, not skill" in metrics["caveats"][0]


def test_simulated_images_and_a_class_never_answered_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "phantom"
    counts = ["--train", "2", "--valid", "1", "--test", "2", "--size", "64"]
    assert main(["phantom", "--out", str(root), *counts]) == 0
    network = build_model("resnet18", 4)
    torch.nn.init.zeros_(network.fc.weight)
    with torch.no_grad():
        network.fc.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    made = Checkpoint(
        model_name="resnet18",
        classes=("glioma", "meningioma", "notumor", "pituitary"),
        preprocessing=Preprocessing(32, 0.25, 0.2),
        weights=network.state_dict(),
        data=None,
        settings={},
        selected={},
    )
    path = tmp_path / "best_model.pt"
    checkpoints.save(made, path)
    argv = ["evaluate", "--checkpoint", str(path), "--data_dir", str(root), "--resamples", "100"]
    assert main(argv) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "These images are simulated (tumorlens phantom)" in told
    assert "never predicts meningioma or notumor or pituitary, of which there are images" in told


def test_moved_data_folder_is_asked_for_and_then_used(
    checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = folder.rename(folder.with_name("moved"))
    argv = ["evaluate", "--checkpoint", str(checkpoint), "--resamples", "100"]
    told = _fails(capsys, argv)
    assert "is gone" in told
    assert "--data_dir" in told
    assert main([*argv, "--data_dir", str(moved)]) == 0


def test_copies_of_training_images_are_counted_and_left_out(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"train": 4, "valid": 2, "test": 3}, name="leaky")
    copied = (folder / "train/glioma/glioma000.png").read_bytes()
    (folder / "test/glioma/same_bytes.png").write_bytes(copied)
    with Image.open(folder / "train/notumor/notumor001.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "test/notumor/mirror.png")
    argv = ["train", "--model", "resnet18", "--data_dir", str(folder), "--out_dir", str(tmp_path)]
    assert main([*argv, "--epochs", "1", "--batch_size", "8", "--image_size", "32"]) == 0
    checkpoint = tmp_path / "best_model.pt"
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--resamples", "100"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2 of 14 images are near-duplicates of" in told
    assert "(1 byte for byte, 1 mirrored, turned or re-encoded)" in told
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert metrics["without_near_duplicates"]["n"] == 12
    assert metrics["without_exact_duplicates"]["n"] == 13


def test_cache_is_shown_and_cleared(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["cache"]) == 0
    assert "holds 36 entries" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert main(["cache", "show"]) == 0
    assert "holds 0 entries" in capsys.readouterr().out


def test_help_names_the_flags_as_the_contract_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["gradcam", "--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert "--class " in told
    assert "--class_name" not in told
    assert "--data_dir" in told


def test_package_is_a_program_too() -> None:
    command = [sys.executable, "-m", "tumorlens", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"tumorlens {__version__}\n"


@pytest.mark.parametrize(
    ("code", "mode", "words"),
    [
        (errno.EACCES, 0o000, "a.png: cannot be read"),
        (errno.EPERM, 0o000, "a.png: cannot be read"),
        (errno.EACCES, 0o600, "a.png: cannot be written"),
        (errno.EIO, 0o600, "a.png: cannot be read or written"),
        (errno.ENOSPC, 0o000, "a.png: cannot be written"),
    ],
)
def test_what_the_system_refuses_is_named_with_whether_it_was_read_or_written(
    code: int,
    mode: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> int:
        raise OSError(code, "why", str(path))

    path = tmp_path / "a.png"
    path.touch()
    # By its mode alone: root may read anything.
    monkeypatch.setattr(os, "access", lambda place, _: place != path or bool(mode))
    monkeypatch.setattr("tumorlens.cli.cache.run", refused)
    assert f"{words} (why)" in _fails(capsys, ["cache", "show"])


def test_a_folder_that_may_not_be_entered_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "why", str(tmp_path / "closed" / "deep" / "a.png"))

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda place, _: place != tmp_path / "closed")
    monkeypatch.setattr("tumorlens.cli.cache.run", refused)
    told = _fails(capsys, ["cache", "show"])
    assert f"{tmp_path / 'closed'}: cannot be entered (why); check its permissions." in told


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--seed", str(2**70)], f"--seed {2**70}: expected less than {2**32}."),
        (["--threads", str(10**11)], "--threads 100000000000: expected less than 32768."),
        (["--splits", ""], "--splits: found '', expected PATH."),
    ],
)
def test_number_beyond_all_and_empty_path_are_refused(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in _fails(capsys, ["train", "--model", "resnet18", "--data_dir", "x", *argv])


def test_folder_that_is_gone_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("tumorlens.cli.cache.run", gone)
    assert "the folder that you are in is gone" in _fails(capsys, ["cache", "show"])
