import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tumorlens.checkpoint.file import Checkpoint
from tumorlens.checkpoint.session import ImageChoice, Session, images_of, open_session
from tumorlens.data import cache
from tumorlens.data.dataset import load_for_training
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.data.splits import resolve
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
    images = ImageChoice(session.data.root)
    without = open_session(session.checkpoint, images, device=torch.device("cpu"))
    assert without.of_split("valid") is None


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


@pytest.fixture
def remembering(record_of: Callable[..., Any]) -> Callable[..., Checkpoint]:
    """The session's checkpoint as training would have left it: remembering(session, **changes)."""

    def make(session: Session, **changes: Any) -> Checkpoint:
        record = record_of(load_for_training(resolve(session.data.root), 32))
        return replace(session.checkpoint, data=replace(record, **changes))

    return make


def _image(path: Path) -> None:
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(path)


def test_images_that_came_after_training_are_not_scored_and_counted(
    session: Session, remembering: Callable[..., Checkpoint]
) -> None:
    for split in ("train", "valid"):  # of one image a class nothing is trained
        _image(session.data.root / split / "glioma" / "more.png")
        _image(session.data.root / split / "notumor" / "more.png")
    checkpoint = remembering(session)
    _image(session.data.root / "test" / "glioma" / "new.png")
    _image(session.data.root / "train" / "glioma" / "new.png")
    again = open_session(checkpoint, ImageChoice(), device=torch.device("cpu"))
    assert len(again.data.paths) == 6
    assert again.data.unused == (
        f"Not used of {session.data.root}: images in no split of the checkpoint's record of its "
        "images (1 in test/, 1 in train/)."
    )
    left_out = remembering(session, skipped={"test/glioma/new.png": "truncated"})
    images = ImageChoice(session.data.root)
    assert "test/" not in images_of(left_out, images).note


def test_moved_folder_keeps_the_split_in_either_form_of_unicode(
    session: Session, tmp_path: Path, remembering: Callable[..., Checkpoint]
) -> None:
    root = session.data.root
    for split in ("train", "valid", "test"):
        _image(root / split / "glioma" / unicodedata.normalize("NFC", "é.png"))
        _image(root / split / "notumor" / "more.png")
    checkpoint = remembering(session)
    for split in ("train", "valid", "test"):
        composed = root / split / "glioma" / unicodedata.normalize("NFC", "é.png")
        composed.rename(composed.with_name(unicodedata.normalize("NFD", "é.png")))
    found = images_of(checkpoint, ImageChoice(root))
    assert found.source == "the checkpoint's record of its images"
    assert (found.note, dict(found.missing)) == ("", {})
