"""`tumorlens study`."""

import shlex
import sys
from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import StudySettings


def run(argv: Sequence[str], prog: str) -> int:
    """Do the missing runs of a grid, or draw what is there; print what is there now."""
    settings = parse(StudySettings, argv, prog)
    from tumorlens.cli import DONE, FAILED_CHECK, INTERRUPTED
    from tumorlens.cli.console import shown

    if settings.report:
        from tumorlens.studies.report import draw_report

        with shown() as progress:
            drawn = draw_report(settings, progress)
        print(drawn.answer)
        print(f"Tables and metrics of {drawn.runs} runs: {drawn.folder}")
        return DONE
    from tumorlens.studies.grid import study

    try:
        with shown() as progress:
            result = study(settings, progress)
    except KeyboardInterrupt:
        print(
            f"\nInterrupted; finished runs and epochs are kept. The same command goes on.\n"
            f"  {prog} {shlex.join(argv)}",
            file=sys.stderr,
        )
        return INTERRUPTED
    asked = len(result.before) + len(result.done) + len(result.failed)
    print(
        f"{len(result.before) + len(result.done)} of {asked} runs are finished, "
        f"{len(result.done)} of them now: {result.out_dir}"
    )
    for name, reason in result.failed.items():
        print(f"{prog}: {name} failed: {reason}", file=sys.stderr)
    if not result.failed:
        print(f"Tables and metrics: {prog} --report --out_dir {result.out_dir}")
    return FAILED_CHECK if result.failed else DONE
