"""`tumorlens gradcam`, and gradcam.py at the project's root."""

import sys
from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.config import GradcamSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Explain pictures; print where the panel is."""
    settings = parse(GradcamSettings, argv, prog, aliases={"--class": "--class_name"})
    from tumorlens.cli.progress import shown
    from tumorlens.explain.panels import explain

    with shown() as progress:
        found = explain(settings, progress)
    for reason in found.skipped.values():
        print(f"Left out: {reason}", file=sys.stderr)
    print(f"Explained: {found.chosen}.")
    print(f"Panel:     {found.panel}")
    print(f"Overlays:  {found.out_dir / 'overlays'}")
    return 0
