from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage

from tumorlens.phantom.anatomy import SELLA, View, draw_view, load_template
from tumorlens.phantom.head import Person, Tissue, survey
from tumorlens.phantom.lesions import Lesion, draw_lesion

SIZE = 80


def _drawn(label: str, count: int = 12) -> Iterator[tuple[View, Tissue, Lesion]]:
    for seed in range(count):
        rng = np.random.default_rng(seed)
        view = draw_view(rng, SIZE)
        tissue = survey(load_template(), Person(rng), view.points)
        lesion = draw_lesion(rng, label, view, tissue)
        assert lesion is not None
        assert (lesion.core > 0.5).any()
        yield view, tissue, lesion


def test_glioma_lies_inside_the_brain_off_the_skull() -> None:
    for _, tissue, lesion in _drawn("glioma"):
        core = lesion.core > 0.5
        assert tissue.depth[core].max() < -1.0
        assert tissue.brain[core].mean() > 0.5


def test_meningioma_has_a_broad_base_on_skull_or_falx_and_does_not_cross_it() -> None:
    for view, tissue, lesion in _drawn("meningioma"):
        core = lesion.core > 0.5
        assert tissue.depth[core].max() < 1.5
        rim = core & ~ndimage.binary_erosion(core)
        on_skull = rim & (tissue.depth > -1.2 * view.spacing)
        on_falx = rim & (np.abs(view.points[0]) < 1.2 * view.spacing)
        assert max(on_skull.sum(), on_falx.sum()) * view.spacing > 8  # mm


def test_pituitary_tumor_stands_in_the_sella_and_is_seen_in_every_slice() -> None:
    for view, _, lesion in _drawn("pituitary"):
        core = lesion.core > 0.5
        assert core.sum() * view.spacing**2 > np.pi * 5.5**2
        beside = np.abs(view.points[0][core]).mean()
        middle = view.points[:, core].mean(axis=1)
        assert beside < 20
        assert abs(middle[1] - SELLA[1]) < 16
        assert SELLA[2] - 10 < middle[2] < SELLA[2] + 28


@pytest.mark.parametrize("label", ["glioma", "meningioma", "pituitary"])
def test_growing_tumor_pushes_the_brain_and_never_the_skull(label: str) -> None:
    for _, tissue, lesion in _drawn(label, 6):
        shift = np.hypot(*lesion.push)
        assert shift.max() > 0.5
        assert (shift[tissue.depth >= 0] == 0).all()


def test_notumor_has_no_lesion() -> None:
    rng = np.random.default_rng(0)
    view = draw_view(rng, SIZE)
    tissue = survey(load_template(), Person(rng), view.points)
    assert draw_lesion(rng, "notumor", view, tissue) is None
