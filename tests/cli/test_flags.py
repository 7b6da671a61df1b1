from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tumorlens.cli import main
from tumorlens.cli.flags import parse
from tumorlens.errors import TumorlensError
from tumorlens.settings import REQUIRED, TrainSettings, docs_of


@dataclass(frozen=True)
class Base:
    device: Literal["auto", "cpu"] = "auto"
    """Where to
    compute."""


@dataclass(frozen=True)
class Example(Base):
    """An example."""

    paths: tuple[Path, ...] = field(default=(), metadata=REQUIRED)
    """Files."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""
    share: float | None = None
    """A share."""
    loud: bool = False
    """Loud."""
    word_name: str | None = None
    """A word."""


def _parse(*words: str) -> Example:
    return parse(Example, words, "tool", positional=("paths",), aliases={"--word_name": "--word"})


def test_words_become_fields_of_their_types() -> None:
    assert _parse() == Example()
    found = _parse("a", "b", "--sizes", "3", "--share=-0.5", "--loud", "--word", "x")
    assert found == Example("auto", (Path("a"), Path("b")), (3,), -0.5, True, "x")
    assert _parse("--word-name", "x", "--no-loud", "--sizes") == Example(word_name="x", sizes=())


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b", "--share", "-1", "--loud"],
        ["--share", "-1", "--loud", "a", "b"],
        ["--share=-1", "a", "--loud", "b"],
        ["a", "--share", "-1", "b", "--loud"],
    ],
)
def test_words_without_a_flag_may_stand_anywhere(words: list[str]) -> None:
    assert _parse(*words) == Example(paths=(Path("a"), Path("b")), share=-1, loud=True)


def test_a_flag_of_many_values_takes_all_that_follow() -> None:
    assert _parse("a", "--sizes", "3", "4") == Example(paths=(Path("a"),), sizes=(3, 4))
    with pytest.raises(TumorlensError, match="found 1 b, expected FLOAT"):
        parse(Example, ["--share", "1", "b"], "tool")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--share", "x"], "--share: found 'x', expected FLOAT."),
        (["--share"], "--share: found nothing, expected FLOAT."),
        (["--share", "1", "--share", "2"], "--share: given 2 times; give it once."),
        (["a", "--paths", "b"], "--paths: given 2 times; give it once."),
        (["--word", ""], "--word: found '', expected STR."),
        (["--loud", ""], "--paths: found '', expected PATH."),
        (["--sizes", "1", "x"], "--sizes: found 'x', expected INT."),
        (["--device", "tpu"], "--device: found 'tpu', expected one of auto, cpu."),
        (["--shar", "1"], "Unrecognized options: --shar, 1; did you mean --share?"),
        (["--wodr", "1"], "Unrecognized options: --wodr, 1; did you mean --word?"),
        (["--q", "1"], "Unrecognized options: --q, 1."),
    ],
)
def test_what_is_not_understood_is_one_sentence(words: list[str], told: str) -> None:
    with pytest.raises(TumorlensError) as refused:
        _parse(*words)
    assert str(refused.value) == f"{told} See tool --help."


def test_help_has_groups_required_flags_first_and_lines_broken_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert docs_of(Example)["device"] == "Where to compute."
    with pytest.raises(SystemExit) as stopped:
        _parse("--help")
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    places = [told.index(f"{group} options") for group in ("required", "hardware", "other")]
    assert places == sorted(places)
    for words in ("Files. (required)", "Where to compute. (default: auto)", "(default: 1 2)"):
        assert words in told
    assert "--word STR" in told
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    told = capsys.readouterr().out
    flat = " ".join(told.replace("│", " ").split())
    for name, doc in docs_of(TrainSettings).items():
        assert f"--{name}" in told
        assert doc in flat
    assert (
        "Passes over the training images. (default, by --recipe: plain 15, fast 20, robust" in flat
    )
    # No line ends early: the next line's first word would not have fitted.
    start = told.splitlines().index(next(x for x in told.splitlines() if "--splits" in x))
    one, two = (line.strip("│ ") for line in told.splitlines()[start + 1 : start + 3])
    assert len(one) + 1 + len(two.split()[0]) > 57


@pytest.mark.parametrize("command", ["train", "evaluate", "gradcam", "compare", "study", "export"])
def test_help_has_no_empty_lines(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "│" in line and not line.strip("│ ")]
