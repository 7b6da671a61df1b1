"""The page in a real browser: Debian's Chromium, headless, by playwright."""

import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.preprocessing import Preprocessing
from tumorlens.errors import TumorlensError
from tumorlens.models.build import build_model
from tumorlens.settings import ServeSettings
from tumorlens.web.server import Serving, serving

gradio = pytest.importorskip("gradio", reason="the extra `web` is not installed")
if int(gradio.__version__.split(".")[0]) < 6:
    pytest.skip(f"gradio {gradio.__version__} is too old, 6 is needed", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium here (Debian: apt install chromium)", allow_module_level=True)

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server of two untrained networks, the first with temperature and threshold."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("resnet18", "se_resnet18"):
        made = Checkpoint(
            model_name=name,
            classes=CLASSES,
            preprocessing=Preprocessing(32, 0.25, 0.2),
            weights=build_model(name, 4).state_dict(),
            data=None,
            settings={"run": name},
            selected={},
            temperature=2.0 if name == "resnet18" else None,
            uncertainty_threshold=0.99 if name == "resnet18" else None,
        )
        checkpoints.save(made, folder / f"{name}.pt")
    settings = ServeSettings(
        checkpoint=folder / "resnet18.pt",
        compare=folder / "se_resnet18.pt",
        port=0,
        max_mb=1,
        max_megapixels=0.5,
        device="cpu",
        threads=1,
    )
    with serving(settings) as server:
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
    """One user: a tab of his own, and every address that it asked for."""

    def __init__(self, browser: Any, address: str, **view: Any) -> None:
        self.context = browser.new_context(**view)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#upload input[type=file]", state="attached")

    def drop(self, content: bytes, name: str = "slice.png") -> None:
        clear = self.page.locator("#upload button[aria-label=Clear], #upload button[title=Clear]")
        if clear.count():
            clear.first.click()
            self.page.wait_for_selector("#upload input[type=file]", state="attached")
        self.page.set_input_files(
            "#upload input[type=file]",
            {"name": name, "mimeType": "application/octet-stream", "buffer": content},
        )

    def answer(self, text: str = "") -> str:
        found = self.page.locator(".tl-answer, .tl-fault", has_text=re.compile(text))
        found.wait_for()
        return str(found.inner_text())


@pytest.fixture
def visitor(served: Serving, browser: Any) -> Iterator[_Visitor]:
    one = _Visitor(browser, served.address, viewport={"width": 1000, "height": 900})
    yield one
    one.context.close()


def _slice(tmp_path: Path, size: tuple[int, int] = (40, 40), seed: int = 0) -> bytes:
    place = tmp_path / "drawn.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(place)
    return place.read_bytes()


def _files(served: Serving) -> list[Path]:
    return [path for path in served.room.path.rglob("*") if path.is_file()]


def test_dropped_slice_is_answered_by_both_networks(
    visitor: _Visitor, served: Serving, tmp_path: Path
) -> None:
    visitor.drop(_slice(tmp_path, (40, 50)))
    said = visitor.answer("50 x 40 pixels")
    assert "ResNet18" in said
    assert "SE-ResNet18" in said
    assert "uncertain" in said  # an untrained network is below 0.99
    assert "class probabilities, calibrated" in said
    assert "class probabilities, not calibrated" in said
    for card in visitor.page.locator(".tl-card").all():
        numbers = [float(text) for text in card.locator(".tl-number").all_inner_texts()]
        assert sum(numbers) == pytest.approx(1, abs=0.003)
    assert "not a medical device" in visitor.page.inner_text("[role=note]")
    assert _files(served) == []  # the upload is gone with the answer


def test_overlay_follows_class_and_opacity_without_asking_again(
    visitor: _Visitor, tmp_path: Path
) -> None:
    visitor.drop(_slice(tmp_path))
    visitor.answer()
    page, asked = visitor.page, len(visitor.asked)
    for index, name in enumerate(CLASSES):
        page.get_by_label(name, exact=True).check()
        page.wait_for_selector(f'.tl-answer[data-shown="{index}"]')
        seen = page.eval_on_selector_all(
            ".tl-map", "maps => maps.map(each => getComputedStyle(each).opacity)"
        )
        assert seen == ["0.6" if at % 4 == index else "0" for at in range(8)]
        assert f"Grad-CAM for {name}" in page.inner_text(".tl-answer")
    slider = page.get_by_label("range slider for Opacity of the map")
    slider.fill("0.25")
    page.wait_for_function(
        "getComputedStyle(document.querySelector('.tl-map[data-class=\"3\"]')).opacity == '0.25'"
    )
    assert [address for address in visitor.asked[asked:] if "queue" in address] == []


@pytest.mark.parametrize("name", CLASSES)
def test_examples_are_simulated_slices_that_come_with_tumorlens(
    visitor: _Visitor, name: str
) -> None:
    visitor.page.get_by_role("button", name=f"Simulated: {name}").click()
    assert "PNG picture, 192 x 192 pixels" in visitor.answer("PNG picture")


def test_volume_is_leafed_through(visitor: _Visitor) -> None:
    import nibabel

    values = np.random.default_rng(1).integers(0, 99, (20, 24, 5)).astype(np.int16)
    visitor.drop(nibabel.Nifti1Image(values, np.eye(4)).to_bytes(), "head.nii")
    assert "NIfTI volume, 5 axial slices; slice 3, 20 x 24 pixels" in visitor.answer("NIfTI")
    slider = visitor.page.get_by_label("range slider for Slice")
    slider.focus()
    slider.press("ArrowRight")
    assert "slice 4" in visitor.answer("slice 4")


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"<script>alert(1)</script>", "<img src=x onerror=alert(1)>.png", "This is no PNG"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 64, "../../../../etc/passwd", "no pixels"),
    ],
)
def test_bad_file_gets_a_sentence_and_the_page_goes_on(
    visitor: _Visitor, served: Serving, tmp_path: Path, content: bytes, name: str, words: str
) -> None:
    visitor.page.on("dialog", lambda dialog: pytest.fail("the file's name was run"))
    visitor.drop(content, name)
    assert re.search(words, visitor.answer("file|This"))
    assert _files(served) == []
    visitor.drop(_slice(tmp_path))
    assert "PNG picture" in visitor.answer("PNG picture")


