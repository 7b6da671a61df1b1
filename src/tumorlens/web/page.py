"""The page itself: what is on it and what happens when."""

import html
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import gradio

from tumorlens.errors import TumorlensError
from tumorlens.web.answers import Panel
from tumorlens.web.drawing import NOTICE, answer_html, fault_html, style
from tumorlens.web.room import Room
from tumorlens.web.shelf import Shelf
from tumorlens.web.uploads import Limits, decode

EXAMPLES = ("glioma", "meningioma", "notumor", "pituitary")
_FIRST_OPACITY = 0.6
# Nobody waits in a queue longer than this many questions.
_MOST_WAITING = 64
_MOST_SESSIONS = 64

# The maps of all classes are in the page: class and opacity change without a question.
_SHOW = """(name, names) => {
  const at = names.indexOf(name);
  document.querySelectorAll('.tl-answer').forEach(each => each.dataset.shown = at);
}"""
_FADE = "(value) => document.documentElement.style.setProperty('--tl-opacity', value)"


def _guarded(upload: gradio.File, room: Room) -> gradio.File:
    """A file that is read once and then gone; our code gets its bytes and no path.

    Set on the component itself: of a class derived from a component Gradio writes a stub beside
    the source.
    """

    async def stays(place: Any) -> str:
        # Gradio's own would fetch addresses; only what lies in the room is taken.
        if not Path(str(place)).resolve().is_relative_to(room.path.resolve()):
            raise gradio.Error("This file was not uploaded here.", print_exception=False)
        return str(place)

    def taken(payload: Any) -> bytes | str | None:
        # The bytes; or, where the upload is gone, the sentence that says so.
        if payload is None:
            return None
        try:
            return room.take(Path(payload.path))
        except TumorlensError as error:
            return str(error)

    upload.async_move_resource_to_block_cache = stays
    upload.preprocess = taken
    return upload


class Desk:
    """Answers the page's questions.

    Args:
        panel: the networks.
        room: where uploads are until they are read.
        limits: of one upload.
    """

    def __init__(self, panel: Panel, room: Room, limits: Limits) -> None:
        self.panel = panel
        self.room = room
        self.limits = limits
        self.shelf = Shelf()

    def opened(self, content: bytes | str | None, ticket: str) -> tuple[Any, ...]:
        """An upload came: ticket, slice slider, class choice, answer."""
        self.shelf.drop(ticket)
        self.room.sweep()
        if content is None:
            return self._nothing("")
        if isinstance(content, str):
            return self._nothing(fault_html(content))
        try:
            found = decode(content, self.limits)
        except TumorlensError as error:
            return self._nothing(fault_html(str(error)))
        count = len(found.slices)
        ticket = self.shelf.put(found) if count > 1 else ""
        number = count // 2 + 1
        slider = gradio.Slider(minimum=1, maximum=max(2, count), value=number, visible=count > 1)
        return (
            ticket,
            slider,
            *self._answer(found.slices[number - 1], found.kind, number, count),
        )

    def example(self, name: str, ticket: str) -> tuple[Any, ...]:
        """One of the slices that come with tumorlens."""
        content = resources.files("tumorlens.web").joinpath(f"examples/{name}.png").read_bytes()
        return self.opened(content, ticket)

    def turned(self, number: float, ticket: str) -> tuple[Any, ...]:
        """Another slice of the same volume: class choice, answer."""
        found = self.shelf.get(ticket)
        if found is None:
            return gradio.skip(), fault_html("This volume is no longer kept; upload it again.")
        count = len(found.slices)
        at = min(max(int(number), 1), count)
        return self._answer(found.slices[at - 1], found.kind, at, count)

    def cleared(self, ticket: str) -> tuple[Any, ...]:
        """The upload was taken away."""
        self.shelf.drop(ticket)
        return self._nothing("")

    def _nothing(self, said: str) -> tuple[Any, ...]:
        return "", gradio.Slider(visible=False), gradio.skip(), said

    def _answer(self, picture: Any, kind: str, number: int, count: int) -> tuple[Any, ...]:
        answers = self.panel.ask(picture)
        shown = answers[0].best
        height, width = picture.shape
        source = f"{kind}, {width} x {height} pixels"
        if count > 1:
            source = f"{kind}; slice {number}, {width} x {height} pixels"
        return answers[0].rule.classes[shown], answer_html(picture, answers, source, shown)


def build(desk: Desk) -> gradio.Blocks:
    """The page, not yet served."""
    classes = list(desk.panel.classes)
    with gradio.Blocks(title="tumorlens", analytics_enabled=False) as page:
        ticket = gradio.State("", time_to_live=3600)
        names = gradio.JSON(classes, visible=False)
        gradio.HTML(
            f"<h1>tumorlens</h1><p>{html.escape(' and '.join(desk.panel.names))} on one slice of "
            f"brain MRI: {html.escape(', '.join(classes))}.</p>"
            f'<p class="tl-notice" role="note">{NOTICE}</p>'
        )
        upload = gradio.File(
            label=f"A slice (PNG, JPEG, TIFF, BMP, WebP), DICOM or NIfTI, up to "
            f"{desk.limits.bytes / 1e6:,.0f} MB; deleted as soon as it is read",
            type="binary",
            height=140,
            elem_id="upload",
        )
        _guarded(upload, desk.room)
        with gradio.Row():
            buttons = {
                name: gradio.Button(f"Simulated: {name}", size="sm", min_width=120)
                for name in EXAMPLES
            }
        with gradio.Row():
            choice = gradio.Radio(
                classes, label="Map of the class", value=classes[0], min_width=240
            )
            opacity = gradio.Slider(
                0, 1, value=_FIRST_OPACITY, step=0.05, label="Opacity of the map", min_width=200
            )
        number = gradio.Slider(1, 2, value=1, step=1, label="Slice", visible=False)
        answer = gradio.HTML(elem_id="answer")
        outcome = [ticket, number, choice, answer]
        asked: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "networks"}
        upload.upload(desk.opened, [upload, ticket], outcome, api_name="answer", **asked)
        upload.clear(desk.cleared, [ticket], outcome, api_visibility="private")
        for name, button in buttons.items():
            button.click(_of(desk, name), [ticket], outcome, api_visibility="private", **asked)
        number.input(
            desk.turned,
            [number, ticket],
            [choice, answer],
            api_visibility="private",
            trigger_mode="always_last",
            **asked,
        )
        choice.change(None, [choice, names], None, js=_SHOW)
        opacity.input(None, [opacity], None, js=_FADE)
    page.queue(max_size=_MOST_WAITING)
    page.state_session_capacity = _MOST_SESSIONS
    return page


def _of(desk: Desk, name: str) -> Callable[[str], tuple[Any, ...]]:
    return lambda ticket: desk.example(name, ticket)


def looks() -> dict[str, Any]:
    """Theme: the system's own fonts, so that none is fetched."""
    fonts = ["system-ui", "sans-serif"]
    return {"theme": gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"])}


def sheet(desk: Desk) -> str:
    """The page's CSS."""
    return style(len(desk.panel.classes))
