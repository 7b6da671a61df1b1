import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tumorlens
from tumorlens.cli import COMMANDS as WORDS
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import Tabular
from tumorlens.public_functions import COMMANDS, parameters_of
from tumorlens.studies.grid import StudyResult

ROOT = Path(__file__).parents[1]


def test_every_verb_is_a_function_with_a_signature() -> None:
    assert set(COMMANDS) == set(WORDS) - {"cache"} | {"study_report"}
    assert set(COMMANDS) <= set(dir(tumorlens))
    for name, command in COMMANDS.items():
        public = getattr(tumorlens, name)
        assert list(inspect.signature(public).parameters) == list(parameters_of(command))
    assert list(inspect.signature(tumorlens.train).parameters)[:2] == ["data_dir", "model"]
    assert "--" not in inspect.getdoc(tumorlens.train).replace("`", "")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        tumorlens.trian  # noqa: B018


def test_signatures_for_editors_are_those_of_the_settings() -> None:
    spec = importlib.util.spec_from_file_location("write_stubs", ROOT / "tools/write_stubs.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.STUB.read_text(encoding="utf-8") == tool.stub(), "run `make stubs`"


def test_importing_the_package_loads_nothing_heavy_and_rooms_stay_callable() -> None:
    script = (
        "import sys, tumorlens\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'tyro', 'tumorlens.settings'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import tumorlens.export.parity, tumorlens.audit.files\n"  # sets the names of two commands
        "from tumorlens import audit, export, phantom\n"
        "print(callable(audit), callable(export), callable(phantom), audit.files.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "True True True tumorlens.audit.files"]


def test_script_that_asks_for_two_processes_is_told_and_not_run_twice(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys, tumorlens\n"
        "print('begun', flush=True)\n"
        "try:\n"
        "    tumorlens.train(model='resnet18', data_dir=sys.argv[1], devices=2, device='cpu')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    words = [sys.executable, str(script), str(make_folder({"train": 2, "valid": 1}))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "begun",
        "TumorlensError devices 2: each further process would run this script again from its first "
        "line; use the command `tumorlens train` with the same flags, or start the script by "
        "torchrun.",
    ]
    assert not (tmp_path / "model").exists()


def test_functions_return_their_result_and_print_nothing(
    make_folder: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = make_folder({"train": 4, "valid": 2, "test": 2})
    stages = set()
    run = tumorlens.train(
        model="resnet18",
        data_dir=str(data),
        out_dir=str(tmp_path / "model"),
        epochs=1,
        batch_size=8,
        image_size=32,
        progress=lambda stage, *_: stages.add(stage),
    )
    report = tumorlens.evaluate(checkpoint=run.checkpoint, resamples=100)
    explained = tumorlens.gradcam(checkpoint=str(run.checkpoint), class_name="glioma")
    made = tumorlens.phantom(out=str(tmp_path / "phantom"), train=2, valid=1, test=0, size=64)
    audit = tumorlens.audit(data_dir=str(data), out_dir=str(tmp_path / "audit"))
    split = tumorlens.split(data_dir=str(data), out=str(tmp_path / "splits.csv"))
    alone = tumorlens.predict(checkpoint=run.checkpoint, paths=str(data / "test/glioma"))
    assert "epoch" in stages
    assert report.scores.all.n == 8
    assert explained.panel.is_file()
    assert made.images["train"]["glioma"] == 2
    assert len(audit.paths) == len(split.paths) == 32
    assert len(alone) == 2
    assert capfd.readouterr().out == ""

    written = json.loads((report.out_dir / "metrics.json").read_text())
    assert list(report.metrics) == list(written)
    assert report.metrics["all"]["n"] == written["all"]["n"] == 8
    assert set(report.figures) == {
        *("confusion_matrix", "errors", "reliability", "roc", "subgroups")
    }
    table = report.table()
    header = (report.out_dir / "predictions.csv").read_text().splitlines()[0]
    assert ",".join(table) == header
    assert {len(column) for column in table.values()} == {8}
    assert sum(table[f"prob_{name}"][0] for name in report.data.classes) == pytest.approx(1)


def test_frame_needs_pandas_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(TumorlensError, match="pip install pandas"):
        Tabular().to_frame()


def test_results_are_data_frames_with_the_columns_of_their_files(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    data = make_folder({"train": 2, "test": 2})
    found = tumorlens.predict(
        checkpoint="resnet18", paths=[data / "test", np.zeros((4, 4))], csv=tmp_path / "p.csv"
    )
    predicted = found.to_frame()
    header = (tmp_path / "p.csv").read_text().splitlines()[0].split(",")
    assert set(predicted.columns) == set(header)
    assert predicted["decision"].tolist() == [one.decision for one in found]
    assert predicted.filter(like="prob_").sum(axis=1).tolist()[0] == pytest.approx(1)
    assert predicted.iloc[-1].isna()["prob_glioma"]  # the flat image is unreadable
    audit = tumorlens.audit(data_dir=data, out_dir=tmp_path / "audit")
    pairs = (tmp_path / "audit/pairs.csv").read_text().splitlines()
    assert ",".join(audit.to_frame().columns) == pairs[0]
    assert len(audit.to_frame()) == len(pairs) - 1 == len(audit.pairs)
    result = StudyResult(tmp_path, ("a",), ("b",), {"c": "no room"})
    assert result.to_frame()["finished"].tolist() == [True, True, False]
    assert result.to_frame()["reason"].tolist() == ["", "", "no room"]


def test_nonsense_is_refused_by_parameter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^epochs 0: expected 1 or more"):
        tumorlens.train(model="resnet18", data_dir="data", epochs=0)
    with pytest.raises(ValueError, match="^model and data_dir must be given"):
        tumorlens.train()
    with pytest.raises(TumorlensError, match="^data_dir .*there is no such folder"):
        tumorlens.train(model="resnet18", data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        tumorlens.train(model="resnet18", data_dir="data", epoch=1)
    with pytest.raises(TypeError, match="missing a required argument: 'checkpoint'"):
        tumorlens.evaluate()


def test_predict_takes_files_arrays_and_pillow_images_in_one_list(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 30), np.uint8)
    deep = grey.astype(np.uint16) * 257
    file = tmp_path / "a.png"
    Image.fromarray(grey).save(file)
    colour = np.stack([grey] * 3, axis=-1)
    given = [file, grey, Image.fromarray(grey), colour, str(file), deep, np.full((4, 4), np.nan)]
    found = tumorlens.predict(checkpoint="resnet18", paths=given, device="cpu", threads=1)
    assert [one.path for one in found[1:4]] == ["paths[1]", "paths[2]", "paths[3]"]
    assert [one.path for one in found[:5:4]] == [file.as_posix()] * 2
    wanted = found[0].decided.probabilities
    for one in found[1:5]:
        np.testing.assert_allclose(one.decided.probabilities, wanted, atol=1e-6)
    assert found[5].decision != found[6].decision == "unreadable"
    for alone in (grey, Image.fromarray(grey)):
        (one,) = tumorlens.predict(checkpoint="resnet18", paths=alone, device="cpu", threads=1)
        np.testing.assert_allclose(one.decided.probabilities, wanted, atol=1e-6)


def test_errors_in_python_name_no_flags(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^paths: files must be given"):
        tumorlens.predict(checkpoint="resnet18", paths=[])
    with pytest.raises(TumorlensError, match=r"^paths\[0\]: found ndarray of shape"):
        tumorlens.predict(checkpoint="resnet18", paths=np.zeros((2, 4, 4)))
    (tmp_path / "mine.txt").touch()
    with pytest.raises(TumorlensError, match="^out .*: the folder is not empty .* name a new out,"):
        tumorlens.phantom(out=tmp_path)
    with pytest.raises(ValueError, match="^fold needs splits, the CSV"):
        tumorlens.audit(data_dir=tmp_path, fold=1)


def test_version_is_the_citations_and_comes_from_one_place() -> None:
    assert f"\nversion: {tumorlens.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
