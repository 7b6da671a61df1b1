"""`tumorlens export`: a checkpoint as one file that other programs run."""

import sys
from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import ExportSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Write the file; print where it is and how it was checked."""
    settings = parse(ExportSettings, argv, prog)
    from tumorlens.cli.console import shown
    from tumorlens.export.export import export

    with shown() as progress:
        made = export(settings, progress)
    for reason in made.skipped.values():
        print(f"Left out: {reason}", file=sys.stderr)
    print(
        f"Compared: {made.parity.count} {made.parity.images}; largest difference from PyTorch "
        f"{made.parity.logits:.1e} in a logit, {made.parity.features:.1e} in a feature, "
        f"{made.parity.probabilities:.1e} in a calibrated probability."
    )
    if made.cost:
        from tumorlens.export.int8 import MOST_LOST  # onnx is there, int8 was asked for

        if made.cost.trained:
            print(
                f"Left out: {made.cost.trained} validation images that show training images; 8 "
                "bits are checked on the others.",
                file=sys.stderr,
            )
        print(f"In 8 bits, on {made.cost.images} validation images:")
        for name, before in made.cost.before.items():
            after = made.cost.after[name]
            print(
                f"  {name:24} {before:.4f} -> {after:.4f}  ({100 * (after - before):+.2f} points)"
            )
        print(f"  another prediction for {made.cost.changed:.2%} of the images")
        if made.cost.rarest * MOST_LOST < 1:
            print(
                f"Note: the rarest class has {made.cost.rarest} validation images, so that one is "
                f"{100 / made.cost.rarest:.1f} points of its recall: too few to see a loss of "
                f"{100 * MOST_LOST:.1f}."
            )
    print(f"Written:  {made.path} ({made.size / 1e6:.1f} MB, {made.precision})")
    return 0
