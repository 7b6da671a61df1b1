import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tumorlens.data.details import SAME_DETAILS, _blur, details, similarity
from tumorlens.data.hashing import TRANSFORMS, apply


def _scene(number: int, size: int = 96) -> np.ndarray:
    """A picture with structure at every scale."""
    rng = np.random.default_rng(number)
    picture = np.zeros((size, size))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        picture += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / cells**0.5
    return np.clip(110 + 40 * picture, 0, 255).astype(np.uint8)


ONE, OTHER = np.array([0]), np.array([1])


def test_details_have_mean_0_and_norm_1_and_half_the_size() -> None:
    found = details(np.stack([_scene(1), _scene(2)])[:, :80])
    assert found.shape == (2, 40, 48)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.reshape(2, -1), axis=1), 1, rtol=1e-5)


def test_picture_of_one_grey_has_no_details_and_resembles_nothing() -> None:
    seen = details(np.stack([np.full((96, 96), 90, dtype=np.uint8)] * 2))
    assert not seen.any()
    assert similarity(seen, ONE, OTHER, "identity").tolist() == [0.0]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_turned_picture_agrees_in_every_detail_under_its_transform_alone(transform: str) -> None:
    picture = _scene(3)
    seen = details(np.stack([picture, apply(picture, transform)]))
    for name in TRANSFORMS:
        value = similarity(seen, ONE, OTHER, name)[0]
        assert value == pytest.approx(1, abs=1e-5) if name == transform else value < 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture * 0.5 + 20,
        lambda picture: np.clip(picture * 1.4, 0, 255),
        lambda picture: 255 * (picture / 255) ** 0.6,
    ],
    ids=["less contrast", "brighter", "gamma"],
)
def test_change_of_contrast_leaves_the_details(change) -> None:
    picture = _scene(4)
    changed = change(picture.astype(np.float64)).astype(np.uint8)
    assert similarity(details(np.stack([picture, changed])), ONE, OTHER, "identity")[0] > 0.95


def test_similar_shape_with_other_details_is_not_the_same() -> None:
    coarse = np.asarray(Image.fromarray(_scene(5)).resize((6, 6)).resize((96, 96)), dtype=float)
    rng = np.random.default_rng(0)
    noise = [
        np.asarray(Image.fromarray(rng.normal(0, 7, (40, 40)).astype(np.float32)).resize((96, 96)))
        for _ in range(2)
    ]
    pictures = np.stack([np.clip(coarse + one, 0, 255).astype(np.uint8) for one in noise])
    grey = pictures.reshape(2, -1).astype(float)
    assert np.corrcoef(grey)[0, 1] > 0.9  # plain correlation would be fooled
    assert similarity(details(pictures), ONE, OTHER, "identity")[0] < SAME_DETAILS - 0.2


@pytest.mark.parametrize(("height", "width"), [(48, 48), (5, 9)])
def test_blur_is_scipys(height: int, width: int) -> None:
    picture = np.random.default_rng(0).random((height, width)).astype(np.float32)
    blurred = _blur(height) @ picture @ _blur(width).T
    np.testing.assert_allclose(blurred, gaussian_filter(picture, 1.5), atol=1e-5)
