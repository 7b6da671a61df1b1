"""`tumorlens gradcam`, and gradcam.py at the project's root."""

import sys
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from tumorlens.cli.flags import parse
from tumorlens.settings import GradcamSettings

# Metric to heading and width. The intervals of those without are in explain.json: a terminal has
# 80 columns.
_COLUMNS = {
    "energy_pointing_game": ("energy in box", 19),
    "box_area_share": ("area", 7),
    "energy_ratio": ("ratio", 7),
    "pointing_game": ("pointing game", 19),
    "average_precision": ("AP", 6),
    "iou": ("IoU", 6),
}
_WITH_INTERVAL = ("energy_pointing_game", "pointing_game")


def run(argv: Sequence[str], prog: str) -> int:
    """Explain images; print where the panel is, and what was measured."""
    settings = parse(GradcamSettings, argv, prog)
    from tumorlens.cli.console import shown
    from tumorlens.explain.panel import gradcam

    with shown() as progress:
        found = gradcam(settings, progress)
    for reason in found.skipped.values():
        print(f"Left out: {reason}", file=sys.stderr)
    if found.measured:
        _print_measured(found.measured)
    print(f"Explained: {found.chosen}.")
    print(f"Panel:     {found.panel}")
    print(f"Overlays:  {found.out_dir / 'overlays'}")
    if found.measured:
        print(f"Measured:  {found.out_dir / 'explain.json'}")
    return 0


def _print_measured(measured: Mapping[str, Any]) -> None:
    localization = measured.get("localization", {})
    for name, metrics in localization.items():
        _print_fits(name, metrics)
    if localization and measured["comparison"]:
        print(measured["comparison"]["sentence"])
    for name, areas in measured.get("faithfulness", {}).get("networks", {}).items():
        for game in ("deletion", "insertion"):
            print(
                f"{name}, {game}: area {_cell(areas[f'{game}_map'])} by the map, "
                f"{_cell(areas[f'{game}_random'])} in random order, "
                f"{_cell(areas[f'{game}_centre_prior'])} from the head's middle."
            )
    for name, found in measured.get("sanity", {}).get("networks", {}).items():
        last, floor = list(found["steps"].values())[-1], found["maps_of_different_images"]
        print(
            f"{name}, all weights random: rank correlation {_cell(last['rank'])} with the maps of "
            f"the trained network, SSIM {_cell(last['ssim'])}; maps of different images have "
            f"{_cell(floor['rank'])} and {_cell(floor['ssim'])}."
        )
    if "agreement" in measured:
        found = measured["agreement"]
        together, apart = found["between_networks"], found["maps_of_different_images"]
        print(
            f"Maps of {len(found['checkpoints'])} seeds: rank correlation "
            f"{_cell(together['rank'])}, SSIM {_cell(together['ssim'])}; maps of different images "
            f"have {_cell(apart['rank'])} and {_cell(apart['ssim'])}."
        )


def _print_fits(name: str, metrics: Mapping[str, Any]) -> None:
    print(
        f"{name}: {metrics['images_with_box']} {metrics['split']} images with a box, maps of the "
        f"true class ({metrics['method']} at {metrics['layer']}, "
        f"{' x '.join(map(str, metrics['cells']))} cells):"
    )
    columns = {key: value for key, value in _COLUMNS.items() if key in metrics["network"]["all"]}
    print(f"{'':14}{'n':>4}" + "".join(f"{words:>{width}}" for words, width in columns.values()))
    rows = {**metrics["network"], "centre prior": metrics["centre_prior"]["all"]}
    for subset, row in rows.items():
        cells = [
            f"{_cell(row[key], interval=key in _WITH_INTERVAL):>{width}}"
            for key, (_, width) in columns.items()
        ]
        print(f"{subset[:13]:14}{row['energy_pointing_game']['n']:>4}" + "".join(cells))
    if "iou" not in columns:
        print(f"The threshold of IoU was chosen on {metrics['iou_threshold']['chosen_on']}.")
    for caveat in metrics["caveats"]:
        print(caveat)


def _cell(estimate: Mapping[str, float], *, interval: bool = True) -> str:
    if isnan(estimate["value"]):
        return "-"
    ends = f" ({estimate['low']:.2f}, {estimate['high']:.2f})" if interval else ""
    return f"{estimate['value']:.3f}{ends}"
