"""`tumorlens report`: a run on one page, and its model card."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import ReportSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Write the page and the card; print where they are and what is missing."""
    settings = parse(ReportSettings, argv, prog, positional=("run_dir",))
    from tumorlens.reporting.page import report

    made = report(settings)
    for gap in made.gaps:
        why = f" {gap.why}" if gap.why else ""
        print(f"Not in it: {gap.what}.{why} Made by: {gap.command}")
    kept = "  (has words of its author and was left as it is)" if made.card_kept else ""
    print(f"Checklist:  {made.filled} of 44 items of CLAIM 2024 answered; the rest is the author's")
    print(f"Page:       {made.page}")
    print(f"Model card: {made.card}{kept}")
    return 0
