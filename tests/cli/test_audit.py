from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens.cli import main


@pytest.fixture
def leaky(make_folder: Callable[..., Path]) -> Path:
    root = make_folder({"train": 3, "test": 2}, classes=("glioma", "notumor"))
    original = min((root / "train" / "glioma").iterdir())
    (root / "test" / "notumor" / "leaked.png").write_bytes(original.read_bytes())
    return root


def test_tables_name_the_leak_and_the_conflict(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["audit", str(leaky), "--out_dir", str(out)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 of the test images (20.0%) are near-duplicates of an image of train" in told
    assert "same image: 1 (1 byte for byte), in groups: 1; with conflicting labels: 1." in told
    assert "test/notumor/leaked.png (notumor) = train/glioma/glioma000.png (glioma)" in told
    assert (out / "audit.html").is_file()


@pytest.mark.parametrize(
    ("checks", "status"),
    [(["leak"], 1), (["conflict"], 1), (["unreadable"], 0), (["unreadable", "leak"], 1)],
)
def test_fail_on_sets_the_exit_status(
    leaky: Path, tmp_path: Path, checks: list[str], status: int
) -> None:
    argv = ["audit", str(leaky), "--out_dir", str(tmp_path / "out"), "--fail-on", *checks]
    assert main(argv) == status


def test_clean_folder_passes_every_check(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder({"train": 3, "test": 2}, classes=("glioma", "notumor"))
    argv = ["audit", "--data-dir", str(root), "--out-dir", str(tmp_path / "out"), "--fail_on"]
    assert main([*argv, "leak", "conflict", "unreadable"]) == 0
    assert "No image is in two splits." in capsys.readouterr().out


def test_unknown_check_gets_one_sentence(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["audit", str(leaky), "--out_dir", str(tmp_path / "out"), "--fail_on", "typo"]
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert "typo" in told
    assert "Traceback" not in told


def test_folder_without_a_readable_image_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.jpg").write_text("no image")
    argv = ["audit", str(tmp_path / "scans"), "--out_dir", str(tmp_path / "audit")]
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert "No image can be read." in told
    assert "1 unreadable file:" in told
