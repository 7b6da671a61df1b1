import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data import cache, cache_file
from tumorlens.data.hashing import fingerprint
from tumorlens.data.readers import fit_square, read_grey, read_grey_with_facts
from tumorlens.errors import TumorlensError


def _paths(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def _same(one: cache.CachedImages, other: cache.CachedImages) -> bool:
    arrays = ("images", "fingerprints", "digests")
    return (one.facts, one.faults) == (other.facts, other.faults) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def test_second_load_decodes_nothing_and_gives_the_same(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 3})
    paths = _paths(root)
    first, second = cache.load(root, paths, 32), cache.load(root, paths, 32)
    assert (first.decoded, second.decoded) == (12, 0)
    assert first.note == second.note == ""
    assert _same(first, second)
    grey, facts = read_grey_with_facts(root / paths[5])
    np.testing.assert_array_equal(second.images[5], fit_square(grey, 32))
    np.testing.assert_array_equal(second.fingerprints[5], fingerprint(grey))
    assert second.facts[5] == facts


def test_changed_file_is_decoded_by_itself(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    before = cache.load(root, paths, 32)
    changed = root / paths[3]
    age = changed.stat()
    Image.fromarray(np.tile(np.uint8([76, 78]), (48, 24))).save(changed)
    os.utime(changed, ns=(age.st_atime_ns, age.st_mtime_ns))  # its age does not give it away
    after = cache.load(root, paths, 32)
    assert after.decoded == 1
    assert set(np.unique(after.images[3])) <= {76, 77, 78}
    rest = np.arange(8) != 3
    np.testing.assert_array_equal(after.images[rest], before.images[rest])


def test_part_of_what_was_loaded_is_not_decoded_again(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2, "test": 1})
    paths = _paths(root)
    whole = cache.load(root, paths, 32)
    test = [index for index, path in enumerate(paths) if path.startswith("test/")]
    split = cache.load(root, [paths[index] for index in reversed(test)], 32)
    assert split.decoded == 0
    np.testing.assert_array_equal(split.images, whole.images[test][::-1])


