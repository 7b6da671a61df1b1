"""The web page as an ASGI application: its routes, its limits, and who may ask."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tumorlens.data.volumes import Scan
from tumorlens.errors import TumorlensError
from tumorlens.web import render
from tumorlens.web.predictor import Predictor
from tumorlens.web.uploads import Limits, VolumeCache, decode, too_large

T = TypeVar("T")

# Uploads that are in memory at once, further ones wait; and how long one may take to arrive.
_MOST_UPLOADS = 16
_UPLOAD_SECONDS = 120.0

_SENTENCES = {404: "There is nothing here.", 405: "This method is not understood here."}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "x-content-type-options": "nosniff",
    # Not no-referrer: some browsers then say "null" for the origin of the page's own requests.
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def create_app(
    predictor: Predictor,
    limits: Limits,
    hosts: frozenset[str] | None = None,
    root_path: str = "",
) -> Starlette:
    """The application.

    Args:
        predictor: the networks.
        limits: of one upload.
        hosts: names that the page may be asked for by, so that no foreign page reaches a server on
            loopback through a name of its own (DNS rebinding); None: any.
        root_path: what a proxy puts before every path, whether or not it takes it off again.
    """
    pages = _Pages(predictor, limits, root_path)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        pages.worker.shutdown(cancel_futures=True)

    app = Starlette(
        routes=[
            Route("/", pages.index),
            Route("/predict", pages.predict, methods=["POST"]),
            Route("/volumes/{token}", pages.forget, methods=["DELETE"]),
            Route("/volumes/{token}/{number}", pages.another_slice),
            Mount("/static", StaticFiles(directory=render.STATIC)),
        ],
        middleware=[Middleware(_Guard, hosts=hosts, root_path=root_path)],
        exception_handlers={
            HTTPException: _refused,
            TumorlensError: lambda _, error: PlainTextResponse(str(error), 422),
            ClientDisconnect: lambda _, __: Response(status_code=400),  # nobody reads it
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    plain = error.detail == HTTPStatus(error.status_code).phrase
    sentence = _SENTENCES.get(error.status_code, error.detail) if plain else error.detail
    return PlainTextResponse(sentence, error.status_code, error.headers)


class _Pages:
    """The handlers of the routes."""

    def __init__(self, predictor: Predictor, limits: Limits, root_path: str) -> None:
        self.predictor = predictor
        self.limits = limits
        self.volumes = VolumeCache()
        self.places = asyncio.Semaphore(_MOST_UPLOADS)
        # One thread decodes and computes, so that memory is bounded whatever is asked at once.
        self.worker = ThreadPoolExecutor(1, "predict")
        self.html = render.page(predictor, limits, root_path)

    async def index(self, _: Request) -> Response:
        return HTMLResponse(self.html)

    async def predict(self, request: Request) -> Response:
        """A file as the body, `?slice=N` (1-based, default: the middle one), to a result."""
        async with self.places:
            scan = await self._in_worker(decode, await self._body(request), self.limits)
            at = _index(request.query_params.get("slice", str(len(scan.slices) // 2 + 1)), scan)
            token = self.volumes.put(scan) if len(scan.slices) > 1 else ""
            return await self._result(scan, at, token)

    async def another_slice(self, request: Request) -> Response:
        token = request.path_params["token"]
        scan = self.volumes.get(token)
        if scan is None:
            raise HTTPException(410, "This volume is no longer in memory; send it again.")
        return await self._result(scan, _index(request.path_params["number"], scan), token)

    async def forget(self, request: Request) -> Response:
        self.volumes.drop(request.path_params["token"])
        return Response(status_code=204)

    async def _body(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(
                415, "Send the file itself, not a form: curl --data-binary @FILE ADDRESS/predict."
            )
        content = bytearray()
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.limits.bytes:
            raise HTTPException(413, too_large(self.limits))
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                async for block in request.stream():
                    content += block
                    if len(content) > self.limits.bytes:
                        raise HTTPException(413, too_large(self.limits))
        except TimeoutError:
            raise HTTPException(
                408, f"This file took more than {_UPLOAD_SECONDS:.0f} seconds to arrive."
            ) from None
        return bytes(content)

    async def _result(self, scan: Scan, at: int, token: str) -> Response:
        html = await self._in_worker(self._html, scan, at, token)
        return HTMLResponse(html, headers={"cache-control": "no-store"})

    def _html(self, scan: Scan, at: int, token: str) -> str:
        image = scan.slices[at]
        layer = self.predictor.layer or "each network's last convolution"
        return render.result(
            image,
            self.predictor.predict(image),
            f"{self.predictor.method_name} at {layer}",
            kind=scan.kind,
            coverage=self.predictor.coverage,
            number=at + 1,
            slices=len(scan.slices),
            token=token,
        )

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.worker, function, *arguments)


def _index(number: str, scan: Scan) -> int:
    """The 0-based index of slice `number`, which is 1-based text of a request."""
    if re.fullmatch("[0-9]{1,6}", number) and 1 <= int(number) <= len(scan.slices):
        return int(number) - 1
    raise HTTPException(
        404, f"There is no slice {number[:20]}; this file has 1 to {len(scan.slices)}."
    )


class _Guard:
    """Middleware: refuses other names and foreign pages, takes `root_path` off, adds headers."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, root_path: str) -> None:
        self.app = app
        self.hosts = hosts
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self.app
        if scope["type"] == "http":
            app = self._refused(scope["method"], Headers(scope=scope)) or app
            path = scope["path"]
            if self.root_path and f"{path}/".startswith(f"{self.root_path}/"):
                scope = {**scope, "path": path.removeprefix(self.root_path) or "/"}
        await app(scope, receive, guarded)

    def _refused(self, method: str, headers: Headers) -> Response | None:
        names = headers.getlist("host")
        host = _host_name(names[0]) if len(names) == 1 else ""
        if self.hosts is not None and host not in self.hosts:
            return PlainTextResponse(
                "This server does not go by that name; start it with --allowed_host NAME.", 421
            )
        origin = headers.get("origin")
        known = self.hosts or {host}
        if method not in ("GET", "HEAD") and origin and _host_name(origin) not in known:
            return PlainTextResponse("Another site's page may not ask this server.", 403)
        return None


def _host_name(address: str) -> str:
    """`https://NAME:PORT` or `NAME:PORT` to `name`."""
    return re.sub(r"^https?://|:\d+$", "", address).strip("[]").lower()
