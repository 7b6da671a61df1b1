"""`tumorlens download`: the public data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tumorlens.cli.flags import parse
from tumorlens.settings import DownloadSettings

if TYPE_CHECKING:
    from tumorlens.audit.download import Source


def run(argv: Sequence[str], prog: str) -> int:
    """Fetch the set; print licence and size before, counts and copies after."""
    settings = parse(DownloadSettings, argv, prog, aliases={"--out_dir": "--out"})
    from tumorlens.audit.download import download
    from tumorlens.cli.console import shown

    with shown() as progress:
        made = download(settings, progress, _announce)
    for part, classes in made.counts.items():
        each = ", ".join(f"{number:,} {name}" for name, number in classes.items())
        print(f"{part + ':':10}{sum(classes.values()):,} images: {each}")
    if not made.fetched:
        print("They were there already; nothing was fetched.")
    if made.checked:
        print(f"Counts:   as version {settings.version} has them")
    else:
        print(f"Counts:   not checked, those of version {settings.version} are not known")
    for part, other, twins in made.audit.leaks():
        print(f"Copies:   {len(twins):,} {part} images show the same picture as one of {other}")
    print(f"Data:     {made.data_dir}")
    print(f"Audit:    {made.audit_dir / 'audit.html'}")
    return 0


def _announce(source: Source) -> None:
    from tumorlens.audit.download import PAGE

    print(f"Brain Tumor MRI Dataset by Masoud Nickparvar, version {source.version} ({PAGE})")
    if source.version < source.newest:
        print(f"Newest:   version {source.newest}")
    print(f"Licence:  {source.licence or 'not stated by Kaggle'}")
    print(f"Size:     about {source.size / 1e6:,.0f} MB", flush=True)
