import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data import cache
from tumorlens.data.fingerprint import fingerprint
from tumorlens.data.readers import fit_square, read_grey


def _paths(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def test_second_load_decodes_nothing_and_gives_the_same(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 3})
    paths = _paths(root)
    first, second = cache.load(root, paths, 32), cache.load(root, paths, 32)
    assert (first.decoded, second.decoded) == (12, 0)
    assert isinstance(second.images, np.memmap)
    for name in ("images", "fingerprints", "digests"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.facts == second.facts
    grey = read_grey(root / paths[5])
    np.testing.assert_array_equal(second.images[5], fit_square(grey, 32))
    np.testing.assert_array_equal(second.fingerprints[5], fingerprint(grey))


def test_changed_file_and_other_size_are_decoded_anew(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    cache.load(root, paths, 32)
    assert cache.load(root, paths, 40).decoded == 8
    changed = root / paths[3]
    before = changed.stat()
    Image.new("L", (48, 48), 77).save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # its age does not give it away
    again = cache.load(root, paths, 32)
    assert again.decoded == 8
    assert (again.images[3] == 77).all()


def test_byte_identical_files_have_equal_digests(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    (root / "copy.png").write_bytes((root / paths[0]).read_bytes())
    digests = cache.load(root, [*paths, "copy.png"], 32).digests
    assert (digests[-1] == digests[0]).all()
    assert not (digests[-1] == digests[1]).all()


def test_unreadable_file_is_named_and_its_row_is_black(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    (root / paths[1]).write_text("no picture")
    for _ in range(2):  # decoded, and from the cache
        cached = cache.load(root, [*paths, "gone.png"][:8], 32)
        assert list(cached.faults) == [paths[1]]
        assert cached.facts[1] is None
        assert not cached.images[1].any()
    missing = cache.load(root, [*paths, "gone.png"], 32)
    assert set(missing.faults) == {paths[1], "gone.png"}


def test_work_goes_on_from_memory_where_the_cache_cannot_be_written(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 2})
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    monkeypatch.setenv("TUMORLENS_CACHE", str(in_the_way))
    cached = cache.load(root, _paths(root), 32)
    assert "cannot be written" in cached.note
    assert cached.images.any()


def test_full_disk_leaves_nothing_half_written(
    make_folder: Callable[..., Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 2})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    cached = cache.load(root, _paths(root), 32)
    assert "No space left on device" in cached.note
    assert list((own_cache / "images").iterdir()) == []


def test_damaged_entry_is_made_anew(make_folder: Callable[..., Path], own_cache: Path) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    cache.load(root, paths, 32)
    (entry,) = (own_cache / "images").iterdir()
    (entry / "images.npy").write_bytes(b"damaged")
    assert cache.load(root, paths, 32).decoded == 8
    assert cache.load(root, paths, 32).decoded == 0


def test_two_processes_that_start_at_once_get_the_same(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 6})
    script = (
        "import sys, pathlib; from tumorlens.data import cache\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "paths = sorted(p.relative_to(root).as_posix() for p in root.rglob('*.png'))\n"
        "print(int(cache.load(root, paths, 40).images.sum()))"
    )
    command = [sys.executable, "-c", script, str(root)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sums[0] == sums[1] == str(int(cache.load(root, _paths(root), 40).images.sum()))
    assert cache.contents()[0] == 1


def test_clear_removes_our_entries_and_nothing_else(
    make_folder: Callable[..., Path], own_cache: Path
) -> None:
    root = make_folder({"train": 2})
    cache.load(root, _paths(root), 32)
    (own_cache / "somebody_elses.txt").write_text("keep me")
    entries, size = cache.clear()
    assert entries == 1
    assert size > 8 * 32 * 32
    assert cache.contents() == (0, 0)
    assert (own_cache / "somebody_elses.txt").exists()
