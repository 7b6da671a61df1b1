"""Every block of Python and shell in README and docs runs, or says why it is not run.

The blocks run in the order of the site, in one folder with simulated images, by tiny settings. A
command that an earlier page has run already is not run again.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tumorlens.cli import main
from tumorlens.data.folder import scan

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"((?:^<!-- not run: [^\n]+ -->\n)?)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
TINY = {
    "phantom": {"train": 6, "valid": 2, "test": 2, "size": 64},
    "train": {"epochs": 1, "image_size": 32},
    "study": {"epochs": 1, "image_size": 32, "seeds": 1},
    "study report": {"resamples": 100},
    "evaluate": {"resamples": 100},
    "compare": {"resamples": 100},
    "gradcam": {"resamples": 100, "count": 2, "sample": 4},
}


def _pages() -> list[Path]:
    """README, then the site's pages in their order."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md$", site.partition("nav:")[2], flags=re.MULTILINE)
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in named)]


def _blocks() -> Iterator[tuple[str, str, str]]:
    """Page, language and text of each block that is to run."""
    for page in _pages():
        for mark, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language in ("python", "bash", "toml") and not mark:
                yield page.relative_to(ROOT).as_posix(), language, text


def _commands(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def _arguments(words: list[str]) -> list[str]:
    """A documented line as `main` takes it, by tiny settings."""
    if words[0] == "python" and words[1] in ("train.py", "evaluate.py", "gradcam.py"):
        words = ["tumorlens", words[1].removesuffix(".py"), *words[2:]]
    assert words[0] == "tumorlens", f"{shlex.join(words)}: mark the block as not run, with a reason"
    command, *rest = words[1:]
    for name, value in TINY.get("study report" if "--report" in rest else command, {}).items():
        flag = f"--{name}"
        if flag in rest:
            rest[rest.index(flag) + 1] = str(value)
        else:
            rest += [flag, str(value)]
    return [command, *rest]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages suppose."""
    pytest.importorskip("nilearn", reason="the phantom needs the extra `phantom`")
    pytest.importorskip("onnxruntime", reason="the pages on export need the extra `export`")
    monkeypatch.chdir(tmp_path)
    # Drawing is half of the time, and what other tests look at.
    monkeypatch.setattr(Figure, "savefig", lambda _, path, **__: _dot().save(path, format="PNG"))
    return tmp_path


def _dot() -> Image.Image:
    return Image.new("L", (1, 1))


def _supposed(desk: Path) -> None:
    """What a reader has beside `data/` and `model/`: other networks, slices, a volume, patients."""
    import nibabel

    for name in "AB":
        (desk / name).mkdir()
        shutil.copy(desk / "model" / "best_model.pt", desk / name)
    (desk / "slices").mkdir()
    for number, path in enumerate(sorted((desk / "data" / "test").rglob("*.png"))[:2]):
        shutil.copy(path, desk / "slices" / f"{number}.png")
    voxels = np.random.default_rng(0).normal(100, 20, (32, 32, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), desk / "volume.nii.gz")
    paths = [file.path for file in scan(desk / "data").files]
    rows = (f"{path},patient-{number}\n" for number, path in enumerate(paths))
    (desk / "patients.csv").write_text("path,patient\n" + "".join(rows), encoding="utf-8")
    rows = (f"{path},{'ab'[number % 2]}\n" for number, path in enumerate(paths))
    (desk / "subgroups.csv").write_text("path,scanner\n" + "".join(rows), encoding="utf-8")


def test_every_block_of_readme_and_docs_runs(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []
    for page, language, text in _blocks():
        if language == "toml":
            (desk / "mine.toml").write_text(text, encoding="utf-8")
            continue
        if language == "python":
            if named := re.match(r"# (\w+\.py)\n", text):  # a file that a later block is given
                (desk / named[1]).write_text(text, encoding="utf-8")
            exec(compile(text, page, "exec"), {"__name__": "__main__"})
            continue
        for words in _commands(text):
            arguments = _arguments(words)
            if arguments in done:
                continue
            status = main(arguments)
            told = capsys.readouterr()
            assert status == 0, f"{page}: {shlex.join(words)}\n{told.out}\n{told.err}"
            done.append(arguments)
            if arguments[0] == "train" and not (desk / "slices").exists():
                _supposed(desk)
    assert len(done) > 25


def test_every_page_is_in_the_site_and_every_block_has_a_language() -> None:
    pages = set((ROOT / "docs").rglob("*.md"))
    assert pages == set(_pages()[1:])
    for page in _pages():
        text = page.read_text(encoding="utf-8")
        assert "" not in {language for _, language, _ in BLOCK.findall(text)}, page
        assert text.count("<!-- not run:") == sum(bool(mark) for mark, _, _ in BLOCK.findall(text))


def test_commands_of_bring_your_own_stand_in_blocks_that_run_or_say_why_not() -> None:
    page = (ROOT / "docs" / "reference" / "bring-your-own.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| [^|]+ \| `(tumorlens [^`]+)` \|", page, flags=re.MULTILINE)
    assert len(named) > 8
    blocks = [
        command
        for path in _pages()
        for _, language, text in BLOCK.findall(path.read_text(encoding="utf-8"))
        if language == "bash"
        for command in text.splitlines()
    ]
    assert [command for command in named if command not in blocks] == []
