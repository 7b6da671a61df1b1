"""`tumorlens phantom`: a simulated data set."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import PhantomSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Make the data set; print what is where."""
    settings = parse(PhantomSettings, argv, prog, aliases={"--out_dir": "--out"})
    from tumorlens.cli.console import shown
    from tumorlens.phantom.dataset import phantom

    with shown() as progress:
        made = phantom(settings, progress)
    for split, counts in made.images.items():
        if any(counts.values()):
            print(
                f"{made.out / split}: " + ", ".join(f"{n} {label}" for label, n in counts.items())
            )
    print(f"Tumor masks: {made.out / 'masks'}, boxes: {made.out / 'boxes.csv'}")
    print("Simulated images of no patient; their anatomy is MNI152's, see NOTICE.txt there.")
    return 0
