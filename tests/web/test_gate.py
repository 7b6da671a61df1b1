import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tumorlens.web.gate import Gate


def _ask(
    gate: Gate,
    path: str,
    *,
    method: str = "GET",
    body: bytes = b"",
    host: str = "127.0.0.1:7860",
    length: int | None = None,
    kind: str = "application/json",
) -> tuple[int, dict[str, str], bytes]:
    headers = [(b"host", host.encode()), (b"content-type", kind.encode())]
    if method == "POST":
        headers.append((b"content-length", str(len(body) if length is None else length).encode()))
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    blocks = [body[start : start + 1000] for start in range(0, len(body), 1000)] or [b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        block = blocks.pop(0)
        return {"type": "http.request", "body": block, "more_body": bool(blocks)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    got = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], got, b"".join(part.get("body", b"") for part in sent[1:])


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while scope["method"] == "POST":
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    (tmp_path / "room").mkdir()
    return Gate(_echo, tmp_path / "room", 50_000, ("127.0.0.1", "localhost"))


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/assets/index-a1.js", "/gradio_api/queue/join", "/gradio_api/heartbeat/ab1"],
)
def test_what_the_page_needs_is_open(gate: Gate, path: str) -> None:
    assert _ask(gate, path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/vibe-edit/",
        "/gradio_api/deep_link",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/assets/../config",
        "/login",
        "/nowhere",
    ],
)
def test_everything_else_is_not_there(gate: Gate, path: str) -> None:
    assert _ask(gate, path)[0] == 404


def test_answers_forbid_every_other_source(gate: Gate) -> None:
    policy = _ask(gate, "/")[1]["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example"])
def test_foreign_name_for_this_machine_is_refused(gate: Gate, host: str) -> None:
    assert _ask(gate, "/", host=host)[0] == 421


def test_question_about_an_upload_passes_unchanged(gate: Gate, tmp_path: Path) -> None:
    body = json.dumps({"data": [{"path": str(tmp_path / "room" / "h" / "a.png")}]}).encode()
    assert _ask(gate, "/gradio_api/queue/join", method="POST", body=body)[::2] == (200, body)


@pytest.mark.parametrize(
    "place",
    ["/etc/passwd", "http://example.org/a.png", "room/../secret", "", None, 7, ["a"], "a\0b"],
)
def test_question_about_any_other_place_is_refused(gate: Gate, place: object) -> None:
    body = json.dumps({"data": [0.5, [{"deep": {"path": place}}]]}).encode()
    assert _ask(gate, "/gradio_api/queue/join", method="POST", body=body)[0] == 400


@pytest.mark.parametrize("body", [b"{", b"[" * 30_000, b"\xff\xfe"])
def test_question_that_is_no_json_is_refused(gate: Gate, body: bytes) -> None:
    assert _ask(gate, "/gradio_api/queue/join", method="POST", body=body)[0] == 400


@pytest.mark.parametrize("length", [None, 0])
def test_too_much_is_refused_whatever_its_header_says(gate: Gate, length: int | None) -> None:
    kind = "multipart/form-data; boundary=cut"
    for path in ("/gradio_api/upload", "/gradio_api/queue/join"):
        asked = {"method": "POST", "body": _form(b"x" * 70_000), "length": length, "kind": kind}
        status, _, said = _ask(gate, path, **asked)  # type: ignore[arg-type]
        assert status == 413
        assert said.startswith(b"More than")


def _form(content: bytes, name: str = "../../x.png", times: int = 1) -> bytes:
    part = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return (part.encode() + content + b"\r\n") * times + b"--cut--\r\n"


def test_same_file_of_two_users_is_two_files_and_none_has_the_clients_name(
    gate: Gate, tmp_path: Path
) -> None:
    pytest.importorskip("starlette", reason="the extra `web` is not installed")
    kind = "multipart/form-data; boundary=cut"
    places = []
    for _ in range(2):
        asked = {"method": "POST", "body": _form(b"slice"), "kind": kind}
        status, _, said = _ask(gate, "/gradio_api/upload", **asked)  # type: ignore[arg-type]
        assert status == 200
        (place,) = json.loads(said)
        places.append(Path(place))
    assert len(set(places)) == 2
    assert {place.parent for place in places} == {(tmp_path / "room").resolve()}
    assert {place.read_bytes() for place in places} == {b"slice"}
    assert not any("x.png" in str(place) for place in places)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (_form(b"a", times=2), "multipart/form-data; boundary=cut"),
        (_form(b"a")[:40], "multipart/form-data; boundary=cut"),
        (b"hello", "multipart/form-data; boundary=cut"),
        (b"hello", "multipart/form-data"),
        (b"files=1", "application/x-www-form-urlencoded"),
        (b"{}", "application/json"),
    ],
)
def test_what_is_not_one_file_is_refused_and_leaves_nothing(
    gate: Gate, tmp_path: Path, body: bytes, kind: str
) -> None:
    pytest.importorskip("starlette", reason="the extra `web` is not installed")
    assert _ask(gate, "/gradio_api/upload", method="POST", body=body, kind=kind)[0] == 400
    assert list((tmp_path / "room").iterdir()) == []


def test_other_methods_are_refused(gate: Gate) -> None:
    assert _ask(gate, "/", method="DELETE")[0] == 405
