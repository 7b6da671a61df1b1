"""Two untrained networks, and the page in front of them without a socket."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.models.build import build_model
from tumorlens.settings import ServeSettings

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two untrained networks, the first with temperature and threshold."""
    folder = tmp_path_factory.mktemp("networks")
    for name in ("resnet18", "se_resnet18"):
        made = Checkpoint(
            model_name=name,
            classes=CLASSES,
            preprocessing=Preprocessing(32, 0.25, 0.2),
            weights=build_model(name, 4).state_dict(),
            data=None,
            settings={"run": name},
            selected={},
            temperature=2.0 if name == "resnet18" else None,
            uncertainty_threshold=0.99 if name == "resnet18" else None,
        )
        checkpoints.save(made, folder / f"{name}.pt")
    return folder


@pytest.fixture(scope="session")
def settings(networks: Path) -> ServeSettings:
    """Of a server of both, on any free port, with limits that tests reach quickly."""
    return ServeSettings(
        checkpoint=networks / "resnet18.pt",
        compare=networks / "se_resnet18.pt",
        port=0,
        max_mb=1,
        max_megapixels=0.5,
        device="cpu",
        threads=1,
    )


@pytest.fixture(scope="session")
def make_app(settings: ServeSettings) -> Callable[..., Any]:
    """Make the application: make_app(root_path="/lens")."""
    pytest.importorskip("starlette", reason="the extra `web` is not installed")
    from tumorlens.web.app import create_app
    from tumorlens.web.predictor import Predictor
    from tumorlens.web.uploads import Limits

    predictor, limits = Predictor(settings), Limits(1_000_000, 500_000)

    def make(hosts: frozenset[str] | None = settings.host_names, root_path: str = "") -> Any:
        return create_app(predictor, limits, hosts, root_path)

    return make


def ask(app: Any, *requests: tuple[Any, ...], **headers: str) -> list[Any]:
    """The responses to requests (method, path, body) that are sent at once."""
    import httpx

    async def all_at_once() -> list[Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            sent = (
                client.request(method, path, content=body[0] if body else None, headers=headers)
                for method, path, *body in requests
            )
            return await asyncio.gather(*sent)

    return asyncio.run(all_at_once())


def png(height: int = 40, width: int = 40, seed: int = 0) -> bytes:
    """A slice of noise."""
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def nifti(shape: tuple[int, ...] = (20, 24, 5)) -> bytes:
    """A volume of noise."""
    import nibabel

    values = np.random.default_rng(1).integers(0, 99, shape).astype(np.int16)
    return nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
