"""Damaged, foreign and malicious files get an answer or one sentence, soon and in little memory.

The generator is seeded: checkpoints, safetensors and ONNX files go through `predict`, tables of
predictions through `compare`, tables of splits through `evaluate`.
"""

import gzip
import json
import pickle
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.cli import main
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.inference.onnx_metadata import FEATURES, LOGITS, SQUARES, ExportedFile
from tumorlens.models.build import build_model
from tumorlens.uncertainty.decision import DecisionRule

SEED = 0
CLASSES = ("glioma", "notumor")
SECONDS, MEGABYTES = 20, 700  # of one input: processor time, and growth of the process
Case = tuple[str, Path]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    bare = Checkpoint("resnet18", CLASSES, Preprocessing(32, 0.2, 0.2), {}, None, {}, {})
    ready = checkpoints.with_weights(bare, build_model("resnet18", 2, seed=0), {})
    ready = replace(
        ready,
        temperature=2.0,
        uncertainty_threshold=0.6,
        class_means=torch.zeros(2, 512),
        feature_covariance=torch.eye(512),
        ood_threshold=3.0,
    )
    checkpoints.save(ready, tmp_path / "good.pt")
    checkpoints.save(ready, tmp_path / "good.safetensors")
    return tmp_path / "good.pt"


def _damaged(source: Path, count: int) -> Iterator[Case]:
    """Truncated, with bits flipped, with a stretch of zeros."""
    rng = np.random.default_rng(SEED)
    whole = source.read_bytes()
    for number in range(count):
        content = bytearray(whole[: int(len(whole) * rng.random())] if number % 3 == 0 else whole)
        at = rng.integers(0, min(len(content), 4096) if number % 2 else len(content), 8)
        if number % 3 == 1:
            for place in at:
                content[place] ^= 1 << int(rng.integers(8))
        if number % 3 == 2:
            content[at[0] : at[0] + 512] = bytes(len(content[at[0] : at[0] + 512]))
        path = source.with_name(f"damaged{number}{source.suffix}")
        path.write_bytes(bytes(content))
        yield f"damaged {number}", path


def _changed_entries() -> dict[str, Callable[[dict[str, Any]], object]]:
    """What is done to a sound checkpoint's content."""
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    nan = float("nan")
    return {
        "classes is a number": lambda c: c.update(classes=7),
        "no class": lambda c: c.update(classes=[]),
        "one class twice": lambda c: c.update(classes=["glioma", "glioma"]),
        "classes are numbers": lambda c: c.update(classes=[1, 2]),
        "network of another name": lambda c: c.update(model_name="../../etc/passwd"),
        "weights are a list": lambda c: c.update(weights=[1, 2]),
        "a weight is text": lambda c: c["weights"].update({"fc.weight": "x"}),
        "a weight has another shape": lambda c: c["weights"].update(
            {"fc.weight": torch.zeros(3, 3)}
        ),
        "a weight is huge": lambda c: c["weights"].update({"fc.weight": huge}),
        "a weight is NaN": lambda c: c["weights"].update({"fc.bias": torch.full((2,), nan)}),
        "image size of a billion": lambda c: c["preprocessing"].update(image_size=10**9),
        "image size below zero": lambda c: c["preprocessing"].update(image_size=-3),
        "image size is text": lambda c: c["preprocessing"].update(image_size="big"),
        "std of zero": lambda c: c["preprocessing"].update(std=0.0),
        "temperature is text": lambda c: c.update(temperature="warm"),
        "temperature of zero": lambda c: c.update(temperature=0.0),
        "temperature below zero": lambda c: c.update(temperature=-1.0),
        "temperature is NaN": lambda c: c.update(temperature=nan),
        "threshold is a list": lambda c: c.update(uncertainty_threshold=[1]),
        "covariance is huge": lambda c: c.update(feature_covariance=huge),
        "covariance is of zeros": lambda c: c.update(feature_covariance=torch.zeros(512, 512)),
        "means of another length": lambda c: c.update(class_means=torch.zeros(2, 3)),
        "settings are a number": lambda c: c.update(settings=3),
        "data is text": lambda c: c.update(data="x"),
    }


def _archive(path: Path, entries: dict[str, bytes], compression: int) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


class _Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("code ran",)


