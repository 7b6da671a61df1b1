"""The notebook runs from its first cell to its last, and is stored without outputs.

The cells are executed in this process, one after another, so that no kernel need be installed.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorials" / "notebook.ipynb"
TINY = "IMAGES, SIDE, EPOCHS = 6, 64, 2"


def _cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_notebook_is_stored_without_outputs() -> None:
    assert [(cell["outputs"], cell["execution_count"]) for cell in _cells()] == [
        ([], None) for _ in _cells()
    ]


def test_notebook_runs_from_data_to_saliency_and_stress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nilearn", reason="the extra `phantom` is not installed")
    pytest.importorskip("pandas", reason="pandas is not installed")
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names: dict[str, Any] = {}
    for cell in _cells():
        tiny = "parameters" in cell["metadata"].get("tags", ())
        exec(TINY if tiny else "".join(cell["source"]), names)
    names["plt"].close("all")
    names["image"].close()
    told = capsys.readouterr()
    assert "accuracy" in told.out
    assert "epoch   2/2" in told.err
    assert "\r" not in told.err + told.out
    assert names["run"].checkpoint.is_file()
    assert names["report"].scores.all.n == 8
    assert names["report"].stress is not None
    assert names["explained"].measured is not None
