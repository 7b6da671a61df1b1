from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorlens.checkpoint import file as checkpoints
from tumorlens.data.readers import fit_square
from tumorlens.errors import TumorlensError
from tumorlens.explain.gradcam import grad_cam
from tumorlens.settings import ServeSettings
from tumorlens.uncertainty.calibration import softmax
from tumorlens.web.predictor import Predictor

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)


def test_output_is_the_checkpoints_own(settings: ServeSettings) -> None:
    predictor = Predictor(replace(settings, method="gradcam", layer="layer3"))
    first, second = predictor.predict(IMAGE)
    assert (first.name, second.name) == ("ResNet18", "SE-ResNet18")
    assert predictor.method_name == "Grad-CAM"
    loaded = checkpoints.load(settings.checkpoint)
    network = loaded.network()
    inputs = loaded.preprocessing(torch.from_numpy(fit_square(IMAGE, 32))[None])
    with torch.no_grad():
        logits = network(inputs).double().numpy()
    np.testing.assert_allclose(first.decided.probabilities, softmax(logits, 2.0)[0], atol=1e-6)
    for number in range(4):
        expected = grad_cam(network, inputs, number, "layer3", "gradcam")[0]
        np.testing.assert_allclose(first.maps[number], expected, atol=1e-6)


def test_networks_of_other_classes_are_refused(settings: ServeSettings, tmp_path: Path) -> None:
    other = replace(checkpoints.load(settings.checkpoint), classes=("a", "b", "c", "d"))
    checkpoints.save(other, tmp_path / "other.pt")
    with pytest.raises(TumorlensError, match="knows the classes a, b, c, d, --checkpoint glioma"):
        Predictor(replace(settings, compare=tmp_path / "other.pt"))
