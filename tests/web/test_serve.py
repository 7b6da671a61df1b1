import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tumorlens.cli import main
from tumorlens.errors import TumorlensError
from tumorlens.settings import ServeSettings
from tumorlens.web.serve import serve

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")


@pytest.fixture
def web_soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, of which a tenth is enough here."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import web_soak

    return web_soak


@pytest.fixture
def process(
    web_soak: Any, networks: Path, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address; `tmp_path` is for its temporary files."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    server, address = web_soak.served(networks / "resnet18.pt", environment)
    yield server, address
    server.kill()
    server.wait()
    server.stdout.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_200_mixed_requests_are_answered_within_bounded_memory_and_leave_nothing(
    web_soak: Any, process: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    server, address = process
    kinds = web_soak.cases()
    warm_up, rest = kinds[::4], [*kinds, *kinds][:200]
    assert len(list(web_soak.soak(address, warm_up, seed=0))) == len(warm_up)
    before = web_soak.resident(server.pid)
    found = list(web_soak.soak(address, rest, seed=1))
    wrong = {case.name: got for case, got, _ in found if not re.search(case.expected, got)}
    assert wrong == {}
    assert sum(case.hostile for case, _, _ in found) >= 60
    assert server.poll() is None
    # Each bomb alone would be 0.1 to 2.5 GB.
    assert web_soak.resident(server.pid) < 1.1 * before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_end_during_an_upload_leaves_nothing_behind(
    process: tuple[subprocess.Popen[str], str],
    tmp_path: Path,
    how: signal.Signals,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server, address = process
    assert server.stdout is not None
    port = int(address.rsplit(":", 1)[1])
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as line:
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1500000\r\n\r\n"
        line.sendall(head.encode() + bytes(1_200_000))
        server.send_signal(how)
        assert server.wait(30) == 0
    assert server.stdout.read().endswith("Ended.\n")
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_taken_port_is_told_and_the_server_leaves_no_thread(settings: ServeSettings) -> None:
    before = threading.active_count()
    with serve(settings) as server:
        port = int(server.address.rsplit(":", 1)[1])
        with (
            pytest.raises(TumorlensError, match=f"--port {port}: cannot be served"),
            serve(replace(settings, port=port)),
        ):
            pass
        server.stop()
        server.wait()
    assert threading.active_count() == before


def test_address_names_the_path_of_the_proxy(settings: ServeSettings) -> None:
    with serve(replace(settings, root_path="/lens/")) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/lens", server.address)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--root_path", "lens"], "--root_path lens: expected the path alone"),
        (["--root_path", "https://example.org/lens"], "expected the path alone"),
        (["--allowed_host", "https://example.org"], "without https:// and port"),
        (["--allowed_host", "example.org:80"], "without https:// and port"),
        (["--port", "70000"], "--port 70000: expected 65535 or less"),
        (["--layer", "layer9"], "--layer layer9: the network has no such layer"),
    ],
)
def test_wrong_flag_gets_a_sentence(
    words: list[str], sentence: str, networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(networks / "resnet18.pt")
    port = [] if "--port" in words else ["--port", "0"]
    assert main(["serve", "--checkpoint", checkpoint, *port, *words]) == 2
    assert sentence in capsys.readouterr().err


def test_names_that_a_server_is_reached_by() -> None:
    here = {"127.0.0.1", "localhost", "::1"}
    checkpoint = Path("any.pt")
    assert ServeSettings(checkpoint).host_names == here
    assert ServeSettings(checkpoint, allowed_host=("Page.Org",)).host_names == here | {"page.org"}
    assert ServeSettings(checkpoint, host="0.0.0.0").host_names is None
    assert "page.org" in (
        ServeSettings(checkpoint, host="0.0.0.0", allowed_host=("page.org",)).host_names or ()
    )
