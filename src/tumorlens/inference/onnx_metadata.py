"""What an exported network says of itself, in the metadata of its ONNX file. No torch, no onnx.

The file's graph has the numbers of the network; these texts have what is needed to take its
predictions: classes, calibration, the space of the training features. They hold no path and no
image.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorlens import __version__
from tumorlens.files import SCHEMA, standard_keys
from tumorlens.uncertainty.conformal import Conformal
from tumorlens.uncertainty.decision import DecisionRule
from tumorlens.uncertainty.out_of_distribution import FeatureSpace

FORMAT = "tumorlens-onnx"
# Names in the graph.
SQUARES, LOGITS, FEATURES = "squares", "logits", "features"
# Keys of the metadata.
ABOUT, SPACE, NOTICE = "tumorlens", "tumorlens_feature_space", "notice"

NOTICE_TEXT = (
    "For research. Not a medical device: nothing that this network computes is a diagnosis."
)
# What a program that feeds the graph must do first; `data.readers.fit_square` does it.
INPUT_TEXT = (
    "uint8 (N, S, S), S = image_size: the grey image, rotated as its EXIF says, resized so that "
    "its longer side is S (Pillow's BILINEAR: a triangle filter whose support widens when "
    "shrinking; the shorter side rounded to the nearest pixel, ties to even), in the middle of a "
    "black square (offset rounded down). The graph divides by 255, subtracts mean, divides by std."
)
OUTPUT_TEXT = (
    "logits (N, K), in the order of classes; their softmax after division by temperature are the "
    "probabilities. features (N, D): what the last layer sees; class means and the covariance "
    f"around them are in {SPACE}, base64 of little-endian float32, means (K, D) by rows, of the "
    "covariance the lower triangle by rows."
)


class NotOursError(ValueError):
    """Not what `tumorlens export` wrote, or damaged; the message says which."""


@dataclass(frozen=True)
class ExportedFile:
    """A network in an ONNX file, all but its numbers."""

    name: str  # of the network, such as "se_resnet18"
    image_size: int  # side S of the square that the graph takes, pixels
    # mean, std: what the graph normalises by, of images in 0..1; for eyes
    mean: float
    std: float
    rule: DecisionRule  # classes, temperature, thresholds and feature space
    precision: str = "fp32"  # "fp32", or "int8" after quantisation
    # where it came from and how it was checked, JSON primitives
    facts: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """The metadata to put into the file."""
        space = self.rule.space
        about = {
            "format": FORMAT,
            "schema": SCHEMA,
            "tumorlens": __version__,
            "model_name": self.name,
            "classes": list(self.rule.classes),
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "temperature": self.rule.temperature,
            "uncertainty_threshold": self.rule.threshold,
            "ood_threshold": space.threshold if space else None,
            "conformal": vars(self.rule.conformal) if self.rule.conformal else None,
            "precision": self.precision,
            "input": INPUT_TEXT,
            "output": OUTPUT_TEXT,
            **self.facts,
        }
        metadata = {ABOUT: json.dumps(about, ensure_ascii=False), NOTICE: NOTICE_TEXT}
        if space is not None:
            rows, columns = np.tril_indices(len(space.covariance))
            metadata[SPACE] = json.dumps(
                {
                    "means": _text_of(space.means),
                    "covariance_lower": _text_of(space.covariance[rows, columns]),
                }
            )
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "ExportedFile":
        """Read what `to_metadata` wrote.

        Raises:
            NotOursError: another program's metadata, another schema's, or damaged.
        """
        if ABOUT not in metadata:
            raise NotOursError("an ONNX file, but not one that `tumorlens export` wrote")
        try:
            about = json.loads(metadata[ABOUT])
            if about["format"] != FORMAT:
                raise NotOursError("an ONNX file, but not one that `tumorlens export` wrote")
            if about["schema"] not in (1, SCHEMA):
                raise NotOursError(
                    f"of schema {about['schema']}, and this tumorlens ({__version__}) reads "
                    f"schema {SCHEMA}"
                )
            about = standard_keys(about)
            classes = tuple(map(str, about["classes"]))
            space = None
            if about["ood_threshold"] is not None:
                space = _space(
                    json.loads(metadata[SPACE]), len(classes), float(about["ood_threshold"])
                )
            return cls(
                name=str(about["model_name"]),
                image_size=int(about["image_size"]),
                mean=float(about["mean"]),
                std=float(about["std"]),
                rule=DecisionRule(
                    classes,
                    _number(about["temperature"]),
                    _number(about["uncertainty_threshold"]),
                    space,
                    # Files of before there were sets have none.
                    Conformal.of(about["conformal"]) if about.get("conformal") else None,
                ),
                precision=str(about["precision"]),
                facts={key: about[key] for key in about if key not in _FIELDS},
            )
        except NotOursError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise NotOursError(
                f"of tumorlens, but with damaged metadata ({type(error).__name__}: {error})"
            ) from error


_FIELDS = (
    *("format", "schema", "tumorlens", "model_name", "classes", "image_size", "mean", "std"),
    *("temperature", "uncertainty_threshold", "ood_threshold", "conformal", "precision"),
    *("input", "output"),
)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _text_of(values: npt.NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _values_in(text: str) -> npt.NDArray[np.float64]:
    packed = base64.b64decode(text, validate=True)
    return np.frombuffer(packed, dtype="<f4").astype(np.float64)


def _space(texts: Mapping[str, str], classes: int, threshold: float) -> FeatureSpace:
    means = _values_in(texts["means"]).reshape(classes, -1)
    lower = np.zeros((means.shape[1], means.shape[1]))
    lower[np.tril_indices(len(lower))] = _values_in(texts["covariance_lower"])
    return FeatureSpace(means, lower + np.tril(lower, -1).T, threshold)
