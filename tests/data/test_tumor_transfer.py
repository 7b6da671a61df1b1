import numpy as np
import torch

from tumorlens.data.tumor_transfer import Donors, transfer

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
