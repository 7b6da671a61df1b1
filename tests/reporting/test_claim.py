from dataclasses import replace
from pathlib import Path

import pytest

from tumorlens.reporting.claim import ITEMS, checklist
from tumorlens.reporting.evidence import Evidence, Folder


def _bare() -> Evidence:
    summary = {
        "model_name": "resnet18",
        "classes": ["a", "b"],
        "preprocessing": {"image_size": 32, "mean": 0.1, "std": 0.2},
    }
    nothing = {"evaluation": None, "gradcam": None, "audit": None, "comparison": None}
    return Evidence(
        run_dir=Path("run"),
        checkpoint=Path("run/best_model.pt"),
        sha256="0",
        summary=summary,
        manifest={},
        history=(),
        localisation=None,
        gaps=(),
        **nothing,  # type: ignore[arg-type]
    )


def test_checklist_has_the_44_items_of_the_2024_update_in_order() -> None:
    assert list(ITEMS) == list(range(1, 45))
    assert [item.number for item in checklist(_bare())] == list(range(1, 45))


def test_what_a_tool_cannot_know_is_left_to_the_author() -> None:
    answers = {item.number: item.answer for item in checklist(_bare())}
    # Title, background, sources, de-identification, raters, demographics, funding.
    assert all(answers[number] == "" for number in (1, 3, 7, 11, 18, 36, 44))


def test_scores_are_claimed_only_where_there_was_an_evaluation() -> None:
    answers = {item.number: item.answer for item in checklist(_bare())}
    assert all(answers[number] == "" for number in (28, 29, 32, 33, 37, 38, 39))
    assert "ResNet18" in answers[22]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"method": "hirescam", "layer": "layer1"}, "HiResCAM (Draelos and Carin 2020) at layer1"),
        ({"method": "gradcam", "layer": "layer2*layer3"}, "Grad-CAM (Selvaraju et al. 2017) at la"),
        ({}, "Grad-CAM (Selvaraju et al. 2017) at layer4"),
    ],
)
def test_maps_are_named_by_the_method_that_made_them(content: dict[str, str], words: str) -> None:
    found = replace(_bare(), gradcam=Folder(Path("gradcam"), {}, content))
    (answer,) = (item.answer for item in checklist(found) if item.number == 31)
    assert words in answer