def _checkpoint_files(good: Path) -> Iterator[Case]:
    folder = good.parent
    yield from _damaged(good, 9)
    for number, (name, change) in enumerate(_changed_entries().items()):
        content = torch.load(good, weights_only=True)
        change(content)
        path = folder / f"changed{number}.pt"
        torch.save(content, path)
        yield name, path
    torch.save({"format": "tumorlens-checkpoint", "schema": 2, "x": _Runs()}, folder / "runs.pt")
    yield "pickle that runs code", folder / "runs.pt"
    (folder / "bare.pt").write_bytes(pickle.dumps(_Runs()))
    yield "bare pickle", folder / "bare.pt"
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb:
        bomb.writestr("x/version", "3")
        with bomb.open("x/data.pkl", "w") as entry:
            for _ in range(64):
                entry.write(bytes(16 << 20))
    yield "zip bomb", folder / "bomb.pt"
    yield "zip of nothing", _archive(folder / "empty.pt", {}, zipfile.ZIP_STORED)
    deep = b"\x80\x02" + b"(" * 200_000 + b"."
    entries = {"x/data.pkl": deep, "x/version": b"3\n"}
    yield "pickle of 200,000 marks", _archive(folder / "deep.pt", entries, zipfile.ZIP_STORED)


def _safetensors_files(good: Path) -> Iterator[Case]:
    folder, light = good.parent, good.with_suffix(".safetensors")
    yield from _damaged(light, 9)
    (folder / "header.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    yield "header of 4 exabytes", folder / "header.safetensors"
    shape = {"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}
    text = json.dumps(shape).encode()
    (folder / "shape.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    yield "tensor of an absurd shape", folder / "shape.safetensors"
    for number, header in enumerate(("[]", "7", '{"weights": 3}', '{"format": []}', "[" * 100_000)):
        path = folder / f"header{number}.safetensors"
        save_file({"weights.w": torch.zeros(2)}, path, metadata={"tumorlens": header})
        yield f"header {header[:20]}", path


def _onnx_files(good: Path) -> Iterator[Case]:
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    made = onnx.helper
    nodes = [
        made.make_node("Cast", [SQUARES], ["real"], to=onnx.TensorProto.FLOAT),
        made.make_node("Flatten", ["real"], ["flat"]),
        made.make_node("MatMul", ["flat", "w"], [LOGITS]),
        made.make_node("MatMul", ["flat", "v"], [FEATURES]),
    ]
    rng = np.random.default_rng(SEED)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=(64, size)).astype(np.float32), name)
        for name, size in (("w", 2), ("v", 5))
    ]
    graph = made.make_graph(
        nodes,
        "small",
        [made.make_tensor_value_info(SQUARES, onnx.TensorProto.UINT8, ["n", 8, 8])],
        [
            made.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
            for name, size in ((LOGITS, 2), (FEATURES, 5))
        ],
        weights,
    )
    model = made.make_model(graph, opset_imports=[made.make_opsetid("", 17)], ir_version=8)
    sound = ExportedFile("resnet18", 8, 0.2, 0.2, DecisionRule(CLASSES, 2.0, 0.6)).to_metadata()
    path = good.with_name("good.onnx")
    made.set_model_props(model, sound)
    onnx.save(model, path)
    yield from _damaged(path, 6)
    yield "sound", path
    about = json.loads(sound["tumorlens"])
    changes: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"classes": ["a"]},
        {"image_size": 10**9},
        {"ood_threshold": 1.0},
        {"schema": 99},
    ]
    for number, change in enumerate(changes):
        made.set_model_props(model, sound | {"tumorlens": json.dumps(about | change)})
        path = good.with_name(f"changed{number}.onnx")
        onnx.save(model, path)
        yield f"metadata {change}", path


_HEADER = "path,label,prediction,prob_glioma,prob_notumor"
_ROWS = ["t/a.png,glioma,glioma,0.75,0.25", "t/b.png,notumor,notumor,0.25,0.75"]


def _prediction_tables(folder: Path) -> Iterator[Case]:
    def file(name: str, *lines: str) -> Case:
        path = folder / f"{name.replace(' ', '_')}.csv"
        path.write_text("\n".join(lines), encoding="utf-8")
        return name, path

    yield file("nothing")
    yield file("header alone", _HEADER)
    yield file("no label", "path,prob_glioma,prob_notumor", "t/a.png,0.5,0.5")
    yield file("no path", "label,prob_glioma,prob_notumor", "glioma,0.5,0.5")
    yield file("no probability", "path,label", "t/a.png,glioma")
    yield file("one class", "path,label,prob_glioma", "t/a.png,glioma,1")
    yield file("unknown label", _HEADER, _ROWS[0], "t/b.png,cat,cat,0.5,0.5")
    yield file("path twice", _HEADER, _ROWS[0], _ROWS[0])
    yield file("column twice", f"{_HEADER},prob_glioma", f"{_ROWS[0]},0.1")
    yield file("short row", _HEADER, _ROWS[0], "t/b.png,notumor")
    yield file("long row", _HEADER, _ROWS[0], f"{_ROWS[1]},0.5,0.5")
    for name, one, other in (
        ("NaN", "nan", "nan"),
        ("infinity", "inf", "0"),
        ("below zero", "-0.5", "1.5"),
        ("sum of two", "1", "1"),
        ("sum of zero", "0", "0"),
        ("text", "high", "low"),
        ("empty", "", ""),
    ):
        row = f"t/b.png,notumor,notumor,{one},{other}"
        yield file(f"probability {name}", _HEADER, _ROWS[0], row)
    yield file("value of 200 kB", _HEADER, _ROWS[0], f"t/b.png,{'x' * 200_000},y,0.5,0.5")
    yield file("null bytes", _HEADER, "t/\0.png,glioma,glioma,0.5,0.5")
    yield file("near-duplicate of another kind", f"{_HEADER},near_duplicate", f"{_ROWS[0]},maybe")
    bomb = folder / "bomb.csv.gz"
    with gzip.open(bomb, "wb", 1) as packed:
        for _ in range(64):
            packed.write(b"," * (16 << 20))
    yield "gzip bomb", bomb
    (folder / "cut.csv.gz").write_bytes(gzip.compress(_HEADER.encode() * 99)[:40])
    yield "gzip cut short", folder / "cut.csv.gz"
    (folder / "pickle.csv").write_bytes(pickle.dumps(_Runs()))
    yield "a pickle", folder / "pickle.csv"


