"""`tumorlens phantom`: a simulated data set."""

from collections.abc import Sequence
from dataclasses import fields

from tumorlens.cli.flags import parse
from tumorlens.settings import PhantomSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Make the data set; print what is where."""
    settings = parse(PhantomSettings, argv, prog, aliases={"--out_dir": "--out"})
    from tumorlens import api
    from tumorlens.cli.progress import shown

    with shown() as progress:
        made = api.phantom(
            progress=progress,
            **{item.name: getattr(settings, item.name) for item in fields(settings)},
        )
    for split, counts in made.images.items():
        if any(counts.values()):
            print(
                f"{made.out / split}: " + ", ".join(f"{n} {label}" for label, n in counts.items())
            )
    print(f"Tumor masks: {made.out / 'masks'}, boxes: {made.out / 'boxes.csv'}")
    print("Simulated pictures of no patient; their anatomy is MNI152's, see NOTICE.txt there.")
    return 0
