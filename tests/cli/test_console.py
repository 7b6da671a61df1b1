import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens.cli import main
from tumorlens.cli.console import of_results, shown


class _AsciiTerminal:
    """Standard output and error of a terminal that knows ASCII alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.raw = io.BytesIO()
        self.stream = io.TextIOWrapper(self.raw, encoding="ascii")
        monkeypatch.setattr(sys, "stdout", self.stream)
        monkeypatch.setattr(sys, "stderr", self.stream)

    def said(self) -> str:
        self.stream.flush()
        return self.raw.getvalue().decode("ascii")


def test_terminal_that_knows_ascii_alone_stops_no_command(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = _AsciiTerminal(monkeypatch)
    classes = ("gliome-é", "[red]", "健康")
    data = make_folder({"train": 3, "valid": 2, "test": 1}, classes=classes, name="données")
    out = tmp_path / "modèle"
    words = ["--epochs", "1", "--image_size", "32", "--batch_size", "4", "--threads", "1"]
    trained = ["train", "--model", "resnet18", "--data_dir", str(data), "--out_dir", str(out)]
    assert main([*trained, *words, "--device", "cpu"]) == 0
    best = str(out / "best_model.pt")
    assert main(["evaluate", "--checkpoint", best, "--device", "cpu", "--resamples", "100"]) == 0
    assert main(["predict", str(data / "test"), "--checkpoint", best, "--device", "cpu"]) == 0
    assert main(["audit", str(data), "--out_dir", str(tmp_path / "audit")]) == 0
    assert main(["evaluate", "--checkpoint", "é.pt"]) == 2
    said = terminal.said()
    assert "gliome-\\xe9" in said
    assert "[red]" in said  # a class's name is no command to the terminal
    assert "--checkpoint \\xe9.pt: found nothing" in said
    assert "nan" not in said
    assert "-: has no value" in said  # a network of one epoch does not answer every class


def test_classes_and_epochs_are_lines_above_the_bar_in_a_log_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shown() as progress:
        progress("class", 1, 2, "glioma: 4 train")
        progress("training", 1, 9)
        progress("epoch", 3, 10, "train loss 1.0")
    assert capsys.readouterr().err.splitlines() == [
        "class   1/2  glioma: 4 train",
        "epoch   3/10  train loss 1.0",
    ]


def test_help_is_shown_by_a_terminal_that_knows_ascii_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tumorlens", "train", "--help"],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    assert "--data_dir PATH" in done.stdout.decode("ascii")


def test_help_into_a_pipe_that_nobody_reads_ends_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "tumorlens", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_no_column_is_as_if_nothing_were_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert of_results().width == 200


def test_progress_in_a_notebook_is_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """rich tells a notebook by its kernel; there nothing may be drawn over, as bars are."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("tumorlens.cli.console._SECONDS_BETWEEN_LINES", 0.0)
    with shown() as progress:
        progress("decoding", 1, 2)
        progress("epoch", 1, 2, "loss 0.5")
    assert capsys.readouterr().err == "decoding 1/2, 0.0 min left  \nepoch   1/2  loss 0.5\n"
