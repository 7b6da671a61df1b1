"""The real loading code against a stand-in for Kaggle on loopback."""

import io
import json
import re
import shutil
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tumorlens
from tumorlens.audit import download as public_set
from tumorlens.cli import main
from tumorlens.errors import TumorlensError

pytest.importorskip("kagglehub", reason="the extra `download` is not installed")

COUNTS = {"Training": {"glioma": 3, "notumor": 2}, "Testing": {"glioma": 1, "notumor": 1}}


def _archive() -> bytes:
    """The set as Kaggle packs it; the glioma of Testing is a near-duplicate of one of Training."""
    packed = io.BytesIO()
    rng = np.random.default_rng(0)
    images = {}
    for split, classes in COUNTS.items():
        for name, number in classes.items():
            for index in range(number):
                stream = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (48, 48), np.uint8)).save(stream, "PNG")
                images[f"{split}/{name}/{index}.png"] = stream.getvalue()
    images["Testing/glioma/0.png"] = images["Training/glioma/0.png"]
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in images.items():
            archive.writestr(path, content)
        # kagglehub writes by the mebibyte: an archive that can break in the middle has some.
        archive.writestr("notes.bin", rng.bytes(3 << 20))
    return packed.getvalue()


class Kaggle(ThreadingHTTPServer):
    """Answers as Kaggle does to what kagglehub asks without an account."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.archive = _archive()
        self.breaks = 0  # how many predictions stop in the middle
        self.status = 200
        self.asked: list[str] = []  # each request for the archive, by its Range header

    def handle_error(self, *_: object) -> None:
        """The client hangs up on predictions that it asks for anew in parts."""


class _Answer(BaseHTTPRequestHandler):
    server: Kaggle

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status != 200:
            said = json.dumps({"code": self.server.status, "message": "no such set"}).encode()
            self._send(self.server.status, said, Content_Type="application/json")
        else:
            self._send(302, b"", Location="/store/archive.zip")

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        start = int(re.findall(r"\d+", asked)[0]) if asked else 0
        body = self.server.archive[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        # kagglehub asks once more from where it stopped, so that the whole answer is begun first.
        if self.server.breaks and (asked or self.server.asked == [""]):
            self.server.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    from kagglesdk import kaggle_env

    server = Kaggle()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # kagglesdk's own name for a Kaggle on this machine, at the stand-in's port.
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint,
        kaggle_env.KaggleEnv.LOCAL,
        f"http://127.0.0.1:{server.server_port}",
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "KAGGLE_CONFIG_DIR"):  # no account of whoever runs the tests
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setitem(public_set.KNOWN_COUNTS, 1, COUNTS)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def test_set_lands_checked_and_audited(
    kaggle: Kaggle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download"]) == 0
    told = capsys.readouterr().out
    licence, size = told.index("Licence:  as that page"), told.index("Size:     about")
    assert licence < size < told.index("Training:")
    assert "Training: 5 images: 3 glioma, 2 notumor" in told
    assert "1 test images are near-duplicates of an image of train" in told
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "Testing",
        "Training",
        "manifest.json",
    ]
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["licence"].endswith("brain-tumor-mri-dataset")
    assert manifest["source"].endswith("brain-tumor-mri-dataset/versions/1")
    assert manifest["complete"]
    assert (tmp_path / "audit" / "audit.html").is_file()
    assert not (tmp_path / "home").exists()


def test_second_call_fetches_nothing(kaggle: Kaggle) -> None:
    assert tumorlens.download().fetched
    fetched = list(kaggle.asked)
    assert not tumorlens.download().fetched
    assert kaggle.asked == fetched


def test_broken_line_is_taken_up_where_it_broke(kaggle: Kaggle) -> None:
    kaggle.breaks = 1
    made = tumorlens.download()
    assert kaggle.asked[0] == ""
    assert kaggle.asked[-1] == f"bytes={1 << 20}-"
    assert made.counts == COUNTS


def test_line_that_stays_broken_says_so_and_the_next_command_goes_on(kaggle: Kaggle) -> None:
    kaggle.breaks = 3
    with pytest.raises(TumorlensError, match="line broke .* goes on where it stopped"):
        tumorlens.download()
    assert len(kaggle.asked) >= 3
    assert tumorlens.download().counts == COUNTS
    assert re.fullmatch(r"bytes=[1-9]\d*-", kaggle.asked[-1])


def test_set_with_a_missing_image_is_refused_and_leaves_nothing_behind(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = {**COUNTS, "Testing": {"glioma": 2, "notumor": 1}}
    monkeypatch.setitem(public_set.KNOWN_COUNTS, 1, more)
    with pytest.raises(TumorlensError, match="Testing/glioma has 1 images instead of 2"):
        tumorlens.download()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["manifest.json"]
    monkeypatch.setitem(public_set.KNOWN_COUNTS, 1, COUNTS)
    assert tumorlens.download().counts == COUNTS


def test_version_without_known_counts_is_fetched_and_said_to_be_unchecked(
    kaggle: Kaggle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "--version", "2"]) == 0
    assert "not checked, those of version 2 are not known" in capsys.readouterr().out


def test_no_network_gets_one_sentence(
    kaggle: Kaggle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle.shutdown()
    kaggle.server_close()
    assert main(["download"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tumorlens download: Kaggle cannot be reached")
    assert "Traceback" not in told
    assert not (tmp_path / "data").exists()


def test_what_kaggle_refuses_is_said_with_the_page(kaggle: Kaggle) -> None:
    kaggle.status = 404
    with pytest.raises(
        TumorlensError, match="Kaggle refuses version 1 of .*brain-tumor-mri-dataset: .*; see https"
    ):
        tumorlens.download()


def test_disk_without_room_is_seen_before_anything_is_fetched(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(TumorlensError, match="0 MB are free there, 330 MB are needed"):
        tumorlens.download()
    assert kaggle.asked == []
    assert not (tmp_path / "data").exists()


def test_folder_that_is_taken_is_left_alone(kaggle: Kaggle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TumorlensError, match="not written by tumorlens"):
        tumorlens.download()
    assert kaggle.asked == []


def test_published_counts_add_up_to_the_set_that_papers_cite() -> None:
    counts = public_set.KNOWN_COUNTS[1]
    assert [sum(counts[split].values()) for split in public_set.PARTS] == [5712, 1311]
