import numpy as np
import pytest

from tumorlens.explain.overlay import OPACITY, Explained, Tile, blend, on_picture, panel


def _view(prediction: str = "glioma", hottest: float = 1.0) -> Explained:
    relevance = np.linspace(0, hottest, 9, dtype=np.float32).reshape(3, 3)
    return Explained("resnet18", relevance, "glioma", prediction, 0.9, 0.9)


@pytest.mark.parametrize(("height", "width"), [(60, 60), (40, 80), (80, 40)])
def test_map_lands_on_the_picture_not_on_its_padding(height: int, width: int) -> None:
    # One hot cell in the middle of the square is the middle of the picture, whatever its shape.
    relevance = np.zeros((5, 5), dtype=np.float32)
    relevance[2, 2] = 1
    placed = on_picture(relevance, height, width)
    assert placed.shape == (height, width)
    rows, columns = np.unravel_index(placed.argmax(), placed.shape)
    assert abs(rows - height / 2) <= 1
    assert abs(columns - width / 2) <= 1


def test_corner_cell_of_a_wide_picture_is_padding() -> None:
    relevance = np.zeros((4, 4), dtype=np.float32)
    relevance[0, :] = 1  # the top quarter of the square is padding for a 2:1 picture
    assert on_picture(relevance, 50, 100)[10:].max() < 0.35


def test_cold_places_show_the_picture_and_hot_ones_still_some_of_it() -> None:
    grey = np.full((2, 2), 100, dtype=np.uint8)
    mixed = blend(grey, np.array([[0.0, 1.0], [2.0, 4.0]]), highest=4.0)
    assert mixed[0, 0].tolist() == [100, 100, 100]
    brighter = blend(grey + 50, np.full((2, 2), 4.0), highest=4.0)[1, 1].astype(int)
    assert (brighter - mixed[1, 1]).tolist() == pytest.approx([50 * (1 - OPACITY)] * 3, abs=1)


def test_map_of_nothing_colours_nothing() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (blend(grey, np.zeros((2, 3)), 0.0) == grey[..., None]).all()


def _texts(figure) -> str:
    return " | ".join(
        [axes.get_title() for axes in figure.axes]
        + [text.get_text() for axes in figure.axes for text in axes.texts]
    )


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_panel_tells_right_from_wrong_in_words(count: int) -> None:
    grey = np.zeros((30, 40), dtype=np.uint8)
    tiles = [
        Tile(grey, f"test/{index}.png", "glioma", (_view("glioma" if index % 2 else "pituitary"),))
        for index in range(count)
    ]
    said = _texts(panel(tiles, "title"))
    assert said.count("WRONG: pituitary 0.90") == (count + 1) // 2
    assert said.count("right: glioma 0.90") == count // 2
    assert said.count("true: glioma") == count


def test_panel_draws_its_scale_and_makes_no_claim_without_a_label() -> None:
    figure = panel([Tile(np.zeros((30, 40), dtype=np.uint8), "x" * 90, None, (_view(),))], "t")
    assert any("relevance" in axes.get_ylabel() for axes in figure.axes)
    assert "no label given" in _texts(figure)
    assert "right" not in _texts(figure)


def test_two_networks_share_one_scale() -> None:
    grey = np.full((30, 30), 50, dtype=np.uint8)
    tile = Tile(grey, "a.png", "glioma", (_view(hottest=1.0), _view(hottest=4.0)))
    figure = panel([tile], "t")
    faint, strong = (axes.images[0].get_array().astype(int) for axes in figure.axes[1:3])
    assert np.abs(strong - 50).max() > 2 * np.abs(faint - 50).max()
