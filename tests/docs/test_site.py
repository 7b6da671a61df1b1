"""The site is built strictly; links lead somewhere; tables and the reference are those of today."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A script of `tools/` or `experiments/`, by its name."""
    for folder in ("tools", "experiments"):
        monkeypatch.syspath_prepend(ROOT / folder)
    return importlib.import_module(request.param)


def test_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`, which `make test` installs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
    assert 'id="evaluate"' in commands
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert 'id="tumorlens.train"' in python


@pytest.mark.parametrize("tool", ["write_reference"], indirect=True)
def test_reference_of_commands_is_that_of_the_settings(tool: ModuleType) -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run `make docs`"


@pytest.mark.parametrize("tool", ["write_numbers"], indirect=True)
def test_tables_have_the_numbers_of_the_result_files(tool: ModuleType) -> None:
    shown = 0
    for page in tool.pages():
        text = page.read_text(encoding="utf-8")
        shown += text.count("<!-- numbers: ")
        assert tool.filled(text) == text, f"{page}: run `make docs`"
    assert shown > 25


@pytest.mark.parametrize("tool", ["write_numbers"], indirect=True)
def test_changed_number_in_a_table_is_noticed(tool: ModuleType) -> None:
    page = ROOT / "docs" / "results" / "patients.md"
    text = page.read_text(encoding="utf-8")
    assert tool.filled(text.replace("0.917", "0.918", 1)) == text


def test_links_of_readme_and_its_neighbours_lead_to_files() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)", text):
            if "://" not in target and "actions/workflows" not in target and "@" not in target:
                assert (ROOT / target).exists(), f"{name}: {target}"


def test_readme_is_short_and_says_once_that_it_is_no_medical_device() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert text.count("medical device") == 1


@pytest.mark.parametrize("tool", ["prose"], indirect=True)
def test_sentences_of_readme_and_docs_are_short(tool: ModuleType) -> None:
    found = tool.measured(ROOT)["readme_and_docs"]
    assert found["mean_words"] <= 20
    assert found["over_35_words"] == 0, found["longest"]


@pytest.mark.parametrize("tool", ["prose"], indirect=True)
def test_sentences_are_told_from_tables_code_and_headings(tool: ModuleType) -> None:
    text = (
        "# Head\n\nOne two. Three `x.y`\nfour.\n\n| a | b. |\n\n- five\n- six\n\n```bash\nno\n```\n"
    )
    assert list(tool.sentences(text)) == ["One two.", "Three `x.y` four.", "five", "six"]
