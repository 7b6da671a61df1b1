"""The page in a real browser: Debian's Chromium, headless, by playwright."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tumorlens.settings import ServeSettings
from tumorlens.web.serve import Server, serve

from .conftest import CLASSES, nifti, png

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium here (Debian: apt install chromium)", allow_module_level=True)


@pytest.fixture(scope="module")
def served(settings: ServeSettings) -> Iterator[Server]:
    with serve(settings) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        opened = runner.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


class _Visitor:
    """One user: a tab of his own, every address that it asked for, and what its console said."""

    def __init__(self, browser: Any, address: str, **view: Any) -> None:
        self.context = browser.new_context(**view)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.goto(address)

    def choose(self, content: bytes, name: str = "slice.png") -> None:
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        self.page.set_input_files("#file", file)

    def result(self, text: str = "") -> str:
        found = self.page.locator(".columns, #fault:not([hidden])", has_text=re.compile(text))
        found.wait_for()
        return str(found.inner_text())

    def opacities(self) -> list[str]:
        """Of the maps that are shown."""
        return list(
            self.page.eval_on_selector_all(
                ".map:not([hidden])", "maps => maps.map(each => getComputedStyle(each).opacity)"
            )
        )


@pytest.fixture
def visitor(served: Server, browser: Any) -> Iterator[_Visitor]:
    one = _Visitor(browser, served.address, viewport={"width": 1000, "height": 900})
    yield one
    one.context.close()


def test_chosen_slice_is_shown_with_both_networks(visitor: _Visitor) -> None:
    visitor.choose(png(40, 50))
    found = visitor.result("50 x 40 pixels")
    assert "ResNet18" in found
    assert "SE-ResNet18" in found
    assert "uncertain" in found  # an untrained network is below 0.99
    assert "not a medical device" in visitor.page.inner_text("[role=note]")
    assert visitor.faults == []  # none of the security policy either


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_slice_is_dropped_or_pasted_anywhere(visitor: _Visitor, how: str) -> None:
    visitor.page.evaluate(
        """([how, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "slice.png"));
          const event = how === "drop"
            ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
            : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
          document.querySelector("footer").dispatchEvent(event);
        }""",
        [how, list(png(30, 20))],
    )
    assert "20 x 30 pixels" in visitor.result("pixels")


def test_class_and_opacity_change_the_overlay_without_a_request(visitor: _Visitor) -> None:
    visitor.choose(png())
    visitor.result()
    page, asked = visitor.page, len(visitor.asked)
    for number, name in enumerate(CLASSES):
        page.get_by_label(name, exact=True).check()
        shown = page.locator(".map:not([hidden])")
        assert [one.get_attribute("data-class") for one in shown.all()] == [str(number)] * 2
        told = rf"Grad-CAM at layer2\*layer3(,| finds no place that speaks) for {name}"
        assert re.search(told, page.inner_text("#result"))
    assert visitor.opacities() == ["0.6", "0.6"]
    page.locator("#opacity").fill("0.25")
    assert visitor.opacities() == ["0.25", "0.25"]
    assert [one for one in visitor.asked[asked:] if not one.startswith("data:")] == []


def test_keys_choose_class_opacity_and_slice(visitor: _Visitor) -> None:
    visitor.choose(nifti(), "head.nii")
    visitor.result("slice 3 of 5")
    page = visitor.page
    page.locator("h1").click()
    page.keyboard.press("2")
    assert page.get_by_label("meningioma", exact=True).is_checked()
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("-")
    assert visitor.opacities() == ["0.55", "0.55"]
    page.keyboard.press("ArrowRight")
    assert "slice 4 of 5" in visitor.result("slice 4")
    assert page.get_by_label("meningioma", exact=True).is_checked()  # what was chosen stays
    # The click that opens the dialog, not the dialog: a busy browser may take its time with that.
    page.evaluate(
        """at("file").addEventListener("click", (event) => {
          event.preventDefault();
          document.body.dataset.asked = "file";
        })"""
    )
    page.keyboard.press("o")
    assert page.evaluate("document.body.dataset.asked") == "file"


def test_focus_is_seen_and_reaches_every_control_by_tab(visitor: _Visitor) -> None:
    visitor.choose(nifti(), "head.nii")
    visitor.result("slice 3")
    visitor.page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(9):
        visitor.page.keyboard.press("Tab")
        reached.append(
            visitor.page.evaluate(
                "document.activeElement.id || document.activeElement.name"
                " || document.activeElement.dataset.example"
            )
        )
    assert reached == ["file", *CLASSES, "slice", "class", "opacity", "remove"]


@pytest.mark.parametrize("name", CLASSES)
def test_examples_are_simulated_slices_that_come_with_tumorlens(
    visitor: _Visitor, name: str
) -> None:
    visitor.page.get_by_role("button", name=name).click()
    assert "PNG image, 192 x 192 pixels" in visitor.result("PNG image")


def test_volume_is_leafed_through_and_sent_again_where_the_server_forgot_it(
    visitor: _Visitor,
) -> None:
    visitor.choose(nifti(), "head.nii")
    assert "5 axial slices; slice 3 of 5, 20 x 24 pixels" in visitor.result("NIfTI")
    slider = visitor.page.locator("#slice")
    slider.focus()
    slider.press("ArrowRight")
    assert "slice 4" in visitor.result("slice 4")
    visitor.page.evaluate("forget().then(() => { token = 'nobody-has-it'; })")
    slider.press("ArrowLeft")
    assert "slice 3" in visitor.result("slice 3")
    visitor.page.get_by_role("button", name="Remove this slice").click()
    assert visitor.page.inner_text("#result") == ""
    assert visitor.page.locator("#controls").is_hidden()


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (
            b"<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>.png",
            "This file is a web page",
        ),
        (b"\0" * 128 + b"DICM" + b"\xff" * 64, "../../../../etc/passwd", "no pixels"),
        (b"x" * 1_000_001, "large.png", "more than the 1 MB"),
    ],
)
def test_bad_file_gets_a_sentence_and_the_page_goes_on(
    visitor: _Visitor, content: bytes, name: str, words: str
) -> None:
    visitor.page.on("dialog", lambda dialog: pytest.fail("the file's name was run"))
    visitor.choose(content, name)
    assert words in visitor.result("This file")
    visitor.choose(png())
    assert "PNG image" in visitor.result("PNG image")
    assert visitor.page.locator("#fault").is_hidden()


def test_two_users_get_their_own_results(served: Server, browser: Any) -> None:
    both = [_Visitor(browser, served.address) for _ in range(2)]
    for number, one in enumerate(both):
        one.choose(png(40 + number, 60, seed=number))
    found = [one.result("pixels") for one in both]
    assert "60 x 40 pixels" in found[0]
    assert "60 x 41 pixels" in found[1]
    for one in both:
        one.context.close()


def test_page_fits_a_phone(served: Server, browser: Any) -> None:
    one = _Visitor(browser, served.address, viewport={"width": 360, "height": 740})
    one.choose(png(90, 60))
    one.result("pixels")
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 360
    one.context.close()


def test_dark_and_light_follow_the_system(served: Server, browser: Any) -> None:
    shades = []
    for scheme in ("light", "dark"):
        one = _Visitor(browser, served.address, color_scheme=scheme)
        colours = [
            f"getComputedStyle(document.body).{each}" for each in ("backgroundColor", "color")
        ]
        page, ink = (
            sum(map(int, re.findall(r"\d+", one.page.evaluate(each))[:3])) for each in colours
        )
        shades.append((page > 650, ink > 650))
        one.context.close()
    assert shades == [(True, False), (False, True)]


def test_nothing_is_asked_of_another_machine(visitor: _Visitor, served: Server) -> None:
    visitor.page.get_by_role("button", name="glioma").click()
    visitor.result("pixels")
    assert visitor.asked
    assert [one for one in visitor.asked if not one.startswith((served.address, "data:"))] == []
    assert visitor.faults == []
