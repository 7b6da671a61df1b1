import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint import session as sessions
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.data import cache
from tumorlens.explain import panel
from tumorlens.explain.panel import distinct_names, gradcam
from tumorlens.models.resnet import ResNet
from tumorlens.settings import GradcamSettings


@pytest.fixture
def pair(bright: Checkpoint, dark: Checkpoint, tmp_path: Path) -> list[Path]:
    """Two networks of the same kind and the same run name, each in a folder of its own."""
    files = [tmp_path / name / "best_model.pt" for name in ("a", "b")]
    for file, checkpoint in zip(files, (bright, dark), strict=True):
        checkpoints.save(replace(checkpoint, settings={"run": "resnet18-seed0-1"}), file)
    return files


def _settings(pair: list[Path], root: Path, **more: object) -> GradcamSettings:
    return GradcamSettings(
        pair[0], compare=pair[1], data_dir=root, layer="layer2", count=2, resamples=100, **more
    )


def test_two_networks_of_one_run_name_are_both_there(
    pair: list[Path], heads: Callable[..., Path]
) -> None:
    root = heads({"train": 1, "valid": 3, "test": 4})
    found = gradcam(_settings(pair, root, boxes=root / "boxes.csv", sanity=True, sample=2))
    names = [f"resnet18-seed0-1 ({file.as_posix()})" for file in pair]
    written = json.loads((found.out_dir / "explain.json").read_text())
    assert written["localization"] == found.measured["localization"]
    assert written["networks"] == list(written["localization"]) == names
    assert list(written["sanity"]["networks"]) == names
    first, second = (
        written["localization"][name]["network"]["all"]["energy_pointing_game"]["value"]
        for name in names
    )
    gap = written["comparison"]["localization"]["all"]["energy_pointing_game"]["value"]
    assert gap == pytest.approx(second - first)
    assert gap < 0
    rows = json.loads((found.out_dir / "gradcam.json").read_text())["images"]
    assert [row["network"] for row in rows] == names * 2
    overlays = (found.out_dir / "overlays").rglob("*.png")
    drawn = {path.relative_to(found.out_dir).as_posix() for path in overlays}
    assert drawn == {row["overlay"] for row in rows}
    assert all(name.count("/") == 1 for name in drawn)  # though the names have slashes


def test_names_are_the_shortest_that_tell_networks_apart(bright: Checkpoint) -> None:
    def named(model: str, run: str, path: str) -> Checkpoint:
        return replace(bright, model_name=model, settings={"run": run}, path=Path(path))

    one = named("resnet18", "r1", "a.pt")
    assert distinct_names([one]) == ["resnet18"]
    assert distinct_names([one, named("se_resnet18", "r1", "a.pt")]) == ["resnet18", "se_resnet18"]
    assert distinct_names([one, named("resnet18", "r2", "b.pt")]) == ["r1", "r2"]
    assert distinct_names([one, named("resnet18", "r1", "b.pt")]) == ["r1 (a.pt)", "r1 (b.pt)"]
    assert distinct_names([one, one]) == ["r1 (1)", "r1 (2)"]


def test_checkpoint_boxes_images_and_logits_are_read_or_made_once(
    pair: list[Path], heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = heads({"train": 1, "valid": 3, "test": 4})
    calls: Counter[object] = Counter()

    def count(module: object, name: str, key: Callable[..., object]) -> None:
        original = getattr(module, name)

        def counted(*args: object, **more: object) -> object:
            calls[key(*args, **more)] += 1
            return original(*args, **more)

        monkeypatch.setattr(module, name, counted)

    count(checkpoints, "load", lambda path: ("checkpoint", path))
    count(panel, "read_boxes", lambda _: "boxes")
    count(sessions, "describe", lambda *_, **__: "logits")
    count(cache, "load", lambda _root, paths, size, *_: ("decoded", paths[0], size))
    every = _settings(
        pair, root, boxes=root / "boxes.csv", faithfulness=True, sanity=True, sample=2, map_size=96
    )
    gradcam(every)
    assert calls["boxes"] == 1
    assert [calls["checkpoint", file] for file in pair] == [1, 1]
    assert calls["logits"] == 2  # one a network
    # For each network test images at both sizes, and the boxed validation images.
    decoded = {key[1:]: number for key, number in calls.items() if key[0] == "decoded"}
    assert decoded == {
        ("test/glioma/00.png", 64): 2,
        ("test/glioma/00.png", 96): 2,
        ("valid/glioma/00.png", 64): 2,
        ("valid/glioma/00.png", 96): 2,
    }


def test_maps_of_the_default_layer_take_one_forward_pass_an_image(
    pair: list[Path], heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = heads({"train": 1, "test": 3})
    passed: list[int] = []
    original = ResNet.forward
    monkeypatch.setattr(
        ResNet, "forward", lambda self, x: passed.append(len(x)) or original(self, x)
    )
    found = gradcam(GradcamSettings(pair[0], data_dir=root, count=2))
    assert passed == [6, 2, 2]  # to choose among all; for the probability, and for the map
    assert found.tiles[0].views[0].map.shape == (8, 8)


def test_names_of_files_are_short_and_have_no_slash(
    pair: list[Path], heads: Callable[..., Path], tmp_path: Path
) -> None:
    root = heads({"train": 1, "test": 1})
    image = tmp_path / f"{'é' * 120}.png"  # 240 bytes; a name may have 255
    image.write_bytes((root / "test/glioma/00.png").read_bytes())
    settings = GradcamSettings(pair[0], compare=pair[1], images=(image,), save_maps=True)
    out = gradcam(settings).out_dir
    written = [*(out / "overlays").iterdir(), *(out / "maps").iterdir()]
    assert len(written) == 4
    assert all(len(path.name.encode()) < 255 for path in written)
    assert len({path.stem for path in written}) == 2
