"""What the classes are called, and under which other names they come.

The known classes are those of the public "Brain Tumor MRI Dataset" (Masoud Nickparvar, Kaggle):

- glioma: tumor of the brain's own supporting cells, inside the brain (intra-axial);
- meningioma: tumor of the meninges, against skull or falx (extra-axial);
- notumor: no tumor visible; in the public set these images come from other sources altogether;
- pituitary: tumor of the pituitary gland, in the sella turcica.
"""

import re

KNOWN_CLASSES = ("glioma", "meningioma", "notumor", "pituitary")

# The networks, by the names that --model takes (`tumorlens.models.build` makes them).
MODEL_NAMES = ("resnet18", "se_resnet18")

_ALIASES = {
    "gliomatumor": "glioma",
    "meningiomatumor": "meningioma",
    "no": "notumor",
    "none": "notumor",
    "normal": "notumor",
    "healthy": "notumor",
    "notumour": "notumor",
    "pituitarytumor": "pituitary",
    "pituitarytumour": "pituitary",
    "gliomatumour": "glioma",
    "meningiomatumour": "meningioma",
}


def canonical_class(name: str) -> str:
    """The known class that a folder's name stands for; any other name comes back as it is.

    Case, spaces, hyphens and underscores do not count: "No Tumor", "no_tumor" and "notumor" are one
    class, "Glioma_tumor" is glioma.
    """
    plain = re.sub(r"[\s_\-]+", "", name).lower()
    if plain in KNOWN_CLASSES:
        return plain
    return _ALIASES.get(plain, name)
