"""`tumorlens train`, and train.py at the project's root."""

import shlex
import sys
from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import TrainSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Train a network; print where its files are."""
    settings = parse(TrainSettings, argv, prog)
    from tumorlens.cli import INTERRUPTED
    from tumorlens.cli.console import shown
    from tumorlens.training.fit import TrainingInterruptedError, train

    try:
        with shown() as progress:
            result = train(settings, progress)
    except TrainingInterruptedError as stop:
        python = "python " if prog.endswith(".py") else ""
        print(
            f"\nInterrupted; finished epochs are kept. Go on with\n"
            f"  {python}{prog} --resume {shlex.quote(str(stop.run_dir))}",
            file=sys.stderr,
        )
        return INTERRUPTED
    if not result.selected:  # a process that helps the first one; that one reports
        return 0
    counts = ", ".join(f"{count} {split}" for split, count in result.counts.items() if count)
    chosen = result.selected
    print(f"Images: {counts}. Validation images: {result.protocol}.")
    if result.skipped:
        print(
            f"Left out {len(result.skipped)} undecodable; {result.checkpoint.stem}.json says which."
        )
    if result.note:
        print(result.note)
    early = " (stopped early)" if result.stopped_early else ""
    if "valid_accuracy" in chosen:
        print(
            f"Best of {result.epochs} epochs{early}: epoch {chosen['epoch']}, validation accuracy "
            f"{chosen['valid_accuracy']:.4f}, macro F1 {chosen['valid_macro_f1']:.4f}. These chose "
            "the epoch, so they flatter it."
        )
    else:
        print(f"Kept: the last of {result.epochs} epochs, which no image has validated.")
    print(f"Run:        {result.run_dir}  (metrics.csv, training_curves.png)")
    print(f"Checkpoint: {result.checkpoint}")
    if result.replaced:
        before = result.checkpoint.parent / "runs" / result.replaced
        print(f"It took the place of {result.replaced}'s, which still lies in {before}.")
    script = "python evaluate.py" if prog.endswith(".py") else "tumorlens evaluate"
    print(f"Next:       {script} --checkpoint {shlex.quote(str(result.checkpoint))}")
    return 0
