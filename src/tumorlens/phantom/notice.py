"""The notice in every folder of phantom data, and how such a folder is known by it."""

from pathlib import Path

NOTICE = """\
The images in this folder are made up. No patient is shown and none was scanned for them. They are
no medical data and must not be used for diagnosis.

Their anatomy derives from the ICBM 152 nonlinear symmetric 2009a template (MNI152), as shipped with
nilearn (BSD-3-Clause, copyright the nilearn developers), modified by tumorlens. The template:

Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
Institute, McGill University. Permission to use, copy, modify, and distribute this software and its
documentation for any purpose and without fee is hereby granted, provided that the above copyright
notice appear in all copies. The authors and McGill University make no representations about the
suitability of this software for any purpose. It is provided "as is" without express or implied
warranty. The authors are not responsible for any data loss, equipment damage, property loss, or
injury to subjects or patients resulting from the use or misuse of this software package.

VS Fonov, AC Evans, K Botteron, CR Almli, RC McKinstry, DL Collins and BDCG: Unbiased average
age-appropriate atlases for pediatric studies, NeuroImage 54 (2011),
doi:10.1016/j.neuroimage.2010.07.033
VS Fonov, AC Evans, RC McKinstry, CR Almli and DL Collins: Unbiased nonlinear average
age-appropriate brain templates from birth to adulthood, NeuroImage 47 (2009), S102,
doi:10.1016/S1053-8119(09)70884-5
DL Collins, AP Zijdenbos, WFC Baare and AC Evans: ANIMAL+INSECT: Improved cortical structure
segmentation, IPMI 1999, LNCS 1613, pp. 210-223
"""


def is_phantom(folder: Path) -> bool:
    """Whether `dataset.phantom` wrote this folder."""
    notice = folder / "NOTICE.txt"
    return notice.is_file() and notice.read_text(encoding="utf-8", errors="replace") == NOTICE
