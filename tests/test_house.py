"""The rooms and their levels: who may import significant_changes, and what each command loads."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tumorlens.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tumorlens"

# Import only from a lower level; siblings inside a room may import one another.
LEVELS = {
    "__init__": 0,
    "labels": 0,
    "settings": 0,
    "errors": 0,
    "progress": 0,
    "files": 0,
    "image_tables": 0,
    "device": 1,
    "models": 1,
    "data": 1,
    "audit": 2,
    "phantom": 2,
    "uncertainty": 2,
    "checkpoint": 3,
    "evaluation": 4,
    "comparison": 5,
    "explain": 5,
    "training": 5,
    "inference": 6,
    "reporting": 6,
    "studies": 6,
    "export": 7,
    "web": 7,
    "public_functions": 8,
    "cli": 8,
    "__main__": 9,
}
# Level-0 files build on one another in this order.
GROUND = ("__init__", "errors", "labels", "progress", "files", "image_tables", "settings")

ONLY_HERE = {
    "lightning": ("training",),
    "torchmetrics": ("training",),
    "nilearn": ("phantom",),
    "tyro": ("cli",),
}
NO_TORCH = (
    "labels.py",
    "settings/__init__.py",
    "errors.py",
    "progress.py",
    "files.py",
    "device.py",
    "data/readers.py",
    "data/folder.py",
    "data/hashing.py",
    "data/duplicates.py",
    "data/patients.py",
    "data/splits.py",
    "data/cache.py",
    "data/volumes.py",
    "audit/audit.py",
    "phantom/notice.py",
    "evaluation/metrics.py",
    "evaluation/intervals.py",
    "evaluation/scores.py",
    "evaluation/plots.py",
    "comparison/paired.py",
    "comparison/compare.py",
    "studies/report.py",
    "uncertainty/out_of_distribution.py",
    "uncertainty/decision.py",
    "inference/onnx_metadata.py",
    "inference/backends.py",
    "inference/inputs.py",
    "explain/overlay.py",
    "explain/regions.py",
    "explain/map_metrics.py",
    "explain/plots.py",
)


def _files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _room(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def _room_of(module: str) -> str:
    splits = module.split(".")
    return splits[1] if len(splits) > 1 and splits[1] in LEVELS else "__init__"


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_imports_from_lower_levels_alone(path: Path) -> None:
    room = _room(path)
    for module in _imports(path):
        if not module.startswith("tumorlens"):
            continue
        other = _room_of(module)
        if other == room:
            continue
        if LEVELS[room] == LEVELS[other] == 0:
            assert GROUND.index(other) < GROUND.index(room), f"{path.name} imports {module}"
        else:
            assert LEVELS[other] < LEVELS[room], (
                f"{path.relative_to(SOURCE)} (level {LEVELS[room]}) imports {module} "
                f"(level {LEVELS[other]})"
            )


def test_no_file_imports_itself_by_way_of_others() -> None:
    modules = {
        ".".join(("tumorlens", *path.relative_to(SOURCE).with_suffix("").parts)): path
        for path in _files()
    }
    needs = {
        name: {
            other
            for module in _imports(path)
            for other in (module, module.rpartition(".")[0])
            if other in modules
        }
        for name, path in modules.items()
    }
    # Who needs nothing that is left can go; what can never go is a circle.
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert sorted(needs) == []


@pytest.mark.parametrize("package", ONLY_HERE)
def test_heavy_package_is_imported_where_it_belongs_alone(package: str) -> None:
    for path in _files():
        if any(module.split(".")[0] == package for module in _imports(path)):
            place = path.relative_to(SOURCE).as_posix()
            assert place.startswith(ONLY_HERE[package]), f"{place} imports {package}"


@pytest.mark.parametrize("name", NO_TORCH)
def test_file_that_must_stay_light_imports_no_torch(name: str) -> None:
    path = SOURCE / name
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import tumorlens.{name[:-3].replace('/', '.')}, sys; print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "False", f"{path} loads torch"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_neither_torch_nor_anything_else_heavy(command: str) -> None:
    script = (
        "import sys\nfrom tumorlens.cli import main\n"
        f"try: main([{repr(command) + ',' if command else ''} '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'sklearn', 'scipy', 'matplotlib', 'numpy', 'PIL'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("LOADED []")
    assert "tumorlens" in done.stdout


def test_no_module_in_the_root_has_a_verbs_name() -> None:
    assert not {path.stem for path in SOURCE.glob("*.py")} & set(COMMANDS)


def test_every_verb_has_a_file_of_its_own() -> None:
    for command in COMMANDS:
        assert (SOURCE / "cli" / f"{command}.py").is_file()


def test_files_stay_readable() -> None:
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in _files()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert long == {}


def test_no_drawer_for_everything() -> None:
    drawers = {"utils", "helpers", "common", "misc"}
    assert not {split for path in _files() for split in path.parts} & drawers
    assert not {path.stem for path in _files()} & drawers


def test_file_map_names_every_file_once() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    for path in _files():
        if path.name in ("__init__.py", "__main__.py"):
            continue
        name = path.relative_to(SOURCE).as_posix()
        assert page.count(f"`{name}`") == 1, (
            f"{name} is not once in docs/explanation/architecture.md"
        )


def test_code_has_no_absolute_path_of_a_machine() -> None:
    home = os.path.expanduser("~")  # noqa: PTH111 (the very text is looked for)
    for path in [*_files(), ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        for place in ("/work/", "/tmp/", f"{home}/"):
            assert place not in text, f"{path} names {place}"


def test_no_function_is_long_or_takes_many_parameters() -> None:
    """At most 60 lines and 8 parameters, as CONTRIBUTING says."""
    found = []
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or 0) - node.lineno + 1
            taken = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            if lines > 60 or len([name for name in taken if name not in ("self", "cls")]) > 8:
                found.append(f"{path.name}: {node.name}, {lines} lines, {len(taken)} parameters")
    assert found == []


def test_what_holds_arrays_does_not_compare_them() -> None:
    """`==` of two such objects would raise, as arrays have no one answer to it."""
    arrays = ("npt.NDArray", "Tensor", "Floats", "Stack", "Array", "Indices", "Maps", "list[npt.")
    found = []
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            made = [ast.unparse(one) for one in node.decorator_list]
            holds = [ast.unparse(one.annotation) for one in node.body if hasattr(one, "annotation")]
            if any(one.startswith("dataclass(") and "eq=False" not in one for one in made):
                found += [node.name for one in holds if one.startswith(arrays)]
    assert found == []
