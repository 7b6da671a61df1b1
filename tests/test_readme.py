"""README's way from nothing to a report of one's own model, run once as a user would run it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str, holding: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (block,) = [block for block in blocks if holding in block]
    return str(block)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three entry points and phantom data in `data/`."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("train.py", "evaluate.py", "gradcam.py"):
        shutil.copy(ROOT / name, folder)
    command = "tumorlens phantom --out data --train 5 --valid 2 --test 2 --size 64"
    _run(f"{sys.executable} -m tumorlens {command.removeprefix('tumorlens ')}", folder)
    return folder


def _run(command: str, folder: Path) -> str:
    environment = os.environ | {
        "TUMORLENS_CACHE": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_three_commands_of_the_contract_work_as_written(desk: Path) -> None:
    block = _block("bash", "python evaluate.py")
    lines = block.strip().splitlines()
    assert lines == [
        "python train.py --model se_resnet18 --data_dir data/",
        "python evaluate.py --checkpoint model/best_model.pt",
        "python gradcam.py --checkpoint model/best_model.pt --class glioma",
    ]
    for line in lines:
        told = _run(line, desk)
    assert "Panel:     model/gradcam/panel.png" in told
    for name in ("evaluation/confusion_matrix.png", "evaluation/metrics.json", "gradcam/panel.png"):
        assert (desk / "model" / name).is_file()


def test_report_of_ones_own_model_is_the_next_command(desk: Path) -> None:
    block = _block("bash", "tumorlens report")
    told = _run(block.strip(), desk)
    assert "Not in it: " in told  # what was not measured, with the command that measures it
    (page,) = (desk / "model" / "runs").glob("*/report.html")
    assert "confusion" in page.read_text(encoding="utf-8").lower()
    assert (page.parent / "MODEL_CARD.md").is_file()


def test_the_python_example_runs_and_prints_nothing_of_its_own(desk: Path) -> None:
    (desk / "example.py").write_text(_block("python", "import tumorlens"))
    told = _run("python example.py", desk)
    recall, first = told.splitlines()
    assert re.fullmatch(r"glioma recall \d\.\d\d \(\d\.\d\d to \d\.\d\d\), n = 2", recall)
    assert first.startswith("data/test/glioma/")


def test_quick_start_shows_what_the_commands_printed() -> None:
    printed = (ROOT / "results" / "demo" / "quick_start.txt").read_text(encoding="utf-8")
    lines = _block("text", "se_resnet18 on the test images").strip().splitlines()
    assert len(lines) == 9
    assert [line for line in lines if line not in printed] == []


def test_commands_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)`", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}"
