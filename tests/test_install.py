"""What installs tumorlens: the Makefile's environment, the wheel's extras, the Dockerfile."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tumorlens.cli.flags import parse
from tumorlens.settings import ServeSettings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def _instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, flags=re.MULTILINE)


@pytest.mark.parametrize(("target", "has_tools"), [("demo", False), ("check", True)])
def test_demo_installs_no_developers_tools(target: str, has_tools: bool, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    planned = subprocess.run(
        ["make", "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "-c constraints.txt -e '.[phantom]'" in planned
    assert ("-e '.[dev]'" in planned) is has_tools


def test_image_is_built_from_files_that_are_sent_to_docker() -> None:
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in sent
    copied = [path for line in _instructions("COPY") for path in line.split()[:-1]]
    assert "src" in copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in sent, path


def test_image_starts_the_page_with_extras_and_flags_that_exist() -> None:
    (entry,) = json.loads(_instructions("ENTRYPOINT")[0])
    assert entry in PROJECT["scripts"]
    command, *flags = json.loads(_instructions("CMD")[0])
    assert command == "serve"
    settings = parse(ServeSettings, flags, "tumorlens serve")
    assert not settings.is_local  # else nothing outside of the container reaches it
    assert settings.host_names is not None
    assert f"EXPOSE {settings.port}\n" in DOCKERFILE
    assert _instructions("USER") == ["1000:1000"]
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", DOCKERFILE, flags=re.MULTILINE)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_documented_image_for_a_gpu_uses_arguments_and_extras_that_exist() -> None:
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    (build,) = re.findall(
        r"^docker build .*TORCH_INDEX=.*$", page.replace("\\\n", " "), re.MULTILINE
    )
    given = dict(word.split("=", 1) for word in shlex.split(build) if "=" in word)
    assert set(given) <= set(re.findall(r"^ARG (\w+)=", DOCKERFILE, flags=re.MULTILINE))
    assert set(given["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])


def test_readme_says_what_its_lines_weigh() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (extras,) = re.findall(r"-e '\.\[(.+)\]'", readme)
    found = json.loads((ROOT / "results/install/install.json").read_text(encoding="utf-8"))
    now = found["sizes"]["after"]
    parts = [now["installs"][name]["mb"] for name in ("base", *extras.split(","))]
    total = now["tumorlens_installed_mb"] + sum(parts)  # extras share some packages
    assert f"{total / 1000:.1f} GB" in readme
