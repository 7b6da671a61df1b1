import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from tumorlens.errors import TumorlensError
from tumorlens.phantom import anatomy as phantom_anatomy
from tumorlens.phantom.anatomy import Ripples, load_template, sample_distance, smoothstep


def _at(*place: float) -> np.ndarray:
    return np.array(place, dtype=np.float32)[:, None, None]


def test_brain_is_inside_the_skull_and_the_sella_just_outside_of_it() -> None:
    template = load_template()
    assert sample_distance(template.cavity, _at(0, -20, 20))[0, 0] < -40
    assert 0 < sample_distance(template.cavity, phantom_anatomy.SELLA[:, None, None])[0, 0] < 15
    # The template's top is 83 mm, its back -107 mm, give or take the fluid and the grid.
    assert abs(sample_distance(template.cavity, _at(0, -30, 95))[0, 0] - 12) < 8
    assert sample_distance(template.vault, _at(0, -20, 20))[0, 0] < -40


def test_rounder_hull_holds_the_cavity() -> None:
    template = load_template()
    coarse = template.cavity[::2, ::2, ::2]
    assert (template.vault[coarse < -6] < 0).all()


def test_missing_nilearn_is_said_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TumorlensError, match=r"needs the package nilearn.*tumorlens\[phantom\]"):
        load_template.__wrapped__()


def test_template_that_nilearn_does_not_have_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = ModuleSpec("nilearn", None, is_package=True)
    bare.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: bare)
    with pytest.raises(TumorlensError, match=r"nilearn/.*mni_icbm152_t1.*not found"):
        load_template.__wrapped__()


def test_ripples_have_mean_0_variance_1_and_belong_to_the_place() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-300, 300, (3, 40, 1000)).astype(np.float32)
    field = Ripples(np.random.default_rng(1), 20.0)
    values = field(points)
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05
    np.testing.assert_array_equal(field(points[:, 3:5]), values[3:5])


def test_smoothstep_turns_round_when_its_ends_do() -> None:
    value = np.array([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=np.float32)
    np.testing.assert_allclose(smoothstep(0, 1, value), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(smoothstep(1, 0, value), [1, 1, 0.5, 0, 0])
