import pytest

from tumorlens.labels import KNOWN_CLASSES, canonical_class


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("no_tumor", "notumor"),
        ("no tumor", "notumor"),
        ("No-Tumor", "notumor"),
        ("NOTUMOR", "notumor"),
        ("normal", "notumor"),
        ("glioma_tumor", "glioma"),
        ("Meningioma Tumor", "meningioma"),
        ("pituitary_tumour", "pituitary"),
    ],
)
def test_known_classes_have_other_names(name: str, known: str) -> None:
    assert canonical_class(name) == known


def test_known_names_and_strange_names_stay_as_they_are() -> None:
    assert [canonical_class(name) for name in KNOWN_CLASSES] == list(KNOWN_CLASSES)
    assert canonical_class("Metastasis 2") == "Metastasis 2"
