"""MATLAB files as the originals are: transposed arrays, codes of characters, MATLAB's header."""

import hashlib
import io
import json
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tumorlens
from tumorlens.audit import figshare
from tumorlens.cli import main
from tumorlens.data.folder import scan
from tumorlens.data.patients import check_overlap
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.explain.regions import read_boxes

h5py = pytest.importorskip("h5py", reason="the extra `figshare` is not installed")

# Number of the slice: label, identifier, published fold. 101127 and MR024780 are in the built-in
# table; MR024780 has two examinations in two published folds.
SLICES = {
    1: (1, "101127", 1),
    2: (1, "101127", 1),
    3: (2, "MR024780B", 2),
    4: (2, "MR024780D", 3),
    5: (3, "999999", 5),
}
COUNTS = {"All": {"glioma": 2, "meningioma": 2, "pituitary": 1}}
HEIGHT, WIDTH = 40, 32


def _mat(**arrays: np.ndarray) -> bytes:
    """A MATLAB 7.3 file: 512 bytes of header, then HDF5 with every array transposed."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file.create_dataset(name.replace("__", "/"), data=values.T)
    content = bytearray(stream.getvalue())
    head = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Fri Aug 21 10:11:13 2015 HDF5"
    content[:128] = head.ljust(116) + bytes(8) + b"\x00\x02IM"
    return bytes(content)


def _image(number: int) -> np.ndarray:
    """Rows and columns differ, and the values need more than 8 bits."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (number * 1000 + 300 * rows + columns).astype(np.int16)


def _slice(number: int, **changes: np.ndarray) -> bytes:
    label, identifier, _ = SLICES[number]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:10, 20:30] = 1
    content = {
        "PID": np.array([[ord(letter) for letter in identifier]], np.uint16),
        "image": _image(number),
        "label": np.array([[float(label)]]),
        "tumorBorder": np.array([[20.0, 4.0, 30.0, 10.0]]).T,
        "tumorMask": mask,
    }
    return _mat(**{f"cjdata__{name}": values for name, values in (content | changes).items()})


def _folds() -> bytes:
    return _mat(cvind=np.array([[float(fold) for _, _, fold in SLICES.values()]]).T)


def _packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figshare, "KNOWN_COUNTS", COUNTS)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mats(tmp_path: Path) -> Path:
    folder = tmp_path / "mats"
    folder.mkdir()
    for number in SLICES:
        (folder / f"{number}.mat").write_bytes(_slice(number))
    (folder / "cvind.mat").write_bytes(_folds())
    return folder


def test_files_become_a_folder_with_known_pixels_patients_folds_and_masks(
    mats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "--source", "figshare", "--from", str(mats)]) == 0
    told = capsys.readouterr().out
    assert told.index("Licence:  CC BY 4.0") < told.index("Size:     about") < told.index("All:")
    assert "All:      5 images: 2 glioma, 2 meningioma, 1 pituitary" in told
    assert "Counts:   as published" in told
    assert "3 patients, 4 examinations." in told
    assert "has 1 patients in more than one fold" in told
    assert "1 images have no fold in patients.csv" in told
    data = tmp_path / "data"
    assert sorted(path.name for path in data.iterdir()) == [
        *("glioma", "manifest.json", "masks", "meningioma", "patients.csv"),
        *("pituitary", "published-folds.csv"),
    ]
    with Image.open(data / "glioma/0003.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), _image(3))
    assert (data / "patients.csv").read_text().splitlines()[:4] == [
        "path,label,patient,examination,site,run,fold",
        "glioma/0003.png,glioma,MR024780,MR024780B,letters,5,0",
        "glioma/0004.png,glioma,MR024780,MR024780D,letters,5,0",
        "meningioma/0001.png,meningioma,101127,101127,digits,3,3",
    ]
    assert (data / "published-folds.csv").read_text().splitlines()[1:3] == [
        "glioma/0003.png,glioma,MR024780,MR024780B,letters,1",
        "glioma/0004.png,glioma,MR024780,MR024780D,letters,2",
    ]
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["licence"].startswith("CC BY 4.0")
    assert manifest["source"] == figshare.PAGE


def test_folder_is_read_by_what_trains_explains_and_splits(mats: Path, tmp_path: Path) -> None:
    made = tumorlens.download(source="figshare", from_dir=mats)
    data = made.data_dir
    assert scan(data).classes == ("glioma", "meningioma", "pituitary")
    found = resolve(data, data / "patients.csv", fold=3)
    assert {file.path: file.split for file in found.folder.files} == {
        **dict.fromkeys(("meningioma/0001.png", "meningioma/0002.png"), "test"),
        **dict.fromkeys(("glioma/0003.png", "glioma/0004.png"), "train"),
    }
    region = read_boxes(data / "masks").region("pituitary/0005.png", HEIGHT, WIDTH)
    rows, columns = np.nonzero(region)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 9, 20, 29)
    published = resolve(data, data / "published-folds.csv", fold=1)
    paths, splits = zip(*((file.path, file.split) for file in published.folder.files), strict=True)
    shown = published.patients.of(paths, None)
    with pytest.raises(TumorlensError, match="1 patient is in more than one split.* MR024780"):
        check_overlap(shown.names, np.array(splits), "published-folds.csv", allowed=False)


