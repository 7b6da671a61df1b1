"""From flags to a settings object, by tyro: help in groups, and errors of one sentence."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields, make_dataclass
from math import inf
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from tumorlens.errors import TumorlensError
from tumorlens.settings import (
    FLAGS,
    GROUPS,
    RECIPE_DEFAULTS,
    RECIPE_FLAGS,
    docs_of,
    is_required,
)

Settings = TypeVar("Settings")


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
        positional: the fields that words without a flag are for, in turn; further words belong to
            the last of them. A flag of many values takes all that follow it.
        aliases: other spellings, flag to flag, such as {"--out_dir": "--out"}, besides `FLAGS`;
            where a field has the first for its name, help has the second.

    Raises:
        TumorlensError: a flag or value that is not understood.
        SystemExit: 0, after --help.
    """
    aliases = {f"--{name}": f"--{flag}" for name, flag in FLAGS.items()} | (aliases or {})
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            flag = "--" + flag[2:].replace("-", "_")
            flag = aliases.get(flag, flag)
        words.append(flag + equals + value)
    try:
        words = _sorted_out(settings, words, positional, aliases)
        return settings(**_given(settings, words, prog, aliases))
    except (ValueError, TumorlensError) as error:
        raise TumorlensError(f"{error} See {prog} --help.") from None


def _sorted_out(
    settings: type[Any], words: Sequence[str], positional: Sequence[str], aliases: dict[str, str]
) -> list[str]:
    """Words without a flag in front, behind the flags of the fields that they are for.

    Raises:
        TumorlensError: a flag is given twice.
    """
    # How many words a flag takes; one that is not known keeps what follows it.
    takes: dict[str, float] = {}
    for name, hint in get_type_hints(settings).items():
        flag = aliases.get(f"--{name}", f"--{name}")
        takes[flag] = 0 if hint is bool else inf if get_origin(hint) is tuple else 1
        takes[f"--no_{flag[2:]}"] = 0
    taken: list[str] = []
    loose: list[str] = []
    left = 0.0
    for word in words:
        if word.startswith("--"):
            flag, equals, _ = word.partition("=")
            left = 0 if equals else takes.get(flag, inf)
        elif left:
            left -= 1
        elif positional and word[:1] != "-":
            loose.append(word)
            continue
        taken.append(word)
    front = [
        part for pair in zip(positional, loose, strict=False) for part in (f"--{pair[0]}", pair[1])
    ]
    words = front + loose[len(positional) :] + taken
    flags = Counter(word.partition("=")[0] for word in words if word.startswith("--"))
    for flag, count in flags.items():
        if count > 1:
            raise TumorlensError(f"{flag}: given {count} times; give it once.")
    return words


def _given(
    settings: type[Any], words: Sequence[str], prog: str, aliases: dict[str, str]
) -> dict[str, Any]:
    """The fields that `words` set."""
    every: dict[str, Field[Any]] = {item.name: item for item in fields(settings)}
    found, unknown = tyro.cli(
        _grouped(settings, every, aliases),
        args=words,
        prog=prog,
        use_underscores=True,
        return_unknown_args=True,
    )
    if unknown:
        known = [aliases.get(f"--{name}", f"--{name}") for name in every]
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise TumorlensError(f"Unrecognized options: {', '.join(unknown)}{hint}")
    given = {
        name: value
        for group in vars(found).values()
        for name, value in vars(group).items()
        if value is not None
    }
    for name, item in every.items():
        if item.default is MISSING and name not in given:
            raise TumorlensError(f"--{name} must be given.")
    return given


def _grouped(settings: type[Any], every: dict[str, Field[Any]], aliases: dict[str, str]) -> Any:
    """A class for tyro, which makes a heading in help of each class within it."""
    docs, hints, trains = docs_of(settings), get_type_hints(settings), "recipe" in every
    groups: dict[str, list[tuple[str, Any, Any]]] = {
        name: [] for name in ("required", *GROUPS, "other")
    }
    for name, item in every.items():
        flag = aliases.get(f"--{name}", f"--{name}")
        told, hint = docs[name], default_text(item, trains)
        if not hint:  # tyro adds a space all the same, which may become an empty line
            told, _, hint = told.rpartition(" ")
        mark = tyro.conf.arg(
            name=flag.removeprefix("--"),
            prefix_name=False,
            help=told,
            help_behavior_hint=hint,
        )
        on_off = hints[name] is bool
        alone = item.metadata.get("alone")
        kind = bool if on_off else Annotated[object, _reader(hints[name], flag, alone)]
        groups[group_of(item, trains)].append(
            (name, Annotated[kind, mark], field(default=False if on_off else None))
        )
    inner = [
        (group, Annotated[make_dataclass(group, those), tyro.conf.arg(name=group, help="")])
        for group, those in groups.items()
        if those
    ]
    return make_dataclass(settings.__name__, inner, namespace={"__doc__": settings.__doc__})


def group_of(item: Field[Any], trains: bool) -> str:
    """The heading under which help lists a field; `trains`: of a command that trains."""
    named = (group for group, names in GROUPS.items() if item.name in names)
    group = next((one for one in named if trains or one != "training"), "other")
    return "required" if is_required(item) else group


def default_text(item: Field[Any], trains: bool) -> str:
    """What help says of a field's default; `trains`: recipes may set it."""
    if is_required(item):
        return "(required)"
    if trains and item.name in RECIPE_FLAGS:
        by_recipe = {name: values[item.name] for name, values in RECIPE_DEFAULTS.items()}
        if len(set(by_recipe.values())) == 1:
            return f"(default: {by_recipe['plain']})"
        listed = (f"{name} {value}" for name, value in by_recipe.items())
        return f"(default, by --recipe: {', '.join(listed)})"
    if item.default in (None, ()):  # said by silence, or by the docstring
        return ""
    values = item.default if isinstance(item.default, tuple) else (item.default,)
    return f"(default: {' '.join(map(str, values))})"


def _reader(hint: Any, flag: str, alone: str | None) -> PrimitiveConstructorSpec[Any]:
    """How words become a value of X, X | None or tuple[X, ...]; refused in our words.

    `alone`: what the flag says without a word after it.
    """
    many, literal = get_origin(hint) is tuple, get_origin(hint) is Literal
    kind = hint if literal else (get_args(hint) or (hint,))[0]
    choices = get_args(kind)
    name = "{" + ",".join(choices) + "}" if choices else kind.__name__.upper()

    def read(word: str) -> Any:
        try:
            if word and (word in choices or not choices):
                return word if choices else kind(word)
        except ValueError:
            pass
        expected = f"one of {', '.join(choices)}" if choices else name
        raise TumorlensError(f"{flag}: found {word!r}, expected {expected}.")

    def read_all(words: list[str]) -> Any:
        if many:
            return tuple(map(read, words))
        if alone and not words:
            return alone
        if len(words) != 1:
            raise TumorlensError(f"{flag}: found {' '.join(words) or 'nothing'}, expected {name}.")
        return read(words[0])

    return PrimitiveConstructorSpec(
        nargs="*",  # tyro's own words for a missing value are not a sentence
        metavar=f"[{name} ...]" if many else name,
        instance_from_str=read_all,
        is_instance=lambda _: True,
        str_from_instance=lambda _: [],
    )
