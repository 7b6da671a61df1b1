from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tumorlens.errors import TumorlensError
from tumorlens.inference.backends import OnnxBackend
from tumorlens.inference.onnx_metadata import ExportedFile
from tumorlens.uncertainty.decision import DecisionRule
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 4


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A graph with known predictions: feature = mean grey value, logits = (feature, 100)."""

    def make(
        rule: DecisionRule | None, *, side: int = SIDE, metadata: dict[str, str] | None = None
    ):
        helper, kinds = onnx.helper, onnx.TensorProto
        nodes = [
            helper.make_node("Cast", ["squares"], ["floats"], to=kinds.FLOAT),
            helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
            helper.make_node("Reshape", ["mean", "column"], ["features"]),
            helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "mean",
            [helper.make_tensor_value_info("squares", kinds.UINT8, ["N", side, side])],
            [
                helper.make_tensor_value_info("logits", kinds.FLOAT, ["N", 2]),
                helper.make_tensor_value_info("features", kinds.FLOAT, ["N", 1]),
            ],
            [
                helper.make_tensor("axes", kinds.INT64, [2], [1, 2]),
                helper.make_tensor("column", kinds.INT64, [2], [-1, 1]),
                helper.make_tensor("weight", kinds.FLOAT, [1, 2], [1.0, 0.0]),
                helper.make_tensor("bias", kinds.FLOAT, [2], [0.0, 100.0]),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        if rule is not None:
            about = ExportedFile("resnet18", SIDE, 0.2, 0.3, rule)
            helper.set_model_props(model, about.to_metadata() | (metadata or {}))
        path = tmp_path / "network.onnx"
        onnx.save(model, path)
        return path

    return make


def _flat(*values: int) -> np.ndarray:
    return np.stack([np.full((SIDE, SIDE), value, dtype=np.uint8) for value in values])


def test_pictures_become_logits_and_features_in_batches_of_any_size(
    write: Callable[..., Path],
) -> None:
    backend = OnnxBackend(write(DecisionRule(("bright", "dark"))), threads=1)
    assert (backend.name, backend.image_size) == ("resnet18", SIDE)
    for values in ((50,), (50, 250, 0)):
        logits, features = backend.describe(_flat(*values))
        np.testing.assert_array_equal(features, np.array(values, dtype=float)[:, None])
        np.testing.assert_array_equal(logits, [[value, 100] for value in values])
        assert logits.dtype == features.dtype == np.float64


def test_temperature_thresholds_and_novelty_of_the_file_decide_the_verdict(
    write: Callable[..., Path],
) -> None:
    space = FeatureSpace(np.array([[100.0], [200.0]]), np.array([[100.0]]), threshold=5.0)
    backend = OnnxBackend(write(DecisionRule(("bright", "dark"), 10.0, 0.9, space)), threads=1)
    decided = backend.rule.decide(*backend.describe(_flat(110, 200, 30)))
    # 110: (110 - 100) / 10 is a log odds of 1 and a distance of 1; 30: 7 spreads from 100.
    assert [each.prediction for each in decided] == ["bright", "bright", "dark"]
    assert [each.decision for each in decided] == [
        "uncertain",
        "confident",
        "out of distribution",
    ]
    assert decided[0].probabilities[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert [each.distance for each in decided] == pytest.approx([1, 0, 7])


def _told(path: Path) -> str:
    with pytest.raises(TumorlensError) as caught:
        OnnxBackend(path)
    words = str(caught.value)
    assert words.startswith(str(path))
    assert "`tumorlens export` wrote" in words
    assert "\n" not in words
    return words


def test_what_is_no_network_of_ours_gets_one_sentence(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("to whom it may concern", encoding="utf-8")
    assert "cannot be read as an ONNX file" in _told(text)
    empty = tmp_path / "empty.onnx"
    empty.touch()
    assert "cannot be read as an ONNX file" in _told(empty)
    assert "found nothing" in _told(tmp_path / "nowhere.onnx")
    assert "found a folder" in _told(tmp_path)
    assert "an ONNX file, but not one" in _told(write(None))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(write(DecisionRule(("a", "b"))).read_bytes()[:200])
    _told(cut)


def test_a_graph_that_is_not_what_its_metadata_tell_is_refused(
    write: Callable[..., Path],
) -> None:
    assert "not the one that its metadata tell of" in _told(write(DecisionRule(("a", "b", "c"))))
    assert "not the one that its metadata tell of" in _told(write(DecisionRule(("a", "b")), side=8))
    space = FeatureSpace(np.zeros((2, 2)), np.eye(2), threshold=1.0)
    assert "not the one that its metadata tell of" in _told(
        write(DecisionRule(("a", "b"), space=space))
    )
