import html
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from .conftest import CLASSES, ask, nifti, png

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def app(make_app: Make) -> Any:
    return make_app()


def _token(text: str) -> str:
    found = re.search(r'data-token="([^"]*)"', text)
    assert found is not None
    return found.group(1)


def test_slice_is_answered_by_both_networks(app: Any) -> None:
    (got,) = ask(app, ("POST", "/predict", png(40, 50)))
    assert got.status_code == 200
    assert "PNG image, 50 x 40 pixels" in got.text
    assert re.findall(r"<h2>(.*)</h2>", got.text) == ["Image", "ResNet18", "SE-ResNet18"]
    assert "uncertain" in got.text  # an untrained network is below 0.99
    assert "Class probabilities, calibrated" in got.text
    assert "Class probabilities, not calibrated" in got.text
    probabilities = [float(one) for one in re.findall(r'class="number">([\d.]+)<', got.text)]
    assert len(probabilities) == 8
    assert sum(probabilities[:4]) == pytest.approx(1, abs=0.003)
    assert got.text.count("Grad-CAM at layer2*layer3, for glioma") == 2
    assert _token(got.text) == ""
    assert got.headers["cache-control"] == "no-store"


def test_volume_opens_at_its_middle_and_each_slice_is_asked_for(app: Any) -> None:
    (got,) = ask(app, ("POST", "/predict", nifti()))
    assert "NIfTI volume, 5 axial slices; slice 3 of 5, 20 x 24 pixels" in got.text
    token = _token(got.text)
    first, none, words, gone = ask(
        app,
        ("GET", f"/volumes/{token}/1"),
        ("GET", f"/volumes/{token}/6"),
        ("GET", f"/volumes/{token}/{'9' * 5000}"),
        ("GET", "/volumes/another/1"),
    )
    assert "slice 1 of 5" in first.text
    assert (none.status_code, none.text) == (
        404,
        "There is no slice 6; this file has 1 to 5.",
    )
    assert words.status_code == 404
    assert gone.status_code == 410


def test_forgotten_volume_is_gone_and_its_file_opens_at_the_slice_again(app: Any) -> None:
    (got,) = ask(app, ("POST", "/predict", nifti()))
    place = f"/volumes/{_token(got.text)}"
    assert ask(app, ("DELETE", place))[0].status_code == 204
    assert ask(app, ("GET", f"{place}/1"))[0].status_code == 410
    assert "slice 4 of 5" in ask(app, ("POST", "/predict?slice=4", nifti()))[0].text


def test_users_at_once_get_their_own_results(app: Any) -> None:
    sizes = [(40 + number, 60) for number in range(6)]
    sent = [("POST", "/predict", png(*size, seed=size[0])) for size in sizes]
    for (height, width), got in zip(sizes, ask(app, *sent), strict=True):
        assert f"PNG image, {width} x {height} pixels" in got.text


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 422, "This file is empty."),
        (b"<script>alert(1)</script>", 422, "This file is a web page or XML file"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 64, 422, "This file "),
        (png(1000, 501)[:2000], 422, "This file has 0.501 megapixels, more than the 0.5"),
        (b"x" * 1_000_001, 413, "This file has more than the 1 MB that are accepted."),
    ],
)
def test_bad_file_gets_a_sentence(app: Any, body: bytes, status: int, sentence: str) -> None:
    (got,) = ask(app, ("POST", "/predict", body))
    assert got.status_code == status
    assert got.text.startswith(sentence)
    assert got.text.endswith(".")
    assert got.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("announced", ["0", "9" * 5000, "many"])
def test_too_much_is_refused_whatever_its_header_says(app: Any, announced: str) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100_000)

    headers = {"content-length": announced}
    assert ask(app, ("POST", "/predict", blocks()), **headers)[0].status_code == 413


def test_form_is_told_to_send_the_file_itself(app: Any) -> None:
    kind = {"content-type": "multipart/form-data; boundary=cut"}
    (got,) = ask(app, ("POST", "/predict", b"--cut--"), **kind)
    assert got.status_code == 415
    assert "curl --data-binary @FILE" in got.text


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/predict/", "/docs"],
)
def test_nothing_but_the_page_is_there(app: Any, path: str) -> None:
    (got,) = ask(app, ("GET", path))
    assert (got.status_code, got.text) == (404, "There is nothing here.")


def test_other_methods_are_refused(app: Any) -> None:
    got = ask(app, ("DELETE", "/"), ("GET", "/predict"), ("PUT", "/static/page.js", b"x"))
    assert [one.status_code for one in got] == [405, 405, 405]


def test_every_response_forbids_inline_code_and_other_machines(app: Any) -> None:
    for got in ask(app, ("GET", "/"), ("GET", "/static/page.js"), ("GET", "/no"), ("POST", "/")):
        policy = got.headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["cache-control"] == "no-cache"


def test_page_has_no_inline_script_or_style_and_names_its_classes(app: Any) -> None:
    page, result = (one.text for one in ask(app, ("GET", "/"), ("POST", "/predict", png())))
    for text in (page, result):
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)", text)
        assert not re.search(r"https?://", text)
    for name in CLASSES:
        assert f"> {name}</label>" in page
        assert f'data-example="{name}"' in page
    assert "not a medical device" in html.unescape(page)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example"])
def test_foreign_name_for_this_machine_is_refused(app: Any, host: str) -> None:
    assert ask(app, ("GET", "/"), host=host)[0].status_code == 421


@pytest.mark.parametrize("host", ["localhost:7860", "[::1]:7860", "127.0.0.1"])
def test_own_names_are_answered(app: Any, host: str) -> None:
    assert ask(app, ("GET", "/"), host=host)[0].status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:7860", 200)],
)
def test_page_of_another_site_may_not_send_a_file(app: Any, origin: str, status: int) -> None:
    assert ask(app, ("POST", "/predict", png()), origin=origin)[0].status_code == status


def test_proxy_is_answered_by_its_name_whether_or_not_it_keeps_the_path(make_app: Make) -> None:
    app = make_app(frozenset({"page.example.org"}), "/lens")
    names = {"host": "page.example.org", "origin": "https://page.example.org"}
    for start in ("/lens", ""):
        page, code, got = ask(
            app,
            ("GET", f"{start}/"),
            ("GET", f"{start}/static/page.js"),
            ("POST", f"{start}/predict", png()),
            **names,
        )
        assert 'src="/lens/static/page.js"' in page.text
        assert (code.status_code, got.status_code) == (200, 200)
    assert ask(app, ("GET", "/lens"), **names)[0].status_code == 200
    assert ask(app, ("GET", "/lenses"), **names)[0].status_code == 404
    assert ask(app, ("GET", "/lens/"), host="other.example.org")[0].status_code == 421


def test_server_of_any_name_still_refuses_pages_of_other_sites(make_app: Make) -> None:
    app = make_app(None)
    send = ("POST", "/predict", png())
    for origin, status in (("http://desk.example:7860", 200), ("http://evil.example", 403)):
        assert ask(app, send, host="desk.example:7860", origin=origin)[0].status_code == status
