"""`tumorlens download`: the public data set."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import DownloadSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Fetch the set; print where from and how much before, counts and near-duplicates after."""
    settings = parse(DownloadSettings, argv, prog, aliases={"--out_dir": "--out"})
    from tumorlens.audit.download import ABOUT_BYTES, PAGE, download
    from tumorlens.cli.console import shown

    def announce() -> None:
        print(f"Brain Tumor MRI Dataset by Masoud Nickparvar, version {settings.version} ({PAGE})")
        print("Licence:  as that page states it")
        print(f"Size:     about {ABOUT_BYTES / 1e6:,.0f} MB", flush=True)

    with shown() as progress:
        made = download(settings, progress, announce)
    for split, classes in made.counts.items():
        each = ", ".join(f"{number:,} {name}" for name, number in classes.items())
        print(f"{split + ':':10}{sum(classes.values()):,} images: {each}")
    if not made.fetched:
        print("They were there already; nothing was fetched.")
    if made.checked:
        print(f"Counts:   as version {settings.version} has them")
    else:
        print(f"Counts:   not checked, those of version {settings.version} are not known")
    for split, other, duplicates in made.audit.leaks():
        print(
            f"Near-duplicates:   {len(duplicates):,} {split} images are near-duplicates of an "
            f"image of {other}"
        )
    print(f"Data:     {made.data_dir}")
    print(f"Audit:    {made.audit_dir / 'audit.html'}")
    return 0
