from collections.abc import Callable
from pathlib import Path

import pytest

from tumorlens.cli import main
from tumorlens.data.patients import FileTable
from tumorlens.data.splits import resolve


def test_summary_says_what_each_part_holds_and_how_to_use_the_file(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder({"train": 6, "test": 4}, classes=("glioma", "notumor"))
    out = tmp_path / "splits.csv"
    assert main(["split", str(root), "--out", str(out), "--folds", "5"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "fold glioma notumor all groups" in told
    assert "4 2 2 4 4" in told
    assert f"--splits {out} --fold 0" in told
    assert set(resolve(root, out, 4).folder.layout.split()) == {"train", "valid", "test"}


def test_patients_stay_together_and_are_in_the_file(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder({"train": 9, "test": 3}, classes=("glioma", "notumor"))
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [f"{path},p{index // 3},{'ns'[index % 2]}" for index, path in enumerate(paths)]
    table = tmp_path / "patients.csv"
    table.write_text("path,person,site\n" + "\n".join(rows))
    out = tmp_path / "splits.csv"
    argv = ["split", str(root), "--out", str(out), "--folds", "2", "--patients", str(table)]
    assert main(argv) == 0
    assert "No patient is in two splits" in capsys.readouterr().out
    written = resolve(root, out, 0).patients
    assert isinstance(written, FileTable)
    assert written.columns == ("fold", "group", "patient", "site")
    folds: dict[str, set[str]] = {}
    for row in written.rows.values():
        folds.setdefault(row["patient"], set()).add(row["fold"])
    assert len(folds) == 8
    assert all(len(found) == 1 for found in folds.values())


def test_wrong_share_and_missing_folder_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(tmp_path), "--valid", "1.5"]) == 2
    assert "--valid 1.5: expected 0 or more, below 1" in capsys.readouterr().err
    assert main(["split", str(tmp_path / "gone")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
