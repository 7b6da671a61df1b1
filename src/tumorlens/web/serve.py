"""The command serve: a socket and a server of the page."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tumorlens.device import cpu_threads
from tumorlens.errors import TumorlensError
from tumorlens.settings import ServeSettings
from tumorlens.web.uploads import Limits


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    address: str  # what a browser opens
    wait: Callable[[], None]  # returns when the server has ended
    stop: Callable[[], None]  # ends it


_UVICORN: dict[str, Any] = {
    "log_level": "error",
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    "timeout_keep_alive": 5,
    "timeout_graceful_shutdown": 3,
    "limit_concurrency": 200,
    "ws": "none",
}


@contextlib.contextmanager
def serve(settings: ServeSettings) -> Iterator[Server]:
    """Serve the page for as long as the context lasts.

    Raises:
        TumorlensError: faults of the checkpoints, a port that is taken, or the extra `web` is not
            installed.
    """
    try:
        import uvicorn  # noqa: PLC0415 (an extra)

        from tumorlens.web.app import create_app  # noqa: PLC0415 (torch)
    except ModuleNotFoundError as error:
        raise TumorlensError(
            f"serve needs the package {error.name}, which is not installed; install the extra: "
            "pip install 'tumorlens[web]'."
        ) from error
    from tumorlens.web.predictor import Predictor  # noqa: PLC0415 (torch)

    with contextlib.closing(_listen(settings)) as listening, cpu_threads(settings.threads):
        limits = Limits(int(settings.max_mb * 1e6), int(settings.max_megapixels * 1e6))
        root = settings.root_path.rstrip("/")
        app = create_app(Predictor(settings), limits, settings.host_names, root)
        server = uvicorn.Server(uvicorn.Config(app, **_UVICORN))
        log = logging.getLogger("uvicorn.error")

        def is_running(_: logging.LogRecord) -> bool:
            return not server.should_exit  # what is cut off at the end is no fault

        log.addFilter(is_running)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()

        def stop() -> None:
            server.should_exit = True

        def wait() -> None:
            while thread.is_alive():
                thread.join(0.5)  # in steps, so that signals are heard

        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            while not server.started:
                if not thread.is_alive():
                    raise TumorlensError("the web server could not start.")
                thread.join(0.02)
            yield Server(f"http://{name}:{listening.getsockname()[1]}{root}", wait, stop)
        finally:
            stop()
            thread.join(10)
            log.removeFilter(is_running)


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=128)
    except OSError as error:
        raise TumorlensError(
            f"--host {settings.host} --port {settings.port}: cannot be served ({error.strerror}); "
            "name another --port, or 0 for any that is free."
        ) from error
