import csv
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tumorlens.cli import main
from tumorlens.errors import TumorlensError
from tumorlens.inference import inputs as sources
from tumorlens.inference.backends import Floats
from tumorlens.inference.predict import Prediction, predict, predictions
from tumorlens.progress import Progress, silent
from tumorlens.settings import PredictSettings
from tumorlens.uncertainty.decision import DecisionRule
from tumorlens.uncertainty.out_of_distribution import FeatureSpace


class _Brightness:
    """Logit 0 is the mean grey value over 10, logit 1 is 10; the feature is the grey value."""

    name = "resnet18"
    image_size = 8
    rule = DecisionRule(
        ("glioma", "notumor"), 1.0, 0.9, FeatureSpace(np.array([[100.0], [90.0]]), np.eye(1), 140.0)
    )

    def __init__(self) -> None:
        self.batches: list[int] = []

    def describe(self, squares: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        self.batches.append(len(squares))
        grey = squares.mean(axis=(1, 2))
        return np.stack([grey / 10, np.full(len(grey), 10.0)], axis=1), grey[:, None]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A grey image, of `value` on the average."""

    def make(name: str, value: int) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(np.uint8([value - 1, value + 1]), (8, 4))).save(path)
        return path

    return make


def _settings(*paths: Path, **changes: object) -> PredictSettings:
    return PredictSettings(checkpoint=Path("x.pt"), paths=paths, **changes)  # type: ignore[arg-type]


def _predicted(
    settings: PredictSettings, backend: _Brightness, progress: Progress = silent
) -> Iterable[Prediction]:
    return predictions(sources.listing(settings.paths).files, settings, backend, progress)


def _told(found: Iterable[Prediction]) -> list[tuple[str, int | None, str]]:
    return [(Path(one.path).name, one.index, one.decision) for one in found]


def test_bad_file_among_others_is_told_and_the_others_go_on(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write("in/a.png", 150)
    (tmp_path / "in/b.jpg").write_text("hello")
    write("in/c.png", 101)
    write("in/d.png", 250)
    (tmp_path / "in/notes.txt").write_text("not an image, not asked for")
    found = list(_predicted(_settings(tmp_path / "in", batch_size=2), _Brightness()))
    assert _told(found) == [
        ("a.png", None, "confident"),
        ("b.jpg", None, "unreadable"),
        ("c.png", None, "uncertain"),
        ("d.png", None, "out of distribution"),
    ]
    assert found[0].decided is not None
    assert found[0].decided.prediction == "glioma"
    # logits 15 and 10: 1 / (1 + e^-5)
    assert found[0].decided.probabilities[0] == pytest.approx(0.993307, abs=1e-6)
    assert (
        found[1].reason
        == "is not a PNG, JPEG, TIFF, BMP, GIF or WebP image, whatever its name says"
    )


def test_slices_of_volumes_go_through_in_batches(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.zeros((8, 8, 7), np.float32)
    values[:, :, 3:] = 200.0
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "head.nii.gz")
    backend = _Brightness()
    found = list(_predicted(_settings(tmp_path / "head.nii.gz", batch_size=3), backend))
    assert [one.index for one in found] == list(range(7))
    assert [one.decided.prediction for one in found if one.decided] == ["notumor"] * 3 + [
        "glioma"
    ] * 4
    assert backend.batches == [3, 3, 1]
    only = list(_predicted(_settings(tmp_path / "head.nii.gz", slice=5), backend))
    assert [one.index for one in only] == [5]
    beyond = list(_predicted(_settings(tmp_path / "head.nii.gz", slice=7), backend))
    assert beyond[0].reason == "has the slices 0 to 6, no 7"


def test_patterns_and_folders_name_files_and_nothing_is_said(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("x/1.png", "x/deep/2.png", "x/.hidden.png", "y/3.png"):
        write(name, 100)
    assert [p.name for p in sources.listing([tmp_path / "x", tmp_path / "y" / "*.png"]).files] == [
        "1.png",
        "2.png",
        "3.png",
    ]
    with pytest.raises(TumorlensError, match="found nothing there"):
        sources.listing([tmp_path / "z"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(TumorlensError, match="has no image in it"):
        sources.listing([tmp_path / "empty"])


def test_series_in_a_folder_comes_in_the_order_of_the_body(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    real = Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small.dcm"
    for name, number in (("00001", 3), ("00002", 1), ("00003", 2)):
        data = pydicom.dcmread(real)
        data.InstanceNumber = number
        data.ImagePositionPatient = [0.0, 0.0, float(number)]
        data.ImageOrientationPatient = [1.0, 0, 0, 0, 1.0, 0]
        data.save_as(tmp_path / name)
    (tmp_path / "README").write_text("no ending and no DICOM: left alone")
    assert [p.name for p in sources.listing([tmp_path]).files] == ["00002", "00003", "00001"]
    assert [_.image is not None for _ in sources.slices(tmp_path / "00001")] == [True]


def test_table_and_listener_are_told_the_same(
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("a.png", 150)
    (tmp_path / "b.png").write_bytes(b"")
    monkeypatch.setattr("tumorlens.inference.predict.backend_of", lambda _settings: _Brightness())
    heard: list[Prediction] = []
    summary = predict(
        _settings(tmp_path / "*.png", csv=tmp_path / "out.csv", json=True),
        on_prediction=heard.append,
    )
    assert summary.decisions == {"confident": 1, "unreadable": 1}
    assert summary.unreadable == 1
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["path", "prediction", "decision", "prob_glioma", "prob_notumor"]
    lines = [one.to_dict() for one in heard]
    assert [row["decision"] for row in rows] == [line["decision"] for line in lines]
    assert float(rows[0]["prob_glioma"]) == pytest.approx(
        lines[0]["probabilities"]["glioma"], abs=1e-6
    )
    assert rows[1]["reason"] == lines[1]["reason"] == "is empty (0 bytes); expected an image"
    assert capsys.readouterr().out == ""  # the terminal alone prints


def test_exported_network_that_is_asked_to_run_on_a_gpu_says_that_it_does_not(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.png", 150)
    monkeypatch.setattr("tumorlens.inference.predict.backend_of", lambda _settings: _Brightness())
    for checkpoint, device, note in (
        ("x.onnx", "cuda", "--device cuda: an exported network runs on the CPU."),
        ("x.onnx", "auto", ""),
        ("x.pt", "cuda", ""),
    ):
        asked = PredictSettings(Path(checkpoint), (tmp_path / "a.png",), device=device)
        assert predict(asked).note == note


def test_every_folder_is_gone_through_once(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in/a.png", 150)
    write("in/b.png", 150)
    walked = []
    walk = os.walk
    monkeypatch.setattr(
        os, "walk", lambda folder, **how: walked.append(folder) or walk(folder, **how)
    )
    told: list[tuple[int, int]] = []
    found = _predicted(
        _settings(tmp_path / "in"), _Brightness(), lambda _, done, total: told.append((done, total))
    )
    assert len(list(found)) == 2
    assert told == [(1, 2), (2, 2)]
    assert walked == [tmp_path / "in"]


def test_interruption_leaves_the_old_table(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.png", 150)
    (tmp_path / "out.csv").write_text("old")
    monkeypatch.setattr("tumorlens.inference.predict.backend_of", lambda _settings: _Brightness())

    def stop(_one: Prediction) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(_settings(tmp_path / "a.png", csv=tmp_path / "out.csv"), on_prediction=stop)
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out.csv"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_table_onto_a_pipe_goes_through_it(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.png", 150)
    os.mkfifo(tmp_path / "out.csv")
    monkeypatch.setattr("tumorlens.inference.predict.backend_of", lambda _settings: _Brightness())
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "out.csv").read_text()))
    reader.start()
    predict(_settings(tmp_path / "a.png", csv=tmp_path / "out.csv"))
    reader.join(timeout=10)
    assert read[0].splitlines()[1].startswith(f"{tmp_path.as_posix()}/a.png,glioma,confident,")
    assert (tmp_path / "out.csv").is_fifo()


def test_names_that_are_no_utf8_or_decomposed_are_written_as_they_are(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["me\u0301ningiome.png", "m\u00e9ningiome.png", os.fsdecode(b"caf\xe9.png")]
    try:
        for name in names:
            write(f"in/{name}", 150)
    except OSError:
        pytest.skip("this file system takes no such names")
    monkeypatch.setattr("tumorlens.inference.predict.backend_of", lambda _settings: _Brightness())
    predict(_settings(tmp_path / "in", csv=tmp_path / "out.csv"))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        found = {Path(row["path"]).name for row in csv.DictReader(file)}
    assert found == {*names[:2], "caf\\udce9.png"}


def test_header_that_makes_no_sense_is_told_beside_the_prediction(
    tmp_path: Path, dicom_bytes: Callable[..., bytes]
) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(WindowCenter="1", WindowWidth="0"))
    (found,) = _predicted(_settings(tmp_path / "a.dcm"), _Brightness())
    assert found.decided is not None
    assert found.reason.endswith("The display window makes no sense and is not used.")


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    for number in range(200):
        write(f"in/{'n' * 200}{number}.png", 150)
    script = (
        "import resource, sys\n"
        "from tumorlens.cli import main\n"
        "from tumorlens.inference import predict\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_predict\n"
        "predict.backend_of = lambda settings: test_predict._Brightness()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"  # as a disk with 4 KiB left
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["predict", str(tmp_path / "in"), "--checkpoint", "x.onnx", "--csv"]
    done = subprocess.run(
        [sys.executable, "-c", script, *argv, str(tmp_path / "out.csv")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "out.csv: cannot be written (File too large); free some room" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_heat_maps_of_files_with_the_longest_names_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "n" * 250 + ".png"
    Image.linear_gradient("L").save(tmp_path / name)
    argv = ["predict", str(tmp_path / name), "--checkpoint", "resnet18", "--heatmaps"]
    assert main([*argv, str(tmp_path / "maps"), "--device", "cpu", "--threads", "1"]) == 0
    (image,) = (tmp_path / "maps").glob("*.png")
    assert image.name.startswith("00001-nnn")
    with Image.open(image) as drawn:
        assert drawn.size == (512, 256)
