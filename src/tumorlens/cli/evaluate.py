"""`tumorlens evaluate`, and evaluate.py at the project's root."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import EvaluateSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Score a checkpoint; print the tables and where the files are."""
    settings = parse(EvaluateSettings, argv, prog)
    from tumorlens.cli import tables
    from tumorlens.cli.console import of_results, shown
    from tumorlens.evaluation.evaluate import evaluate

    with shown() as progress:
        report = evaluate(settings, progress)
    console = of_results()
    print(
        f"{report.model_name} on the {report.split} images of {report.data.root}: "
        f"n = {len(report.data.labels)}, {report.how_sure}"
    )
    console.print(tables.bias(report.bias, report.scores))
    console.print(tables.scores(report.scores))
    if report.subgroups.rows:
        console.print(tables.subgroups(report.subgroups))
    print(report.sets.sentence)
    if report.stress:
        print(report.stress.sentence)
    for caveat in report.caveats:
        print(f"Note: {caveat}")
    if report.data.note:
        print(report.data.note)
    print(f"Metrics and figures: {report.out_dir}")
    return 0
