"""`tumorlens download`: a public data set."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import DownloadSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Fetch the set; print where from and how much before, counts and near-duplicates after."""
    settings = parse(DownloadSettings, argv, prog, aliases={"--out_dir": "--out"})
    from tumorlens.audit.download import ABOUT, download
    from tumorlens.cli.console import shown

    title, page, licence = ABOUT[settings.source]
    version = f", version {settings.version}" if settings.source == "kaggle" else ""

    def announce(size: int) -> None:
        print(f"{title}{version} ({page})")
        print(f"Licence:  {licence}")
        print(f"Size:     about {size / 1e6:,.0f} MB", flush=True)

    with shown() as progress:
        made = download(settings, progress, announce)
    for split, classes in made.counts.items():
        each = ", ".join(f"{number:,} {name}" for name, number in classes.items())
        print(f"{split + ':':10}{sum(classes.values()):,} images: {each}")
    if not made.fetched:
        print("They were there already; nothing was fetched.")
    if settings.source == "figshare":
        print(f"Counts:   {'as published' if made.checked else 'not those of the whole set'}")
    elif made.checked:
        print(f"Counts:   as version {settings.version} has them")
    else:
        print(f"Counts:   not checked, those of version {settings.version} are not known")
    for split, other, duplicates in made.audit.leaks():
        print(
            f"Near-duplicates:   {len(duplicates):,} {split} images are near-duplicates of an "
            f"image of {other}"
        )
    for note in made.notes:
        print(f"Note:     {note}")
    print(f"Data:     {made.data_dir}")
    print(f"Audit:    {made.audit_dir / 'audit.html'}")
    return 0
