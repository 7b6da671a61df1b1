"""`tumorlens split`: splits or folds in which near-duplicates stay together."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import SplitSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Split a folder; print what each split holds and how to use the file."""
    settings = parse(SplitSettings, argv, prog, positional=("data_dir",))
    from tumorlens.cli.console import of_results, shown, titled_table
    from tumorlens.data.partition import partition, write_partition

    with shown() as progress:
        found = partition(settings, progress)
    write_partition(found, settings.out)
    console = of_results()
    table = titled_table(
        f"{len(found.paths)} images", found.column, *found.classes, "all", "groups"
    )
    for name, row in found.counts().items():
        counts = [row[label] for label in found.classes]
        table.add_row(name, *map(str, counts), str(sum(counts)), str(row["groups"]))
    console.print(table)
    for note in found.notes:
        console.print(note)
    if found.skipped:
        console.print(f"Left out {len(found.skipped)} undecodable files:")
        for reason in list(found.skipped.values())[:10]:
            console.print(f"  {reason}", soft_wrap=True, markup=False)
    use = f"--splits {settings.out}" + (" --fold 0" if found.column == "fold" else "")
    whole = "group of near-duplicates" if found.patients is None else "patient"
    console.print(
        f"Written: {settings.out}. No {whole} is in two splits. Use it with {use}.",
        soft_wrap=True,
    )
    return 0
