"""Taking an upload from the network: into the room, under a name of our own.

Gradio's own route names a file by its content and the client's name, so that two users with the
same file would share one, and the first answer would delete the other's.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


async def take_in(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    room: Path,
) -> Path | None:
    """Read a multipart request's one file into `room`.

    Args:
        scope, receive: of the ASGI request; `receive` raises where the body is too large.
        room: the server's private folder.

    Returns:
        Where the file is; None if the request is not one file in multipart form.
    """
    import anyio  # noqa: PLC0415 (an extra)
    from starlette.exceptions import HTTPException  # noqa: PLC0415 (an extra)
    from starlette.formparsers import MultiPartException  # noqa: PLC0415
    from starlette.requests import Request  # noqa: PLC0415

    try:
        async with Request(scope, receive).form(max_files=1, max_fields=4) as form:
            found = next((part for part in form.values() if not isinstance(part, str)), None)
            if found is None:
                return None
            place = room / secrets.token_hex(16)
            async with await anyio.open_file(place, "xb") as file:
                while block := await found.read(_BLOCK):
                    await file.write(block)
            return place
    except (HTTPException, MultiPartException):
        return None
