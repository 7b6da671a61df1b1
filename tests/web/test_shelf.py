import numpy as np

from tumorlens.data.volumes import Scan
from tumorlens.web.shelf import Shelf


def _volume(size: int) -> Scan:
    return Scan(np.zeros((1, 1, size), np.uint8), "volume")


def test_ticket_gets_back_what_was_put() -> None:
    shelf, volume = Shelf(), _volume(10)
    ticket = shelf.put(volume)
    assert shelf.get(ticket) is volume
    shelf.drop(ticket)
    assert shelf.get(ticket) is None


def test_fullest_shelf_drops_what_was_used_longest_ago() -> None:
    shelf = Shelf(most_bytes=250)
    first, second = shelf.put(_volume(100)), shelf.put(_volume(100))
    assert shelf.get(first) is not None
    third = shelf.put(_volume(100))
    assert [shelf.get(ticket) is None for ticket in (first, second, third)] == [False, True, False]


def test_what_nobody_asks_for_is_dropped() -> None:
    shelf = Shelf(seconds=-1)
    assert shelf.get(shelf.put(_volume(10))) is None


def test_shelf_holds_no_more_than_so_many_however_small() -> None:
    shelf = Shelf(most=2)
    tickets = [shelf.put(_volume(1)) for _ in range(3)]
    assert [shelf.get(ticket) is None for ticket in tickets] == [True, False, False]
