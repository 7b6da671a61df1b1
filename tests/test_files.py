import json
import math
from pathlib import Path

import pytest

from tumorlens.errors import TumorlensError
from tumorlens.files import claim, replacing, write_json, write_manifest, write_text


def test_new_empty_and_own_folders_may_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    claim(folder, "evaluate")
    (folder / "half.txt").write_text("interrupted here")
    claim(folder, "evaluate")  # a second try after an interruption
    write_manifest(folder, "evaluate", seed=3)
    claim(folder, "evaluate")
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty", "audit")


def test_foreign_folder_other_verbs_folder_and_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(TumorlensError, match="not written by tumorlens"):
        claim(tmp_path / "thesis", "evaluate")
    claim(tmp_path / "audit", "audit")
    with pytest.raises(TumorlensError, match="written by tumorlens audit"):
        claim(tmp_path / "audit", "evaluate")
    (tmp_path / "file").touch()
    with pytest.raises(TumorlensError, match="is a file"):
        claim(tmp_path / "file", "evaluate")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_manifest_says_who_when_and_with_what(tmp_path: Path) -> None:
    write_manifest(tmp_path, "evaluate", seed=3)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["tool"] == "tumorlens"
    assert manifest["complete"] is True
    assert manifest["seed"] == 3
    assert "torch" in manifest["packages"]


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def interrupted() -> None:
        with replacing(path) as beside:
            beside.write_text("half of the new")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_what_is_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [math.inf, 1.5], 3: (True, None)})
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": None,
        "b": [None, 1.5],
        "3": [True, None],
    }
