"""Splits."""

import numpy as np
import numpy.typing as npt
from pathlib import Path
from sklearn.model_selection import StratifiedGroupKFold


def hold_out(labels, groups, fraction, seed):
    folds = StratifiedGroupKFold(round(1 / fraction), shuffle=True, random_state=seed)
    held = next(iter(folds.split(labels, labels, groups)))[1]
    mask = np.zeros(len(labels), dtype=bool)
    mask[held] = True
    return mask


def assignment(path: Path, fold: int | None) -> dict[str, str]:
    raise NotImplementedError