def test_second_call_reads_nothing_and_another_set_is_refused(mats: Path, tmp_path: Path) -> None:
    assert tumorlens.download(source="figshare", from_dir=mats).fetched
    shutil.rmtree(mats)
    assert not tumorlens.download(source="figshare", from_dir=mats).fetched
    with pytest.raises(TumorlensError, match="^out data: has the other set in it"):
        tumorlens.download()


def test_archives_in_an_archive_are_read_and_parts_of_the_set_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = _packed({"1.mat": _slice(1), "2.mat": _slice(2), "__MACOSX/._1.mat": b"x"})
    (tmp_path / "1512427.zip").write_bytes(_packed({"a.zip": inner, "README.txt": b"read me"}))
    assert main(["download", "--source", "figshare", "--from", "1512427.zip"]) == 0
    told = capsys.readouterr().out
    assert "Counts:   not those of the whole set" in told
    assert "There is no cvind.mat, so published-folds.csv is not written." in told
    assert [path.name for path in sorted(Path("data/meningioma").iterdir())] == [
        "0001.png",
        "0002.png",
    ]


def test_empty_mask_and_values_below_zero_are_told(mats: Path) -> None:
    changed = {"image": _image(5) - np.int16(5005), "tumorMask": np.zeros((HEIGHT, WIDTH))}
    (mats / "5.mat").write_bytes(_slice(5, **changed))
    made = tumorlens.download(source="figshare", from_dir=mats)
    assert made.notes[-2] == "1 images have no mask: theirs marks nothing."
    assert made.notes[-1].startswith("1 images had values below 0")
    assert not Path("data/masks/pituitary").exists()
    with Image.open("data/pituitary/0005.png") as image:
        assert np.asarray(image).min() == 0
        assert np.ptp(np.asarray(image)) == np.ptp(_image(5))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("5.mat", lambda: b"MATLAB 5.0 MAT-file", "5.mat: is no MATLAB 7.3 file"),
        ("5.mat", lambda: _mat(other=np.zeros((2, 2))), "5.mat: is no slice of the set"),
        ("5.mat", lambda: _slice(5, label=np.array([[4.0]])), "5.mat: is no slice of the set"),
        ("5.mat", lambda: _slice(5, tumorMask=np.zeros((3, 3))), r"\(40, 32\) int16 and a mask of"),
        ("5.mat", lambda: _slice(5, image=_image(5) / 2), "expected whole numbers of 16 bits"),
        ("notes.mat", lambda: b"", "notes.mat: is named neither by a number nor cvind.mat"),
        ("05.mat", lambda: _slice(5), "mats/5.mat: is there as .*mats/05.mat too"),
        ("6.zip", lambda: b"PK", "mats: cannot be read .*not a zip file"),
        ("6.mat", lambda: _slice(5), "6.mat: cvind.mat has 5 slices alone"),
        ("cvind.mat", lambda: _mat(cvind=np.array([[9.0] * 5])), "expected 1 to 5"),
        ("cvind.mat", lambda: _mat(folds=np.array([[1.0] * 5])), "cvind.mat: has no folds"),
    ],
)
def test_file_that_is_none_of_the_set_is_one_sentence_and_leaves_nothing(
    mats: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: Callable[[], bytes],
    told: str,
) -> None:
    (mats / name).write_bytes(content())
    with pytest.raises(TumorlensError, match=f"^from_dir .*{told}"):
        tumorlens.download(source="figshare", from_dir=mats)
    assert main(["download", "--source", "figshare", "--from", str(mats)]) == 2
    assert capsys.readouterr().err.startswith("tumorlens download: --from ")
    assert [path.name for path in tmp_path.iterdir()] == ["mats"]


