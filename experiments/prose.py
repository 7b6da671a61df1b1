"""How readable are README and docs? First screen, and sentences.

    git archive COMMIT README.md docs | tar -x -C before
    python experiments/prose.py results/docs/prose.json --before before --after .

Of README: its lines, and where the first command, the first image and the installation stand. Of
README and docs: sentences, their mean and longest in words, those over 35, and the numbers in them.
Tables, code, headings and comments are no sentences.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What is no sentence: code, comments, tables, headings, images, badges, directives, YAML.
_BLOCKS = re.compile(r"```.*?```|<!--.*?-->", re.DOTALL)
_NO_PROSE = re.compile(r"^\s*(\||#|!\[|\[!\[|:::|!!!|options:|\{|\w+: \w+$)")
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
# A sentence ends with a mark, perhaps in bold or brackets, before a space and a new beginning.
_END = re.compile(r"(?<=[.!?])[*)\]]*\s+(?=[A-Z0-9`*\[(\"])")
_SHORT = re.compile(r"\b(et al|e\.g|i\.e|vs|doi)\.")
_NUMBER = re.compile(r"(?<![\w.`-])\d[\d,]*(?:\.\d+)?%?(?![\w-])")


def main() -> None:
    """Measure two trees and write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, default=Path())
    parser.add_argument("--before_is", default="", help="which commit `before` is")
    asked = parser.parse_args()
    found = {
        "what": __doc__.splitlines()[0],
        "command": "python experiments/prose.py results/docs/prose.json --before before --after .",
        "before_is": asked.before_is,
        **{name: measured(getattr(asked, name)) for name in ("before", "after")},
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name in ("before", "after"):
        print(name, json.dumps(found[name], indent=1))


def measured(root: Path) -> dict[str, Any]:
    """README's first screen, and the prose of README and of docs/."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    pages = sorted(
        path
        for path in (root / "docs").rglob("*.md")
        if path.relative_to(root).as_posix() != "docs/reference/commands.md"  # written from help
    )
    texts = [path.read_text(encoding="utf-8") for path in pages]
    return {
        "readme": first_screen(readme) | prose([readme]),
        "docs": {"pages": len(pages)} | prose(texts),
        "readme_and_docs": prose([readme, *texts]),
    }


def first_screen(readme: str) -> dict[str, Any]:
    """Lines of README, and where what a visitor looks for stands."""
    lines = readme.splitlines()
    inside = False
    commands = []
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            inside = line.startswith("```bash")
        elif inside and line.strip() and not line.startswith("#"):
            commands.append(number)

    def first(pattern: str) -> int | None:
        return next((n for n, line in enumerate(lines, 1) if re.search(pattern, line)), None)

    return {
        "lines": len(lines),
        "first_command_line": commands[0] if commands else None,
        "first_image_line": first(r"^!\[[^\]]*\]\((?!https://img)"),
        "install_line": first(r"^#+ Install"),
    }


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page."""
    paragraph: list[str] = []
    for line in [*_BLOCKS.sub("\n", text).splitlines(), ""]:
        if not line.strip() or _NO_PROSE.match(line) or _ITEM.match(line):
            whole = " ".join(paragraph)
            if whole:
                whole = _SHORT.sub(r"\1", re.sub(r"\]\([^)]*\)", "]", whole))
                yield from (one for one in _END.split(whole) if re.search(r"[A-Za-z]", one))
            paragraph = [_ITEM.sub("", line)] if _ITEM.match(line) else []
        else:
            paragraph.append(line.strip())


def prose(texts: list[str]) -> dict[str, Any]:
    """Sentences of pages: how many, mean and longest length in words, numbers in them."""
    found = [one for text in texts for one in sentences(text)]
    lengths = [len(one.split()) for one in found]
    return {
        "sentences": len(found),
        "mean_words": round(sum(lengths) / len(lengths), 1),
        "longest_words": max(lengths),
        "over_20_words": sum(one > 20 for one in lengths),
        "over_35_words": sum(one > 35 for one in lengths),
        "numbers_in_sentences": sum(len(_NUMBER.findall(one)) for one in found),
        "longest": max(found, key=lambda one: len(one.split())),
    }


if __name__ == "__main__":
    main()
