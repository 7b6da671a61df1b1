from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve
from tumorlens.data.tumor_transfer import Donors, donors_of, read_outlines, transfer
from tumorlens.errors import TumorlensError

SIDE = 32
MASK = np.zeros((1, SIDE, SIDE), dtype=np.uint8)
MASK[0, 12:20, 12:20] = 1
TUMOR = np.full((1, SIDE, SIDE), 100, dtype=np.uint8)
TUMOR[0, 12:20, 12:20] = 200
HEALTHY = np.full((1, SIDE, SIDE), 100, dtype=np.uint8)


def _moved(share: float, sham: float) -> tuple[torch.Tensor, torch.Tensor]:
    donors = Donors(TUMOR, MASK, np.array([2]), HEALTHY, 1, share, sham)
    images = torch.full((4, SIDE, SIDE), 100 / 255)
    return transfer(images, torch.tensor([1, 1, 0, 1]), torch.arange(4), donors, 0, 0)


def test_tumor_comes_with_its_label_and_only_into_images_without_one() -> None:
    images, labels = _moved(1.0, 0.0)
    assert labels.tolist() == [2, 2, 0, 2]
    assert images[0, 16, 16] > 0.7
    assert torch.allclose(images[2], torch.tensor(100 / 255))
    assert torch.allclose(images[0, 0], torch.tensor(100 / 255))


def test_healthy_tissue_changes_no_label() -> None:
    images, labels = _moved(0.0, 1.0)
    assert labels.tolist() == [1, 1, 0, 1]
    assert torch.allclose(images, torch.tensor(100 / 255), atol=1e-3)


def test_nothing_is_put_into_air() -> None:
    donors = Donors(TUMOR, MASK, np.array([2]), HEALTHY, 1, 1.0, 0.0)
    dark = torch.zeros(2, SIDE, SIDE)
    images, labels = transfer(dark, torch.tensor([1, 1]), torch.arange(2), donors, 0, 0)
    assert torch.equal(images, dark)
    assert labels.tolist() == [1, 1]


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Dataset:
    return load_for_training(resolve(make_folder({"train": 3, "valid": 2})), 32)


def _table(folder: Path, *rows: str) -> Path:
    path = folder / "outlines.csv"
    path.write_text("\n".join(["path,outline", *rows]) + "\n", encoding="utf-8")
    return path


def test_donors_are_outlined_training_images_and_healthy_ones(
    data: Dataset, tmp_path: Path
) -> None:
    glioma = next(path for path in data.paths_of("train") if "glioma" in path)
    table = _table(
        tmp_path,
        f'{glioma},"0.25,0.25 0.75,0.25 0.75,0.75 0.25,0.75"',
        f'{data.paths_of("valid")[0]},"0.1,0.1 0.2,0.1 0.2,0.2"',
    )
    found = donors_of(table, data, Preprocessing(32, 0.2, 0.2))
    assert found.labels.tolist() == [data.classes.index("glioma")]
    assert len(found.healthy) == 3
    assert found.masks[0, 16, 16] == 1
    assert found.masks[0, 4, 4] == 0
    assert found.masks.mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("outline", "told"),
    [
        ("0.1,0.1 0.2,0.2", "three or more corners"),
        ("0.1,0.1 0.2,0.2 1.5,0.3", "fractions from 0 to 1"),
        ("here", "three or more corners"),
        ("", "three or more corners"),
    ],
)
def test_outline_that_is_none_is_refused(tmp_path: Path, outline: str, told: str) -> None:
    with pytest.raises(TumorlensError, match=told):
        read_outlines(_table(tmp_path, f'a.jpg,"{outline}"'))


def test_outlines_that_fit_no_training_image_are_refused(data: Dataset, tmp_path: Path) -> None:
    square = '"0.1,0.1 0.9,0.1 0.9,0.9"'
    with pytest.raises(TumorlensError, match="has none of the 12 training images"):
        donors_of(_table(tmp_path, f"other.jpg,{square}"), data, Preprocessing(32, 0, 1))
    healthy = next(path for path in data.paths_of("train") if "notumor" in path)
    with pytest.raises(TumorlensError, match="which is notumor"):
        donors_of(_table(tmp_path, f"{healthy},{square}"), data, Preprocessing(32, 0, 1))
