"""Write docs/reference/commands.md, every command and flag, from the settings."""

import inspect
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tumorlens.cli import COMMANDS as SUMMARIES
from tumorlens.cli.flags import default_text, group_of
from tumorlens.labels import MODEL_NAMES
from tumorlens.public_functions import COMMANDS
from tumorlens.settings import FLAGS, ModelName, docs_of
from tumorlens.settings.recipe_files import KEYS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"
# Fields whose words may stand before the flags.
POSITIONAL = {
    "predict": "PATH ...",
    "audit": "DATA_DIR",
    "split": "DATA_DIR",
    "compare": "A [B]",
    "report": "RUN_DIR",
}
HEAD = """# Commands

`tools/write_reference.py` writes this page from the settings.
`tumorlens COMMAND --help` shows the same.

- `--data_dir` and `--data-dir` are the same flag.
- A flag without a value in the column "values" is switched on by naming it.
- Exit status: 0 done; 1 a check that you asked for failed; 2 wrong input; 130 interrupted.
- Wrong input gets one sentence on the standard error, and nothing is written.

| command | what it does |
|---|---|
"""


def page() -> str:
    """The page's text."""
    listed = "".join(
        f"| [`{name}`](#{name}) | {summary} |\n" for name, summary in SUMMARIES.items()
    )
    return HEAD + listed + "".join(_section(name) for name in SUMMARIES) + _recipe_keys()


def _recipe_keys() -> str:
    """What a recipe file may hold, with range or words."""
    rows = []
    for key, (_, kind, bounds) in KEYS.items():
        words = ", ".join(f"`{one}`" for one in bounds) if kind is str else ""
        between = f"{bounds[0]:g} to {bounds[1]:g}" if bounds and kind is not str else ""
        rows.append(f"| `{key}` | {words or between or '`true`, `false`'} |\n")
    return "\n## Keys of a recipe\n\n| key | values |\n|---|---|\n" + "".join(rows)


def _section(name: str) -> str:
    if name not in COMMANDS:  # the one command without settings
        return f"\n## {name}\n\n`tumorlens {name} [show | clear]`: {SUMMARIES[name]}.\n"
    settings = COMMANDS[name].settings
    hints, docs = get_type_hints(settings), docs_of(settings)
    trains = "recipe" in hints
    groups: dict[str, list[str]] = {}
    for item in fields(settings):
        flag = FLAGS.get(item.name, item.name)
        default = default_text(item, trains).strip("()") if hints[item.name] is not bool else ""
        meaning = f"{docs[item.name]} *{default}*" if default else docs[item.name]
        cells = (f"`--{flag}`", _values(hints[item.name]), meaning.replace("|", "\\|"))
        groups.setdefault(group_of(item, trains), []).append("| " + " | ".join(cells) + " |\n")
    words = f" {POSITIONAL[name]}" if name in POSITIONAL else ""
    order = sorted(groups, key=["required", *groups].index)
    tables = "".join(
        f"\n### {name}: {group}\n\n| flag | values | meaning |\n|---|---|---|\n"
        + "".join(groups[group])
        for group in order
    )
    summary = inspect.getdoc(settings) or ""
    return f"\n## {name}\n\n`tumorlens {name}{words} [flags]`\n\n{summary}\n{tables}"


def _values(hint: Any) -> str:
    """What may stand after a flag."""
    if hint is bool:
        return ""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(hint))
    if get_origin(hint) is tuple:
        return f"{_values(get_args(hint)[0])} ..."
    if get_args(hint):
        return _values(get_args(hint)[0])
    if hint is ModelName:
        return ", ".join(f"`{name}`" for name in (*MODEL_NAMES, "file.py:factory"))
    return {"Path": "file or folder", "int": "whole number", "float": "number", "str": "text"}[
        hint.__name__
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} written\n")
