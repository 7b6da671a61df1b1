"""The web server: a socket, a private folder, a gate, and Gradio behind it."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tumorlens.device import cpu_threads
from tumorlens.errors import TumorlensError
from tumorlens.settings import ServeSettings
from tumorlens.web.gate import Gate
from tumorlens.web.room import Room
from tumorlens.web.uploads import Limits

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SECONDS_BETWEEN_SWEEPS = 30.0


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Attributes:
        address: what a browser opens.
        room: its private folder.
        wait: returns when the server has ended.
        stop: ends it.
    """

    address: str
    room: Room
    wait: Callable[[], None]
    stop: Callable[[], None]


@contextlib.contextmanager
def serving(settings: ServeSettings) -> Iterator[Serving]:
    """Serve the page for as long as the context lasts.

    Raises:
        TumorlensError: faults of the checkpoints, a port that is taken, or the extra `web` is not
            installed.
    """
    listening = _listen(settings)
    port = int(listening.getsockname()[1])
    with contextlib.closing(listening):
        room = Room(port)
        try:
            with cpu_threads(settings.threads):
                yield from _serve(settings, listening, room, port)
        finally:
            room.close()


def _serve(
    settings: ServeSettings, listening: socket.socket, room: Room, port: int
) -> Iterator[Serving]:
    _quiet(room)
    try:
        import fastapi  # noqa: PLC0415 (an extra)
        import gradio  # noqa: PLC0415
        import uvicorn  # noqa: PLC0415

        from tumorlens.web import page  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TumorlensError(
            f"serve needs the package {error.name}, which is not installed; install the extra: "
            "pip install 'tumorlens[web]'."
        ) from error
    from tumorlens.web.answers import Panel  # noqa: PLC0415 (torch)

    files = [settings.checkpoint, *([settings.compare] if settings.compare else [])]
    limits = Limits(int(settings.max_mb * 1e6), int(settings.max_megapixels * 1e6))
    desk = page.Desk(Panel(files, settings.layer, settings.device), room, limits)
    app = gradio.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page.build(desk),
        "",
        server_name=settings.host,
        server_port=port,
        max_file_size=limits.bytes,
        allowed_paths=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        footer_links=[],
        css=page.sheet(desk),
        **page.looks(),
    )
    local = settings.host in _LOOPBACK
    hosts = _LOOPBACK if local else ("*",)
    server = uvicorn.Server(
        uvicorn.Config(
            Gate(app, room.path, limits.bytes, hosts),
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            limit_concurrency=200,
            ws="none",
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    ended = threading.Event()
    threading.Thread(target=_sweep, args=(room, ended), daemon=True).start()
    name = f"[{settings.host}]" if ":" in settings.host else settings.host

    def stop() -> None:
        server.should_exit = True

    def wait() -> None:
        while thread.is_alive():
            thread.join(0.5)  # in steps, so that Ctrl-C is heard

    try:
        _answers(server, thread)
        yield Serving(f"http://{name}:{port}", room, wait, stop)
    finally:
        ended.set()
        server.should_exit = True
        thread.join(10)


def _answers(server: object, thread: threading.Thread) -> None:
    while not getattr(server, "started", False):
        if not thread.is_alive():
            raise TumorlensError("the web server could not start.")
        thread.join(0.02)


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise TumorlensError(
            f"--host {settings.host} --port {settings.port}: cannot be served ({error.strerror}); "
            "name another --port, or 0 for any that is free."
        ) from error
    return listening


def _quiet(room: Room) -> None:
    """Before Gradio is imported: nothing is told to anyone, uploads go into the room."""
    os.environ["GRADIO_TEMP_DIR"] = str(room.path)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    # Of its own queue Gradio keeps statistics that nobody reads here, of 10,000 questions, and
    # works them out anew after each: memory and time that grow with every question.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def _sweep(room: Room, ended: threading.Event) -> None:
    while not ended.wait(_SECONDS_BETWEEN_SWEEPS):
        room.sweep()
