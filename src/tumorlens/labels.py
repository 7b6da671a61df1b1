"""What the classes are called, and under which other names they come.

The known classes are those of the public "Brain Tumor MRI Dataset" (Masoud Nickparvar, Kaggle):

- glioma: tumor of the brain's own supporting cells, inside the brain (intra-axial);
- meningioma: tumor of the meninges, against skull or falx (extra-axial);
- notumor: no tumor visible; in the public set these images come from other sources altogether;
- pituitary: tumor of the pituitary gland, in the sella turcica.
"""

import re
import unicodedata
from collections.abc import Iterable

KNOWN_CLASSES = ("glioma", "meningioma", "notumor", "pituitary")

# The networks of our own, by the names that --model takes: title, basic blocks in each of the four
# stages, bottleneck factor of the squeeze-and-excitation gates (`tumorlens.models` makes them).
MODELS: dict[str, tuple[str, tuple[int, ...], int | None]] = {
    "resnet18": ("ResNet18", (2, 2, 2, 2), None),
    "se_resnet18": ("SE-ResNet18", (2, 2, 2, 2), 16),
    "resnet34": ("ResNet34", (3, 4, 6, 3), None),
    "se_resnet34": ("SE-ResNet34", (3, 4, 6, 3), 16),
}
MODEL_NAMES = tuple(MODELS)

_NO_TUMOR = ("no", "none", "normal", "healthy", "notumour")
_ALIASES = dict.fromkeys(_NO_TUMOR, "notumor") | {
    f"{tumor}{word}": tumor
    for tumor in ("glioma", "meningioma", "pituitary")
    for word in ("tumor", "tumour")
}


def is_foreign(model: str) -> bool:
    """Whether a network's name is that of the user's own code, `module:factory`."""
    return re.fullmatch(r".+:[A-Za-z_]\w*", model) is not None


def title(model: str) -> str:
    """A network's name in a text: "SE-ResNet18"; of the user's own, the factory's."""
    if model in MODELS:
        return MODELS[model][0]
    return model.rpartition(":")[2] if is_foreign(model) else model


def in_file_name(model: str) -> str:
    """A network's name as a part of the name of a file: `nets/own.py:make` is nets_own.py_make."""
    return re.sub(r"[^\w.-]+", "_", model).strip("_.")


def class_key(name: str) -> str:
    """What counts of a name: not case, spaces, hyphens, underscores or the form of its Unicode."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFC", name)).casefold()


def canonical_class(name: str) -> str:
    """The known class that a folder's name stands for; any other name comes back, composed (NFC).

    "No Tumor", "no_tumor" and "notumor" are one class, "Glioma_tumor" is glioma.
    """
    key = class_key(name)
    if key in KNOWN_CLASSES:
        return key
    return _ALIASES.get(key, unicodedata.normalize("NFC", name))


def classes_of(names: Iterable[str]) -> dict[str, str]:
    """The class of each class folder of a data set, by the folder's name.

    What says "no" is notumor only beside a tumor of a known class: folders `yes` and `no` keep
    their names.
    """
    found = {name: canonical_class(name) for name in names}
    if {"glioma", "meningioma", "pituitary"} & set(found.values()):
        return found
    return {
        name: unicodedata.normalize("NFC", name) if class_key(name) in _NO_TUMOR else label
        for name, label in found.items()
    }


def same_class(name: str, classes: Iterable[str]) -> str:
    """The one of `classes` that `name` is another spelling or name of; else `name`."""
    known = {class_key(canonical_class(other)): other for other in classes}
    return known.get(class_key(canonical_class(name)), name)