def test_other_size_is_decoded_anew_to_the_same_fingerprints(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    small, large = cache.load(root, paths, 32), cache.load(root, paths, 40)
    assert large.decoded == 8
    assert large.images.shape == (8, 40, 40)
    np.testing.assert_array_equal(small.fingerprints, large.fingerprints)
    assert cache.load(root, paths, 32).decoded == cache.load(root, paths, 40).decoded == 0
    assert cache.contents()[0] == 16


def test_renamed_and_byte_identical_files_share_an_entry(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    (root / "copy.png").write_bytes((root / paths[0]).read_bytes())
    with_near_duplicate = cache.load(root, [*paths, "copy.png"], 32)
    assert with_near_duplicate.decoded == 8
    for name in ("images", "fingerprints", "digests"):
        values = getattr(with_near_duplicate, name)
        np.testing.assert_array_equal(values[-1], values[0])
        assert not np.array_equal(values[-1], values[1])
    assert with_near_duplicate.facts[-1] == with_near_duplicate.facts[0]
    (root / "copy.png").rename(root / "renamed.png")
    assert cache.load(root, ["renamed.png"], 32).decoded == 0


def test_many_files_come_in_the_order_asked_for(tmp_path: Path) -> None:
    greys = list(range(256)) * 5  # more than are read or written at once
    for number, grey in enumerate(greys):
        image = np.full((1 + number // 256, 2), grey, np.uint8)
        image[:, 1] = (grey + 128) % 256
        Image.fromarray(image).save(tmp_path / f"{number}.bmp")
    paths = [f"{number}.bmp" for number in np.random.default_rng(0).permutation(len(greys))]
    for decoded in (1280, 0):
        cached = cache.load(tmp_path, paths, 5)
        assert cached.decoded == decoded
        brightest = cached.images.max(axis=(1, 2))
        expected = [
            max(greys[int(path[:-4])], (greys[int(path[:-4])] + 128) % 256) for path in paths
        ]
        np.testing.assert_array_equal(brightest, expected)
        assert [fact and fact.height for fact in cached.facts] == [
            1 + int(path[:-4]) // 256 for path in paths
        ]


def test_unreadable_file_is_named_and_its_row_is_black(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    for path in paths[1:3]:
        (root / path).write_text("no image")
    for decoded in (6, 0):  # decoded, and from the cache
        cached = cache.load(root, [*paths, "gone.png"], 32)
        assert cached.decoded == decoded
        assert sorted(cached.faults) == ["gone.png", *paths[1:3]]
        for path, sentence in cached.faults.items():
            assert sentence.startswith(f"{root / path}: ")
        assert "no such file" in cached.faults["gone.png"]
        assert cached.facts[1] is cached.facts[2] is cached.facts[8] is None
        assert not cached.images[[1, 2, 8]].any()
        assert not cached.digests[8].any()


def test_file_that_changes_while_it_is_read_is_a_fault_and_not_kept(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"train": 1})
    paths = _paths(root)

    def replace(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "reading":
            Image.linear_gradient("L").save(root / paths[0])

    cached = cache.load(root, paths, 32, replace)
    assert list(cached.faults) == [paths[0]]
    assert "changed while it was read" in cached.faults[paths[0]]
    assert cache.contents()[0] == 3


def test_interrupted_decode_keeps_what_was_done(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 20})

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "decoding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load(root, _paths(root), 32, interrupt)
    assert cache.contents()[0] == 64  # where progress is first told of
    assert cache.load(root, _paths(root), 32).decoded == 16


def test_least_recently_used_are_evicted_above_the_bound(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, used, new = (
        make_folder({"train": 2}, name=name, size=side)
        for name, side in (("old", 40), ("used", 44), ("new", 48))
    )
    hours = iter(range(1000))
    monkeypatch.setattr(cache_file, "_hour", lambda: next(hours))
    monkeypatch.setenv("TUMORLENS_CACHE_SIZE", str(18 * 32 * 32))
    for root, decoded in ((old, 8), (used, 8), (old, 0), (used, 0)):
        assert cache.load(root, _paths(root), 32).decoded == decoded
    cache.load(old, _paths(old)[:4], 32)
    bytes_before = cache.contents()[1]
    assert cache.load(new, _paths(new), 32).decoded == 8
    assert cache.contents()[0] == 18
    assert cache.contents()[1] <= bytes_before + 3 * 4096  # the room was given back
    assert cache.load(old, _paths(old)[:4], 32).decoded == 0
    assert cache.load(new, _paths(new), 32).decoded == 0
    assert cache.load(used, _paths(used), 32).decoded == 2


def test_present_call_is_never_evicted_and_the_room_of_the_rest_is_given_back(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    cache.load(root, paths, 200)
    assert cache.contents()[1] > 8 * 200 * 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORLENS_CACHE_SIZE", "1K")
        cache.load(root, paths, 32)
        assert cache.load(root, paths, 32).decoded == 0
        cache.load(root, paths[:3], 40)
        entries, size = cache.contents()
        assert entries == 3
        assert size < 60_000
    assert cache.load(root, paths, 32).decoded == 8


@pytest.mark.parametrize(
    ("named", "size"),
    [("", 8 << 30), ("1000", 1000), ("2G", 2 << 30), ("1.5 kb", 1536), ("3MiB", 3 << 20)],
)
def test_size_of_the_cache_is_read_with_its_unit(
    named: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUMORLENS_CACHE_SIZE", named)
    assert cache.size_bound() == size


@pytest.mark.parametrize("named", ["much", "-1", "2 X", "G", "1e9", "nan"])
def test_size_that_is_none_is_refused(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUMORLENS_CACHE_SIZE", named)
    with pytest.raises(TumorlensError, match=f"TUMORLENS_CACHE_SIZE: found `{named}`, expected"):
        cache.load(Path(), [], 32)


def test_work_goes_on_from_memory_where_there_is_no_folder_to_write(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 2})
    expected = cache.load(root, _paths(root), 32)
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    monkeypatch.setenv("TUMORLENS_CACHE", str(in_the_way))
    cached = cache.load(root, _paths(root), 32)
    assert "cannot be used" in cached.note
    assert "going on from memory" in cached.note
    assert _same(cached, expected)


def test_file_that_cannot_be_written_is_read_all_the_same(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    cache.load(root, paths[:6], 32)
    connect = sqlite3.connect

    def read_only(path: Path, **settings: object) -> sqlite3.Connection:
        return connect(f"{path.as_uri()}?mode=ro", uri=True, **settings)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    monkeypatch.setattr(cache_file, "_hour", lambda: 10**6)  # what was read would be stamped
    there = cache.load(root, paths[:6], 32)
    assert (there.decoded, there.note) == (0, "")
    more = cache.load(root, paths, 32)
    assert more.decoded == 2
    assert "readonly" in more.note


def test_full_disk_leaves_nothing_half_written(
    make_folder: Callable[..., Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    cache.load(root, paths[:1], 32)
    connect = sqlite3.connect

    def full(path: Path, **settings: object) -> sqlite3.Connection:
        database = connect(path, **settings)
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        return database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        cached = cache.load(root, paths, 32)
    assert "disk is full" in cached.note
    assert cached.decoded == 7
    assert cache.contents()[0] == 1
    assert cache.load(root, paths, 32).decoded == 7


def test_locked_file_is_waited_for_and_then_done_without(
    make_folder: Callable[..., Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 2})
    expected = cache.load(root, _paths(root), 32)
    monkeypatch.setattr(cache_file, "_BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect(own_cache / cache_file.NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        cached = cache.load(root, _paths(root), 32)
    assert "locked" in cached.note
    assert cached.decoded == 8
    assert _same(cached, expected)


def test_file_that_is_no_database_is_made_anew(
    make_folder: Callable[..., Path], own_cache: Path
) -> None:
    root = make_folder({"train": 2})
    paths = _paths(root)
    (own_cache / cache_file.NAME).write_bytes(b"damaged" * 1000)
    assert cache.contents() == (0, 7000)
    cached = cache.load(root, paths, 32)
    assert cached.decoded == 8
    assert "made anew" in cached.note
    again = cache.load(root, paths, 32)
    assert (again.decoded, again.note) == (0, "")


def test_database_damaged_inside_is_made_anew(
    make_folder: Callable[..., Path], own_cache: Path
) -> None:
    root = make_folder({"train": 20})
    paths = _paths(root)
    expected = cache.load(root, paths, 32)
    file = own_cache / cache_file.NAME
    content = file.read_bytes()
    file.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    cached = cache.load(root, paths, 32)
    assert cached.decoded == 80
    assert "made anew" in cached.note
    assert _same(cached, expected)
    assert cache.load(root, paths, 32).decoded == 0


def test_processes_that_start_at_once_get_the_same(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train": 80})
    script = (
        "import hashlib, pathlib, sys; from tumorlens.data import cache\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "paths = sorted(p.relative_to(root).as_posix() for p in root.rglob('*.png'))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "cached = cache.load(root, paths, 40)\n"
        "print(hashlib.sha256(cached.images.tobytes()).hexdigest(), repr(cached.note))"
    )
    command = [sys.executable, "-c", script, str(root)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0][1] == "''"
    assert cache.contents()[0] == 320
    assert cache.load(root, _paths(root), 40).decoded == 0


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_file_can_be_written_by_whom_the_umask_lets(
    make_folder: Callable[..., Path], own_cache: Path
) -> None:
    root = make_folder({"train": 1})
    before = os.umask(0o002)
    try:
        cache.load(root, _paths(root), 32)
    finally:
        os.umask(before)
    assert (own_cache / cache_file.NAME).stat().st_mode & 0o777 == 0o664


def test_clear_removes_our_entries_and_nothing_else(
    make_folder: Callable[..., Path], own_cache: Path
) -> None:
    root = make_folder({"train": 2})
    cache.load(root, _paths(root), 32)
    (own_cache / "somebody_elses.txt").write_text("keep me")
    entries, size = cache.clear()
    assert entries == 8
    assert size > 8 * 32 * 32
    assert cache.contents() == (0, 0)
    assert [path.name for path in own_cache.iterdir()] == ["somebody_elses.txt"]
    assert cache.clear() == (0, 0)


def test_threads_that_decode_leave_the_warning_filters_alone(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(200)]
    for path in paths:
        Image.linear_gradient("L").save(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_grey, paths))
    assert warnings.filters == before
    cache.load(tmp_path, [path.name for path in paths], 8)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)


def test_warning_filters_are_changed_by_the_calling_thread_alone(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_by = set()

    class Watched(warnings.catch_warnings):
        def __enter__(self) -> object:
            changed_by.add(threading.get_ident())
            return super().__enter__()

    root = make_folder({"train": 2})
    monkeypatch.setattr(warnings, "catch_warnings", Watched)
    cache.load(root, _paths(root), 32)
    assert changed_by == {threading.get_ident()}


def test_pillow_warns_nobody_of_a_picture_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    monkeypatch.setattr("tumorlens.data.readers.MAX_PIXELS", 5000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached = cache.load(tmp_path, ["large.png"], 8)
        assert "has 0.010 megapixels" in cached.faults["large.png"]
        with pytest.raises(TumorlensError, match=r"large\.png: .*decompression bomb"):
            read_grey(tmp_path / "large.png")
