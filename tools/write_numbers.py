"""Write the tables of README and docs that show results, each from its file in results/.

A table stands between `<!-- numbers: NAME -->` and `<!-- /numbers -->`; NAME is a function of
`score_tables` or `measurement_tables`.
"""

import re
import sys
from pathlib import Path

import measurement_tables
import score_tables

ROOT = Path(__file__).parents[1]
_MARKED = re.compile(r"(<!-- numbers: ([a-z0-9_]+) -->\n).*?(<!-- /numbers -->)", re.DOTALL)


def pages() -> list[Path]:
    """The files that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A page's text with every marked table written anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{_written(found[2])}\n{found[3]}", text)


def _written(name: str) -> str:
    place = score_tables if hasattr(score_tables, name) else measurement_tables
    return str(getattr(place, name)())


if __name__ == "__main__":
    for path in pages():
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write("tables written\n")