def test_nothing_to_read_and_flags_of_the_other_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, told in (("empty", "has no slice"), ("nowhere", "there is no such folder")):
        with pytest.raises(TumorlensError, match=f"^from_dir {folder}: {told}"):
            tumorlens.download(source="figshare", from_dir=folder)
    with pytest.raises(ValueError, match="^from_dir needs source figshare"):
        tumorlens.download(from_dir="empty")
    with pytest.raises(ValueError, match="^version 2: needs source kaggle"):
        tumorlens.download(source="figshare", version=2)


def test_interruption_leaves_nothing(mats: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tumorlens.download(source="figshare", from_dir=mats, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["mats"]


class Figshare(ThreadingHTTPServer):
    """Gives the files, and breaks off in the middle of the first as often as `breaks` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {
            "/1": _packed({f"{number}.mat": _slice(number) for number in SLICES}),
            "/2": _folds(),
        }
        self.breaks = 0
        self.asked: list[tuple[str, str]] = []


class _Answer(BaseHTTPRequestHandler):
    server: Figshare

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append((self.path, asked))
        body = self.server.files[self.path][int(asked[6:-1] or 0) if asked else 0 :]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Figshare]:
    found = Figshare()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setattr(figshare, "URL", f"http://127.0.0.1:{found.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sums = {path: hashlib.md5(content).hexdigest() for path, content in found.files.items()}
    sizes = {path: len(content) for path, content in found.files.items()}
    files = {"1-5.zip": (1, sizes["/1"], sums["/1"]), "cvind.mat": (2, sizes["/2"], sums["/2"])}
    monkeypatch.setattr(figshare, "FILES", files)
    yield found
    found.shutdown()
    found.server_close()


def test_set_is_fetched_and_its_archives_are_gone_when_all_is_made(server: Figshare) -> None:
    made = tumorlens.download(source="figshare")
    assert made.checked
    assert server.asked == [("/1", ""), ("/2", "")]
    assert not Path("data/.download").exists()


def test_broken_line_is_told_and_the_next_command_goes_on(server: Figshare) -> None:
    server.breaks = 1
    with pytest.raises(TumorlensError, match="line broke .* goes on where it stopped"):
        tumorlens.download(source="figshare")
    half = len(server.files["/1"]) // 2
    assert tumorlens.download(source="figshare").counts == COUNTS
    assert server.asked[1:] == [("/1", f"bytes={half}-"), ("/2", "")]


def test_damaged_archive_is_deleted_and_told(server: Figshare, tmp_path: Path) -> None:
    server.files["/1"] = bytes(len(server.files["/1"]))
    with pytest.raises(TumorlensError, match="1-5.zip came damaged"):
        tumorlens.download(source="figshare")
    assert not (tmp_path / "data").exists()


def test_no_network_is_one_sentence_and_leaves_nothing(server: Figshare, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(TumorlensError, match="figshare cannot be reached"):
        tumorlens.download(source="figshare")
    assert not (tmp_path / "data").exists()


def test_missing_h5py_is_one_sentence_before_anything_is_fetched(
    server: Figshare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(TumorlensError, match=r"pip install 'tumorlens\[figshare\]'"):
        tumorlens.download(source="figshare")
    assert server.asked == []
    assert not (tmp_path / "data").exists()


def test_counts_and_bytes_are_those_of_the_published_set() -> None:
    assert sum(size for _, size, _ in figshare.FILES.values()) == 879_499_062
