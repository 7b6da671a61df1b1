import numpy as np
import pytest
import torch

from tumorlens.data.display_changes import CHANGES, EVERYDAY

IMAGES = torch.from_numpy(np.random.default_rng(0).random((2, 32, 32))).float()


@pytest.mark.parametrize("name", CHANGES)
def test_change_keeps_shape_and_range_and_is_the_same_again(name: str) -> None:
    change = CHANGES[name]
    for value in change.values:
        found = change.apply(IMAGES.clone(), value)
        assert found.shape == IMAGES.shape
        assert found.min() >= 0
        assert found.max() <= 1
        assert torch.equal(found, change.apply(IMAGES.clone(), value))


@pytest.mark.parametrize(
    "name", [name for name, change in CHANGES.items() if len(change.values) > 1]
)
def test_grades_grow(name: str) -> None:
    smooth = torch.linspace(0, 1, 32).expand(1, 32, 32) * torch.linspace(0.2, 1, 32)[:, None]
    change = CHANGES[name]
    if name in ("blur", "resolution"):
        smooth = IMAGES[:1]
    far = [float((change.apply(smooth, v) - smooth).abs().mean()) for v in change.values]
    assert far == sorted(far)
    assert far[-1] > 0


def test_known_answers() -> None:
    half = torch.full((1, 8, 8), 0.5)
    assert torch.allclose(CHANGES["darker"].apply(half, 0.6), torch.tensor(0.3))
    assert torch.allclose(CHANGES["brighter"].apply(half, 3.0), torch.tensor(1.0))
    assert torch.allclose(CHANGES["gamma, dark"].apply(half, 2.0), torch.tensor(0.25))
    assert torch.allclose(CHANGES["blur"].apply(half, 1.0), half)
    one = torch.zeros(1, 9, 9)
    one[0, 4, 1] = 1
    assert CHANGES["mirrored"].apply(one, 1)[0, 4, 7] == 1
    assert CHANGES["mirrored"].grades == {EVERYDAY: 1}
    assert torch.allclose(CHANGES["zoom"].apply(half, 1.2), half, atol=1e-6)
    assert CHANGES["padding"].apply(half, 0.5)[0, 0, 0] == 0