def test_picture_of_too_many_pixels_is_refused(visitor: _Visitor, tmp_path: Path) -> None:
    place = tmp_path / "large.png"
    Image.new("L", (1000, 501)).save(place)
    visitor.drop(place.read_bytes())
    assert "0.5 megapixels, more than" in visitor.answer("megapixels")


def test_two_users_get_their_own_answers(served: Serving, browser: Any, tmp_path: Path) -> None:
    both = [_Visitor(browser, served.address) for _ in range(2)]
    for number, one in enumerate(both):
        one.drop(_slice(tmp_path, (40 + number, 60), seed=number))
    said = [one.answer("pixels") for one in both]
    assert "60 x 40 pixels" in said[0]
    assert "60 x 41 pixels" in said[1]
    for one in both:
        one.context.close()


def test_two_users_of_one_file_are_both_answered(served: Serving, browser: Any) -> None:
    content = b"the very same bytes"
    both = [_Visitor(browser, served.address) for _ in range(2)]
    for one in both:
        one.drop(content, "same.png")
    assert ["This is no PNG" in one.answer("This") for one in both] == [True, True]
    for one in both:
        one.context.close()


def test_page_fits_a_phone(served: Serving, browser: Any, tmp_path: Path) -> None:
    one = _Visitor(browser, served.address, viewport={"width": 360, "height": 740})
    one.drop(_slice(tmp_path, (90, 60)))
    one.answer("pixels")
    width = one.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    one.context.close()


def test_nothing_is_asked_of_another_machine(visitor: _Visitor, served: Serving) -> None:
    visitor.page.get_by_role("button", name="Simulated: glioma").click()
    visitor.answer("pixels")
    assert visitor.asked
    elsewhere = [
        address
        for address in visitor.asked
        if not address.startswith((served.address, "data:", "blob:"))
    ]
    assert elsewhere == []
    assert "fonts.g" not in visitor.page.content()


def test_room_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    made = Checkpoint(
        model_name="resnet18",
        classes=CLASSES,
        preprocessing=Preprocessing(32, 0.25, 0.2),
        weights=build_model("resnet18", 4).state_dict(),
        data=None,
        settings={},
        selected={},
    )
    checkpoints.save(made, tmp_path / "model.pt")
    before = threading.active_count()
    settings = ServeSettings(checkpoint=tmp_path / "model.pt", port=0, device="cpu", threads=1)
    with serving(settings) as server:
        room = server.room.path
        assert stat.S_IMODE(room.stat().st_mode) == 0o700
        port = int(server.address.rsplit(":", 1)[1])
        taken = ServeSettings(checkpoint=tmp_path / "model.pt", port=port)
        with (
            pytest.raises(TumorlensError, match=f"--port {port}: cannot be served"),
            serving(taken),
        ):
            pass
        assert room.is_dir()
    assert not room.exists()
    assert threading.active_count() <= before + 4  # Gradio's pool of workers stays warm
