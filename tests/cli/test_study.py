import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens.cli import main


def test_study_does_what_is_missing_says_what_failed_and_compares(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"train": 4, "valid": 2, "test": 2})
    out = tmp_path / "results"
    argv = ["study", "--data-dir", str(folder), "--out_dir", str(out)]
    argv += ["--runs_dir", str(tmp_path / "runs"), "--epochs", "1", "--batch_size", "8"]
    argv += ["--image_size", "32", "--resamples", "100", "--threads", "1", "--device", "cpu"]
    blocked = tmp_path / "runs/se_resnet18-official-seed0"
    blocked.mkdir(parents=True)
    (blocked / "best_model.pt").write_text("somebody else's")
    assert main(argv) == 1
    told = capsys.readouterr()
    assert "1 of 2 runs are finished, 1 of them now" in told.out
    assert "se_resnet18-official-seed0 failed: --out_dir" in told.err
    (blocked / "best_model.pt").unlink()
    assert main(argv) == 0
    assert "2 of 2 runs are finished, 1 of them now" in capsys.readouterr().out
    assert main(argv) == 0
    assert "2 of 2 runs are finished, 0 of them now" in capsys.readouterr().out
    comparison = ["compare", str(out), "--out_dir", str(tmp_path / "comparison")]
    assert main([*comparison, "--resamples", "100"]) == 0
    told_of_both = " ".join(capsys.readouterr().out.split())
    assert "SE-ResNet18 (B) minus ResNet18 (A), all images, n = 8" in told_of_both
    assert "statistically significant" in told_of_both
    assert main(["study", "--report", "--out_dir", str(out), "--resamples", "100"]) == 0
    assert "Does SE help, and whom?" in capsys.readouterr().out


def test_ctrl_c_ends_runs_side_by_side_and_names_the_command_that_goes_on(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder({"train": 8, "valid": 2, "test": 2})
    argv = ["--data_dir", str(folder), "--out_dir", str(tmp_path / "results"), "--jobs", "2"]
    argv += ["--runs_dir", str(tmp_path / "runs"), "--epochs", "1000", "--batch_size", "8"]
    argv += ["--image_size", "32", "--device", "cpu"]
    script = "import sys; from tumorlens.cli import main; sys.exit(main(sys.argv[1:]))"
    asking = subprocess.Popen(
        [sys.executable, "-c", script, "study", *argv],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = ""
    try:
        assert asking.stderr is not None
        for line in asking.stderr:  # one from each run
            told += line
            if all(f"{name}-official" in told for name in (" resnet18", " se_resnet18")):
                break
        os.killpg(asking.pid, signal.SIGINT)
        told = asking.communicate(timeout=60)[1]
    finally:
        asking.kill()
        asking.wait()
    assert asking.returncode == 130
    assert f"The same command goes on.\n  tumorlens study {shlex.join(argv)}\n" in told
    assert "Traceback" not in told


def test_wrong_flags_are_one_sentence(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"train": 4, "valid": 2})

    def told(*words: str) -> str:
        assert main(["study", *words]) == 2
        return capsys.readouterr().err

    assert "--data_dir must be given" in told()
    argv = ("--data_dir", str(folder), "--out_dir", str(folder))
    assert "not written by tumorlens" in told(*argv)
    argv = (
        "--data_dir",
        str(folder),
        "--protocol",
        "patients",
        "--splits",
        str(tmp_path / "no.csv"),
    )
    assert "there is no such file" in told(*argv)
    argv = ("--data_dir", str(folder), "--jobs", "2", "--cluster", "tcp://127.0.0.1:1")
    assert "--jobs is for this machine alone" in " ".join(told(*argv).split())
    assert "--jobs 0: expected 1 or more" in told("--data_dir", str(folder), "--jobs", "0")
    assert "--models" in told("--data_dir", str(folder), "--models", "vgg")


def test_ctrl_c_prints_a_command_that_a_shell_takes_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tumorlens.studies.grid.study", stop)
    assert main(["study", "--data_dir", "my data"]) == 130
    assert "  tumorlens study --data_dir 'my data'\n" in capsys.readouterr().err
