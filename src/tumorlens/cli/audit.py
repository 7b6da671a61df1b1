"""`tumorlens audit`: what is wrong with a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tumorlens.cli.flags import parse
from tumorlens.settings import AuditSettings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tumorlens.audit.audit import Audit, NearestDuplicates
    from tumorlens.audit.overlap import PatientOverlap

_MOST_LINES = 10


def run(argv: Sequence[str], prog: str) -> int:
    """Audit a folder; print the tables and where the files are."""
    settings = parse(AuditSettings, argv, prog, positional=("data_dir",))
    from tumorlens.audit.files import audit_and_write
    from tumorlens.cli import DONE, FAILED_CHECK
    from tumorlens.cli.console import of_results, shown

    with shown() as progress:
        found = audit_and_write(settings, progress)
    console = of_results()
    _print(found, console)
    console.print(f"Images and tables: {settings.out_dir / 'audit.html'}", soft_wrap=True)
    failed = [check for check in settings.fail_on if found.count_of(check)]
    for check in failed:
        console.print(f"[red]--fail_on {check}: {found.count_of(check)} found.[/red]")
    return FAILED_CHECK if failed else DONE


def _print(found: Audit, console: Console) -> None:
    console.print(_balance(found))
    leaks = list(found.leaks())
    for split, other, duplicates in leaks:
        console.print(_leak(found, split, other, duplicates))
    if not leaks and found.count_of_splits() > 1:
        console.print("[green]No image is in two splits.[/green]")
    overlap = found.patient_overlap
    for one in overlap:
        console.print(_patients(one))
    if found.patients is not None and not overlap and found.count_of_splits() > 1:
        console.print("[green]No patient is in two splits.[/green]")
    whole = found.to_dict()["near_duplicates"]
    made = ", ".join(f"{count} {_SAID[kind]}" for kind, count in whole["by_kind"].items() if count)
    console.print(
        f"Pairs that show the same image: {whole['pairs']}"
        + (f" ({made}), in groups: {whole['groups']}" if made else "")
        + f"; with conflicting labels: {found.count_of('conflict')}."
    )
    pairs, clash = found.pairs, found.conflicting
    rows = zip(pairs.first[clash].tolist(), pairs.second[clash].tolist(), strict=True)
    lines = [
        f"{found.paths[one]} ({found.labels[one]}) = {found.paths[two]} ({found.labels[two]})"
        for one, two in rows
    ]
    _list(lines, "pairs.csv has all", console)
    if found.shortcuts:
        console.print(_shortcuts(found))
    if found.unreadable:
        console.print(f"[red]{len(found.unreadable)} unreadable files:[/red]")
        _list(list(found.unreadable.values()), "audit.json has all", console)
    _list(list(found.other_faults), "audit.json has all", console)
    if found.note:
        console.print(found.note)


_SAID = {
    "exact": "byte for byte",
    "re-encoded": "re-encoded",
    "mirrored": "mirrored",
    "turned": "turned",
}


def _list(lines: list[str], where: str, console: Console) -> None:
    for line in lines[:_MOST_LINES]:
        console.print(f"  {line}", soft_wrap=True, markup=False)
    if len(lines) > _MOST_LINES:
        console.print(f"  ... and {len(lines) - _MOST_LINES} more; {where}")


def _balance(found: Audit) -> Table:
    from tumorlens.cli.console import titled_table

    rows = found.balance()
    classes = list(next(iter(rows.values())))
    table = titled_table(
        f"{len(found.paths)} readable images", "split", *(name or "-" for name in classes), "all"
    )
    for split, counts in rows.items():
        table.add_row(
            split or "-", *(str(counts[name]) for name in classes), str(sum(counts.values()))
        )
    return table


def _leak(found: Audit, split: str, other: str, duplicates: NearestDuplicates) -> Table:
    from tumorlens.cli.console import titled_table

    share = len(duplicates) / (found.splits == split).sum()
    table = titled_table(
        f"{len(duplicates)} of the {split} images ({share:.1%}) are near-duplicates of an image of "
        f"{other}",
        f"{split} images",
        "n",
        "with a near-duplicate",
        *_SAID.values(),
    )
    rows = found.leak_table(split, duplicates)
    for label, row in rows.items():
        table.add_row(label or "-", *(str(count) for count in row.values()))
    whole = found.leak_counts(found.splits == split, duplicates)
    table.add_row("all", *(str(count) for count in whole.values()), style="bold")
    return table


def _patients(found: PatientOverlap) -> Table:
    from tumorlens.cli.console import titled_table

    whole = found.whole
    table = titled_table(
        f"{whole.shared} of the {found.split} images ({whole.shared / whole.images:.1%}) show a "
        f"patient who is in {found.other} too",
        f"{found.split} images",
        "n",
        "patient known",
        f"patient in {found.other}",
        "patients",
    )
    for label, row in found.by_class.items():
        table.add_row(label or "-", *map(str, (row.images, row.known, row.shared, row.patients)))
    counts = (whole.images, whole.known, whole.shared, whole.patients)
    table.add_row("all", *map(str, counts), style="bold")
    return table


def _shortcuts(found: Audit) -> Table:
    from tumorlens.cli.console import titled_table

    chance = found.shortcuts[0].chance
    table = titled_table(
        f"Shortcuts: balanced accuracy of one question about the file (chance {chance:.3f}, at "
        f"best {2 * chance:.3f})",
        "property",
        "score",
        "95% interval",
        "",
    )
    for shortcut in found.shortcuts:
        table.add_row(
            shortcut.property,
            f"{shortcut.score:.3f}",
            f"{shortcut.low:.3f} to {shortcut.high:.3f}",
            "[red]predicts the class[/red]"
            if shortcut.above_chance
            else "near chance"
            if shortcut.sides
            else "the same for all, or tells nothing",
        )
    return table
