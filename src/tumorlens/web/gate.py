"""What stands between the network and Gradio: only what the page needs gets through.

Plain ASGI: streams pass as they come. Gradio serves files by path, fetches addresses for its
clients and has routes for editing apps; none of that is needed here, so none of it is reachable.
Uploads are taken in here and never reach Gradio's own route.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from tumorlens.web.intake import take_in

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# All that a browser asks for from opening the page to seeing an answer.
_OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?"
    r"|/(assets|static|svelte)/[\w./@+-]+"
    r"|/gradio_api/(info|startup-events|upload|queue/join|queue/data|reset|cancel"
    r"|theme\.css|heartbeat/\w+|call/\w+(/\w+)?)/?"
)
_UPLOAD = "/gradio_api/upload"
# A question is numbers, names and the place of one upload.
_MOST_QUESTION = 64_000
# What multipart adds around a file.
_WRAPPING = 16_000

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        b"connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; "
        b"form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Gate:
    """An ASGI application around another.

    Args:
        app: what is behind the gate.
        room: the folder that uploads are in; a question that names any other place is refused.
        most_bytes: of one upload.
        hosts: names that the page may be asked for by, so that no foreign page can reach a server
            on loopback through a name of its own (DNS rebinding); "*" for any.
    """

    def __init__(self, app: App, room: Path, most_bytes: int, hosts: Iterable[str]) -> None:
        self.app = app
        self.room = room.resolve()
        self.most_bytes = most_bytes
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                return await self.app(scope, receive, send)
            return None
        path, method = scope["path"], scope["method"]
        if not self._asked_by_name(scope):
            return await _refuse(send, 421, "This server does not go by that name.")
        if not _OPEN.fullmatch(path) or ".." in path:
            return await _refuse(send, 404, "There is nothing here.")
        if method not in ("GET", "HEAD", "POST"):
            return await _refuse(send, 405, "Only GET and POST are understood.")
        guarded = _guarded(send)
        if method != "POST":
            return await self.app(scope, receive, guarded)
        upload = path.rstrip("/") == _UPLOAD
        most = self.most_bytes + _WRAPPING if upload else _MOST_QUESTION
        said = f"More than the {self.most_bytes / 1e6:,.0f} MB that are taken."
        if _length(scope) > most:
            return await _refuse(send, 413, said)
        if upload:
            return await self._upload(scope, receive, send, most, said)
        body = await _body(receive, most)
        if body is None:
            return await _refuse(send, 413, "More than a question needs.")
        if not self._harmless(body):
            return await _refuse(send, 400, "This question names a place that is not an upload.")
        return await self.app(scope, _replayed(body, receive), guarded)

    def _asked_by_name(self, scope: Message) -> bool:
        if "*" in self.hosts:
            return True
        names = [value for key, value in scope["headers"] if key == b"host"]
        host = names[0].decode("latin-1") if len(names) == 1 else ""
        return re.sub(r":\d+$", "", host).strip("[]").lower() in self.hosts

    def _harmless(self, body: bytes) -> bool:
        try:
            question = json.loads(body or b"null")
        except (ValueError, RecursionError):
            return False
        waiting = [question]
        while waiting:
            item = waiting.pop()
            if isinstance(item, dict):
                if "path" in item and not self._of_room(item["path"]):
                    return False
                waiting.extend(item.values())
            elif isinstance(item, list):
                waiting.extend(item)
        return True

    def _of_room(self, place: object) -> bool:
        if not isinstance(place, str) or "\0" in place:
            return False
        try:
            return Path(place).resolve().is_relative_to(self.room)
        except (OSError, ValueError, RuntimeError):
            return False

    async def _upload(
        self, scope: Message, receive: Receive, send: Send, most: int, said: str
    ) -> None:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _TooLargeError
            return message

        try:
            place = await take_in(scope, counted, self.room)
        except _TooLargeError:
            return await _refuse(send, 413, said)
        if place is None:
            return await _refuse(send, 400, "This is not one file in multipart form.")
        return await _say(send, 200, json.dumps([str(place)]), b"application/json")


class _TooLargeError(Exception):
    pass


def _length(scope: Message) -> int:
    for key, value in scope["headers"]:
        if key == b"content-length":
            try:
                return int(value)
            except ValueError:
                return 0
    return 0


async def _body(receive: Receive, most: int) -> bytes | None:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most or message["type"] == "http.disconnect":
            return None
        if not message.get("more_body", False):
            return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()  # news of the connection, such as its end
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _guarded(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return guarded


async def _refuse(send: Send, status: int, sentence: str) -> None:
    await _say(send, status, sentence, b"text/plain; charset=utf-8")


async def _say(send: Send, status: int, text: str, kind: bytes) -> None:
    headers = [(b"content-type", kind), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
