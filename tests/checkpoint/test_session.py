import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.preprocessing import Preprocessing
from tumorlens.checkpoint.session import ImageChoice, Session, open_session
from tumorlens.data import cache
from tumorlens.models.build import build_model

CLASSES = ("glioma", "notumor")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    rng = np.random.default_rng(0)
    for split, count in (("train", 1), ("valid", 2), ("test", 3)):
        for label in CLASSES:
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{number}.png")
    network = build_model("resnet18", 2, seed=0)
    checkpoint = Checkpoint(
        model_name="resnet18",
        classes=CLASSES,
        preprocessing=Preprocessing(32, 0.0, 1.0),
        weights=network.state_dict(),
        data=None,
        settings={},
        selected={},
    )
    return open_session(checkpoint, ImageChoice(tmp_path), device=torch.device("cpu"))


def test_another_split_has_the_same_network_and_its_own_images(session: Session) -> None:
    valid = session.of_split("valid")
    assert valid is not None
    assert (session.split, valid.split) == ("test", "valid")
    assert valid.network is session.network
    assert len(valid.data.paths) == len(valid.logits) == 4
    assert all(path.startswith("valid/") for path in valid.data.paths)
    shutil.rmtree(session.data.root / "valid")
    assert session.of_split("valid") is None


def test_another_size_is_decoded_once_and_some_images_keep_theirs(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert session.images_at(32) is session.data.images
    large = session.images_at(48)
    assert large.shape == (6, 48, 48)
    monkeypatch.setattr(cache, "load", None)
    assert session.images_at(48) is large
    keep = np.array([4, 1])
    some = session.only(keep)
    assert (some.images_at(48) == large[keep]).all()
    np.testing.assert_allclose(some.logits, session.logits[keep], atol=1e-5)
