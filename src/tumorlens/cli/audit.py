"""`tumorlens audit`: what is wrong with a folder of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tumorlens.cli.flags import parse
from tumorlens.settings import AuditSettings

if TYPE_CHECKING:
    from rich.console import Console

    from tumorlens.audit.audit import Audit, NearestDuplicates, PatientOverlap

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
    _balance(found, console)
    leaks = list(found.leaks())
    for split, other, duplicates in leaks:
        _leak(found, split, other, duplicates, console)
    if not leaks and found.count_of_splits() > 1:
        console.print("[green]No image is in two splits.[/green]")
    overlap = found.patient_overlap
    for one in overlap:
        _patients(one, console)
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
        _shortcuts(found, console)
    if found.unreadable:
        console.print(f"[red]{_counted(len(found.unreadable), 'unreadable file')}:[/red]")
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


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _list(lines: list[str], where: str, console: Console) -> None:
    for line in lines[:_MOST_LINES]:
        console.print(f"  {line}", soft_wrap=True, markup=False)
    if len(lines) > _MOST_LINES:
        console.print(f"  ... and {len(lines) - _MOST_LINES} more; {where}")


def _table(
    console: Console,
    title: str,
    columns: Iterable[str],
    rows: Iterable[Sequence[object]],
    total: Sequence[object] = (),
) -> None:
    from tumorlens.cli.console import titled_table

    table = titled_table(title, *columns)
    for row in rows:
        table.add_row(*map(str, row))
    if total:
        table.add_row(*map(str, total), style="bold")
    console.print(table)


def _balance(found: Audit, console: Console) -> None:
    counts = found.balance()
    if not counts:
        console.print("[red]No image can be read.[/red]")
        return
    classes = list(next(iter(counts.values())))
    columns = ("split", *(name or "-" for name in classes), "all")
    rows = [
        (split or "-", *(row[name] for name in classes), sum(row.values()))
        for split, row in counts.items()
    ]
    _table(console, _counted(len(found.paths), "readable image"), columns, rows)


def _leak(
    found: Audit, split: str, other: str, duplicates: NearestDuplicates, console: Console
) -> None:
    share = len(duplicates) / (found.splits == split).sum()
    whole = found.leak_counts(found.splits == split, duplicates)
    _table(
        console,
        f"{len(duplicates)} of the {split} images ({share:.1%}) are near-duplicates of an image of "
        f"{other}",
        (f"{split} images", "n", "with a near-duplicate", *_SAID.values()),
        [(name or "-", *row.values()) for name, row in found.leak_table(split, duplicates).items()],
        ("all", *whole.values()),
    )


def _patients(found: PatientOverlap, console: Console) -> None:
    whole = found.whole
    _table(
        console,
        f"{whole.shared} of the {found.split} images ({whole.shared / whole.images:.1%}) show a "
        f"patient who is in {found.other} too",
        (f"{found.split} images", "n", "patient known", f"patient in {found.other}", "patients"),
        [
            (label or "-", row.images, row.known, row.shared, row.patients)
            for label, row in found.by_class.items()
        ],
        ("all", whole.images, whole.known, whole.shared, whole.patients),
    )


def _shortcuts(found: Audit, console: Console) -> None:
    chance = found.shortcuts[0].chance
    rows = []
    for one in found.shortcuts:
        asked = one.sides or one.property == "display"
        told = "near chance" if asked else "the same for all, or tells nothing"
        told = "[red]predicts the class[/red]" if one.above_chance else told
        rows.append((one.property, f"{one.score:.3f}", f"{one.low:.3f} to {one.high:.3f}", told))
    _table(
        console,
        f"Shortcuts: balanced accuracy of one question about the file (chance {chance:.3f}, at "
        f"best {2 * chance:.3f}); display: of a small tree",
        ("property", "score", "95% interval", ""),
        rows,
    )
