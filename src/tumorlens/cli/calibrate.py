"""`tumorlens calibrate`."""

from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import CalibrateSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Calibrate a checkpoint anew; print what its operating points do, and where the files are."""
    settings = parse(CalibrateSettings, argv, prog)
    from tumorlens.cli.console import of_results, shown, titled_table
    from tumorlens.training.finished import calibrate

    with shown() as progress:
        found = calibrate(settings, progress)
    data, console = found.data, of_results()
    print(f"Images: {len(data.indices('train'))} train, {len(data.indices('valid'))} valid.")
    if settings.other_folds:
        count = found.checkpoint.calibration["images"]["offsets"]
        print(f"Offsets: fitted on {count:,} validation images, with those of the other folds.")
    if found.left_out:
        print(f"Left out: {found.left_out} validation images that show training images.")
    for sentence in filter(None, (data.overlap, data.unused, data.note)):
        print(sentence)
    if found.last_layer:
        told = ", ".join(f"{name} {value:.3f}" for name, value in found.last_layer.recall.items())
        print(f"Last layer, recall of patients that it did not learn from: {told}.")
    table = titled_table(
        "Operating points, of validation images left out of the fit",
        *("", "accuracy", "worst class", *data.classes),
    )
    for one in found.points:
        if not one.goal[0].isdigit():
            mark = "* " if one.goal == settings.operating_point else "  "
            values = (one.held_out_accuracy, one.held_out_worst_class, *one.held_out_recall)
            table.add_row(mark + one.goal, *(f"{value:.3f}" for value in values))
    console.print(table)
    offsets = found.checkpoint.offsets
    if offsets:
        pairs = zip(data.classes, offsets, strict=True)
        print("Offsets, nats: " + ", ".join(f"{name} {value:+.2f}" for name, value in pairs) + ".")
    print(f"Written: {found.path}, operating_points.json and .png")
    return 0
