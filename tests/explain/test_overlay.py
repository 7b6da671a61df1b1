from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from tumorlens.evaluation.plots import save
from tumorlens.explain.overlay import (
    OPACITY,
    Explained,
    Tile,
    blend,
    full_heat,
    gallery,
    on_image,
    panel,
)
from tumorlens.explain.regions import Outline
from tumorlens.models.build import build_model


def _view(prediction: str = "glioma", hottest: float = 1.0) -> Explained:
    relevance = np.linspace(0, hottest, 9, dtype=np.float32).reshape(3, 3)
    return Explained("resnet18", relevance, 96, "glioma", prediction, 0.9, 0.9)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (60, 60), (40, 80), (80, 40)])
def test_cell_lands_where_the_network_looked(height: int, width: int) -> None:
    # Cell 1 of a layer of stride 32 is centred on pixel 32 of the 96: a third down the square.
    relevance = np.zeros((3, 3), dtype=np.float32)
    relevance[1, 1] = 1
    placed = on_image(relevance, height, width, 96)
    assert placed.shape == (height, width)
    side = max(height, width)
    row, column = np.unravel_index(placed.argmax(), placed.shape)
    assert row + (side - height) / 2 == pytest.approx(side / 3, abs=1)
    assert column + (side - width) / 2 == pytest.approx(side / 3, abs=1)


@pytest.mark.parametrize("layer", ["layer2", "layer3", "layer4"])
def test_centre_of_a_cell_is_where_the_input_moves_it_most(layer: str) -> None:
    network = build_model("resnet18", 4, seed=0).double().eval()
    image = torch.zeros(1, 3, 224, 224, dtype=torch.float64, requires_grad=True)
    seen = []
    handle = dict(network.named_modules())[layer].register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    generator = torch.Generator().manual_seed(0)
    noisy = image + torch.randn(4, 3, 224, 224, generator=generator, dtype=torch.float64)
    network(noisy)
    handle.remove()
    features = seen[0]
    cells = features.shape[2]
    cell = cells // 2
    (gradient,) = torch.autograd.grad(features[:, :, cell].square().sum(), image)
    weight = gradient[0].square().sum((0, 2))
    centre = float((weight * torch.arange(224)).sum() / weight.sum())
    relevance = np.zeros((cells, cells), dtype=np.float32)
    relevance[cell] = 1
    assert int(on_image(relevance, 224, 224, 224)[:, 0].argmax()) == pytest.approx(centre, abs=4)


def test_corner_cell_of_a_wide_picture_is_padding() -> None:
    relevance = np.zeros((6, 6), dtype=np.float32)
    relevance[0, :] = 1  # the top quarter of the square is padding for a 2:1 image
    assert on_image(relevance, 50, 100, 96).max() == 0


def test_cold_places_show_the_picture_and_hot_ones_still_some_of_it() -> None:
    grey = np.full((2, 2), 100, dtype=np.uint8)
    mixed = blend(grey, np.array([[0.0, 1.0], [2.0, 4.0]]), hottest=4.0)
    assert mixed[0, 0].tolist() == [100, 100, 100]
    brighter = blend(grey + 50, np.full((2, 2), 4.0), hottest=4.0)[1, 1].astype(int)
    assert (brighter - mixed[1, 1]).tolist() == pytest.approx([50 * (1 - OPACITY)] * 3, abs=1)


def test_one_hot_pixel_does_not_hide_the_rest_of_a_map() -> None:
    spiky = np.ones((50, 50))
    spiky[0, 0] = 100
    assert full_heat([spiky]) == pytest.approx(1)
    assert full_heat([spiky, 3 * spiky]) == pytest.approx(3)
    alone = np.zeros((50, 50))
    alone[0, 0] = 7
    assert full_heat([alone]) == 7


def test_frame_of_the_verdict_does_not_cover_the_picture() -> None:
    grey = np.zeros((30, 30), dtype=np.uint8)
    drawn = panel([Tile(grey, "a.png", "glioma", (_view("pituitary"),))], "title")
    (frame,) = drawn.axes[1].patches
    assert frame.get_linestyle() == "--"
    assert frame.get_x() < 0
    assert frame.get_x() + frame.get_width() > 1


def test_box_of_the_tumor_is_drawn_on_picture_and_map() -> None:
    grey = np.zeros((40, 80), dtype=np.uint8)
    known = Outline(((0.25, 0.5, 0.5, 1.0),), None)
    drawn = panel([Tile(grey, "a.png", "glioma", (_view(),), known)], "title")
    for axes in drawn.axes[:2]:
        box = axes.patches[-1]
        assert box.get_xy() == (19.5, 19.5)
        assert (box.get_width(), box.get_height()) == (20, 20)


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


def test_long_names_and_dollar_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    name = "$alpha_{1$ no_tumor " + "x" * 50
    grey = np.zeros((30, 40), dtype=np.uint8)
    one = replace(_view(name), name=name, target=name)
    figure = gallery({"best": [Tile(grey, f"{name}.png", name, (one, one))]}, name)
    save(figure, tmp_path / "gallery.png")
    drawn = [text.get_text().replace("\n", "") for text in figure.findobj(Text)]
    assert f"true: {name}" in drawn
    assert all(not text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())
    with Image.open(tmp_path / "gallery.png") as image:
        assert image.width > 600
