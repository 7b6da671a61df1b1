"""From flags to a settings object, by tyro; its errors become one plain sentence."""

import contextlib
import io
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from tumorlens.errors import TumorlensError

Settings = TypeVar("Settings")
_UNSET = "unset"  # what tyro calls the default of a flag that has none


def parse(
    settings: type[Settings],
    argv: Sequence[str],
    prog: str,
    *,
    positional: Sequence[str] = (),
    aliases: dict[str, str] | None = None,
) -> Settings:
    """Read flags into `settings`; `--data_dir` and `--data-dir` are the same flag.

    Args:
        settings: a frozen dataclass.
        argv: the words after the verb.
        prog: what help calls the program.
        positional: the fields that leading words without dashes are for, in turn; further words
            belong to the last of them.
        aliases: other spellings, flag to flag, such as {"--class": "--class_name"}.

    Raises:
        TumorlensError: a flag or value that is not understood.
        SystemExit: 0, after --help.
    """
    words = [_spelled(word, aliases or {}) for word in argv]
    leading = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    for at, field in reversed(list(enumerate(positional[:leading]))):
        words.insert(at, f"--{field}")
    told, helped = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(helped):
            return tyro.cli(
                settings, args=words, prog=prog, use_underscores=True, registry=_registry()
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            # A flag without a default says so by silence, or in its own words.
            text = re.sub(rf"\s*\(default:\s+({_UNSET})?\)", "", helped.getvalue())
            for alias, flag in (aliases or {}).items():
                if len(alias) < len(flag):  # the user's word for it
                    text = _renamed(text, flag, alias)
            sys.stdout.write(text)
            raise
        raise TumorlensError(f"{_sentence(told.getvalue())} See {prog} --help.") from None


def _renamed(text: str, flag: str, alias: str) -> str:
    """Help with another word for a flag; its columns stay where they are."""

    def padded(found: re.Match[str]) -> str:
        return (alias + (found[1] or "")).ljust(len(found[0]))

    return re.sub(rf"{flag}( \S+)?", padded, text)


def _spelled(word: str, aliases: dict[str, str]) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    flag = "--" + flag[2:].replace("-", "_")
    return aliases.get(flag, flag) + equals + value


def _sentence(told: str) -> str:
    # tyro prints a heading, a rule, the message, a rule, hints; boxed on a terminal.
    text = re.sub(r"[│╭╮╰╯]|\x1b\[[0-9;]*m", " ", told)
    parts = [" ".join(part.split()) for part in re.split(r"[─\-]{8,}", text)]
    bodies = [part for part in parts if part]
    message = bodies[1] if len(bodies) > 1 else " ".join(bodies)
    message = re.sub(r"^Error parsing \w+: (?=--)", "", message)
    message = re.sub(r"^Error parsing (--\S+): ", r"\1: ", message)
    message = re.sub(r"^Missing from .*?: (--\S+).*", r"\1 must be given.", message)
    hint = next((part for part in bodies if part.startswith("Perhaps you meant")), "")
    near = re.search(r"--\w+", hint)
    if near:
        message = f"{message.rstrip('.')}; did you mean {near.group()}?"
    return message if message.endswith((".", "?")) else message + "."


def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()
    registry.primitive_rule(_optional)
    return registry


def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`X | None`: help says X, and what cannot be read as X is refused in our words."""
    if get_origin(info.type) not in (Union, types.UnionType):
        return None
    kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
    if len(kinds) != 1 or len(get_args(info.type)) != 2:
        return None
    kind = kinds[0]
    choices = get_args(kind) if get_origin(kind) is Literal else None
    if choices is None and kind not in (int, float, str, Path):
        return None
    name = "{" + ",".join(choices) + "}" if choices else kind.__name__.upper()

    def read(words: list[str]) -> Any:
        word = words[0]
        if choices:
            if word not in choices:
                raise ValueError(f"found {word!r}, expected one of {', '.join(choices)}")
            return word
        try:
            return kind(word)
        except ValueError as error:
            raise ValueError(f"found {word!r}, expected {name}") from error

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=name,
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, str if choices else kind),
        str_from_instance=lambda value: [_UNSET if value is None else str(value)],
    )
