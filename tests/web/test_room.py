import os
import stat
from pathlib import Path

import pytest

from tumorlens.errors import TumorlensError
from tumorlens.web.room import Room


def test_room_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        room = Room(1, tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(room.path.stat().st_mode) == 0o700


def test_what_a_crashed_server_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    left = Room(1, tmp_path).path / "hash" / "slice.png"
    left.parent.mkdir()
    left.write_bytes(b"slice")
    assert list(Room(1, tmp_path).path.iterdir()) == []


def test_file_is_taken_once(tmp_path: Path) -> None:
    room = Room(1, tmp_path)
    place = room.path / "slice"
    place.write_bytes(b"slice")
    assert room.take(place) == b"slice"
    assert list(room.path.iterdir()) == []
    with pytest.raises(TumorlensError, match="upload the file again"):
        room.take(place)


def test_nothing_outside_of_the_room_is_read(tmp_path: Path) -> None:
    room = Room(1, tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    link = room.path / "link"
    link.symlink_to(secret)
    for place in (secret, room.path / ".." / "secret", link):
        with pytest.raises(TumorlensError, match="not uploaded here"):
            room.take(place)
    assert secret.read_bytes() == b"secret"


def test_sweep_takes_what_is_old_alone(tmp_path: Path) -> None:
    room = Room(1, tmp_path)
    for name, age in (("old", 1000), ("new", 0)):
        (room.path / name).mkdir()
        when = (room.path / name).stat().st_mtime - age
        os.utime(room.path / name, (when, when))
    room.sweep(older_than=100)
    assert [entry.name for entry in room.path.iterdir()] == ["new"]
    room.close()
    assert not room.path.exists()


def test_link_in_the_rooms_place_is_refused(tmp_path: Path) -> None:
    room = Room(1, tmp_path)
    room.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine", encoding="utf-8")
    room.path.symlink_to(elsewhere)
    with pytest.raises(TumorlensError, match="cannot be made"):
        Room(1, tmp_path)
    assert (elsewhere / "mine").exists()