def _split_tables(folder: Path) -> Iterator[Case]:
    contents = {
        "no split": b"path\ntest/glioma/glioma000.png\n",
        "another split": b"path,split\ntest/glioma/glioma000.png,exam\n",
        "outside": b"path,split\n../../etc/passwd,test\n",
        "absolute": b"path,split\n/etc/passwd,test\n",
        "fold of text": b"path,fold\ntest/glioma/glioma000.png,x\n",
        "huge fold": b"path,fold\ntest/glioma/glioma000.png," + b"9" * 400 + b"\n",
        "NUL": b"path,split\n\0\0,test\n",
        "quote that never ends": b'path,split\n"test/glioma/glioma000.png,test\n',
        "random": np.random.default_rng(SEED).bytes(5000),
    }
    for name, content in contents.items():
        path = folder / f"splits-{name.replace(' ', '-')}.csv"
        path.write_bytes(content)
        yield name, path


def _tried(argv: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run one command; what it did wrong, or nothing."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        status = main(argv)
    except BaseException as error:
        return f"{name}: {type(error).__name__}: {str(error)[:300]}"
    told = capsys.readouterr()
    seconds = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    megabytes = grown / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    faults = []
    if seconds > SECONDS or megabytes > MEGABYTES:
        faults.append(f"took {seconds:.0f} s and {megabytes:.0f} MB")
    if status not in (0, 2) or "Traceback" in told.err or "code ran" in told.out + told.err:
        faults.append(f"status {status}: {told.err[-300:]}")
    if status == 2 and (len(told.err.strip().splitlines()) != 1 or len(told.err) > 1000):
        faults.append(f"not one sentence: {told.err[:500]}")
    if status == 0 and "nan" in told.out.lower():
        faults.append(f"nan in the answer: {told.out[:300]}")
    return f"{name}: {'; '.join(faults)}" if faults else ""


@pytest.mark.parametrize("make", [_checkpoint_files, _safetensors_files, _onnx_files])
def test_hostile_networks_get_an_answer_or_one_sentence(
    good: Path,
    make_folder: Callable[..., Path],
    make: Callable[[Path], Iterator[Case]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = next(make_folder({"test": 1}, classes=CLASSES).rglob("*.png"))
    argv = ["predict", str(image), "--device", "cpu"]
    assert main([*argv, "--checkpoint", str(good)]) == 0
    faults = []
    for name, path in make(good):
        faults.append(_tried([*argv, "--checkpoint", str(path)], name, capsys))
        path.unlink()  # each is as large as a network
    assert not any(faults), "\n".join(filter(None, faults))


def test_hostile_tables_get_an_answer_or_one_sentence(
    good: Path, make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = tmp_path / "sound.csv"
    sound.write_text("\n".join([_HEADER, *_ROWS]), encoding="utf-8")
    out = ["--resamples", "100", "--out_dir", str(tmp_path / "out")]
    faults = [
        _tried(["compare", str(path), str(sound), *out], name, capsys)
        for name, path in _prediction_tables(tmp_path)
    ]
    assert not (tmp_path / "out").exists()
    data = make_folder({"train": 1, "valid": 1, "test": 1}, classes=CLASSES)
    argv = ["evaluate", "--checkpoint", str(good), "--data_dir", str(data), *out]
    faults += [
        _tried([*argv, "--splits", str(path)], name, capsys)
        for name, path in _split_tables(tmp_path)
    ]
    assert not any(faults), "\n".join(filter(None, faults))
