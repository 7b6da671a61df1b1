import numpy as np
import pytest
import torch

from tumorlens.data.preprocessing import (
    Preprocessing,
    crop_to_head,
    own_scale,
    standardised,
    undo_crop,
)


def _head(side: int = 64, x: int = 20, y: int = 30, radius: int = 12) -> torch.Tensor:
    rows, columns = np.mgrid[:side, :side]
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    texture = 0.4 + 0.3 * np.sin(columns / 2) * np.cos(rows / 3)
    return torch.from_numpy(np.where(inside, texture, 0.0)).float()[None]


@pytest.mark.parametrize("factor", [0.5, 0.8])
def test_brightness_of_the_display_says_nothing(factor: float) -> None:
    head = _head()
    torch.testing.assert_close(standardised(head * factor), standardised(head), atol=1e-4, rtol=0)
    assert own_scale(head * factor).max() == 1


def test_head_fills_the_square_wherever_it_was_and_however_large() -> None:
    for x, y, radius in ((20, 30, 12), (40, 22, 18)):
        framed = crop_to_head(_head(x=x, y=y, radius=radius))[0] > 0.05
        for profile in (framed.any(dim=0), framed.any(dim=1)):
            places = torch.nonzero(profile)[:, 0]
            assert places[0] <= 6
            assert places[-1] >= 64 - 7


def test_image_without_any_foreground_stays() -> None:
    empty = torch.zeros(2, 16, 16)
    assert torch.equal(crop_to_head(empty), empty)
    assert torch.isfinite(standardised(empty)).all()


def test_map_of_the_crop_lies_over_the_image_again() -> None:
    image = _head(x=20, y=30, radius=12)
    spot = torch.zeros(1, 64, 64)
    spot[0, 30:34, 22:26] = 1
    preprocessing = Preprocessing(64, 0, 1, crop_head=True)
    framed = preprocessing.frame(spot, image)
    back = undo_crop(framed, image)[0]
    at = np.unravel_index(int(back.argmax()), back.shape)
    np.testing.assert_allclose(np.array(at) * 2, (32, 24), atol=3)
    whole = Preprocessing(64, 0, 1)
    assert torch.equal(whole.unframed(framed, (image * 255).byte()), framed)
