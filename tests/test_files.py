import errno
import gzip
import json
import math
import os
import subprocess
import sys
import threading
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_is_written_through_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "table.csv"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "a,b\n1,2\n")
    reader.join(timeout=10)
    assert read == ["a,b\n1,2\n"]
    assert pipe.is_fifo()
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for target in ("real/there.json", "real/new.json"):
        link = tmp_path / Path(target).name
        if target.endswith("there.json"):
            (tmp_path / target).write_text("old")
        link.symlink_to(tmp_path / target)
        write_json(link, [1])
        assert link.is_symlink()
        assert json.loads((tmp_path / target).read_text()) == [1]
    assert sorted(item.name for item in (tmp_path / "real").iterdir()) == ["new.json", "there.json"]


def test_what_a_shell_has_opened_is_added_to(tmp_path: Path) -> None:
    script = "from pathlib import Path; from tumorlens.files import write_text\n"
    script += "print('first', flush=True); write_text(Path('/dev/stdout'), 'second\\n')"
    if not Path("/dev/stdout").exists():
        pytest.skip("no /dev/stdout here")
    with (tmp_path / "out.txt").open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out.txt").read_text() == "first\nsecond\n"


def test_windows_flushes_only_files_that_are_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="handles are asked for by POSIX")
    flush = os.fsync
    flushed = []

    def of_windows(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(handle)
        flush(handle)

    monkeypatch.setattr(os, "fsync", of_windows)
    write_text(tmp_path / "a.txt", "written")
    assert len(flushed) == 1
    assert (tmp_path / "a.txt").read_text() == "written"


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EACCES, "Permission denied"), (errno.ENOSPC, "No space left")]
)
def test_file_that_another_program_holds_or_no_room_is_one_sentence_and_leaves_the_old(
    code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def refused(self: Path, target: Path) -> None:  # as Windows does while Excel has it open
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(TumorlensError, match=rf"table\.csv: cannot be written \({words}"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_full_disk_within_the_block_is_one_sentence_and_others_faults_pass(tmp_path: Path) -> None:
    def write(error: OSError) -> None:
        with replacing(tmp_path / "a.bin") as beside:
            beside.write_bytes(b"half")
            raise error

    for code in (errno.ENOSPC, errno.EFBIG):
        with pytest.raises(TumorlensError, match=r"a\.bin: cannot be written .*free some room"):
            write(OSError(code, os.strerror(code)))
    with pytest.raises(FileNotFoundError):  # of an input
        write(FileNotFoundError(errno.ENOENT, "No such file", "/somewhere/else.png"))
    assert list(tmp_path.iterdir()) == []


def test_names_may_be_long_and_paths_no_utf8(tmp_path: Path) -> None:
    longest = tmp_path / ("n" * 251 + ".csv")
    write_text(longest, "x")
    assert longest.read_text() == "x"
    with pytest.raises(TumorlensError, match="cannot be written"):
        write_text(tmp_path / ("n" * 300), "x")
    with pytest.raises(TumorlensError, match="it is a folder"):
        write_text(tmp_path, "x")
    (tmp_path / "file").touch()
    with pytest.raises(TumorlensError, match=r"below\.csv: cannot be written"):
        write_text(tmp_path / "file" / "below.csv", "x")
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "a.json", {"path": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": name}
    write_text(tmp_path / "a.csv.gz", f"{name},café\n")
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).decode() == "caf\\udce9.png,café\n"


def test_umask_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(
            os, "umask", lambda mask: pytest.fail("other threads would write by it")
        )
        write_text(tmp_path / "a.txt", "x")
    finally:
        monkeypatch.undo()
        os.umask(before)
    if os.name == "posix":
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
