"""`tumorlens compare`."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import CompareSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Compare two networks; print the differences and what they mean."""
    settings = parse(CompareSettings, argv, prog, positional=("a", "b"))
    from tumorlens.cli import tables
    from tumorlens.cli.console import of_results, shown
    from tumorlens.comparison.compare import compare_and_write
    from tumorlens.comparison.text import significant_changes

    with shown() as progress:
        found = compare_and_write(settings, progress)
    console = of_results()
    console.print(tables.differences(found.all, "all images"))
    if found.without_near_duplicates is not None:
        console.print(tables.differences(found.without_near_duplicates, "without near-duplicates"))
    for caveat in found.caveats:
        print(f"Note: {caveat}")
    print(found.sentence)
    print(significant_changes(found.all))
    print(f"Metrics and figure: {found.out_dir}")
    return 0
