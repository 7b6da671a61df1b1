"""How straight is the way through the code? Calls across files, counted from the source alone.

    python experiments/walks.py [SOURCE] [ENTRY ...]

SOURCE is a package folder (default: src/tumorlens), ENTRY is `file.py:function`. From the entry on,
each call of a function of the package is followed in the order of the text, each function once. A
*stop* is a stay in one file; a *return* is a stop in a file that was left before. Nothing is run.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import IOBase
from pathlib import Path
from threading import Thread

SOURCE = Path(__file__).parents[1] / "src" / "tumorlens"
# The walks of today's commands; those that a tree does not have are left out.
ENTRIES = (
    "explain/panel.py:gradcam",
    "explain/panels.py:explain",
    "studies/run.py:do_run",
    "studies/one_run.py:do_run",
    "training/fit.py:train",
    "export/export.py:export",
    "exporting/export.py:export",
    "evaluation/evaluate.py:evaluate",
    "inference/predict.py:predict",
    "inference/predict.py:predict_and_write",
)

# Names of methods of Python's own types.
_OF_PYTHON = {
    name
    for kind in (dict, list, set, tuple, str, bytes, Path, IOBase, Thread)
    for name in dir(kind)
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file: its functions by name, its methods, and what its names are imported from."""

    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, dict[str, Function]] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)


def read(source: Path) -> dict[str, Module]:
    """Every module of a package by its dotted name below it."""
    modules = {}
    for path in sorted(source.rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        module = Module()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, Function):
                module.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                module.classes[node.name] = {
                    inner.name: inner
                    for inner in node.body
                    if isinstance(inner, Function) and not _is_property(inner)
                }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(source.name):
                place = (node.module or "").removeprefix(source.name).lstrip(".")
                for alias in node.names:
                    module.imported[alias.asname or alias.name] = (place, alias.name)
        modules[name] = module
    return modules


def _is_property(function: Function) -> bool:
    """A property is not called: `axes.text(...)` is no use of a property `text`."""
    return any("property" in ast.unparse(one) for one in function.decorator_list)


class Walk:
    """The files that a walk enters, in order."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        self.files: list[str] = []
        self.passed: set[int] = set()
        self.holders: dict[str, list[tuple[str, Function]]] = defaultdict(list)
        for name, module in modules.items():
            for methods in module.classes.values():
                for method, node in methods.items():
                    self.holders[method].append((name, node))

    def enter(self, module: str, function: Function) -> None:
        """Follow a function's calls, once."""
        if not self.files or self.files[-1] != module:
            self.files.append(module)
        if id(function) in self.passed:
            return
        self.passed.add(id(function))
        for call in _calls(function):
            found = self._resolve(module, call.func)
            if found is not None:
                self.enter(*found)

    def _resolve(self, module: str, called: ast.expr) -> tuple[str, Function] | None:
        if isinstance(called, ast.Name):
            return self._named(module, called.id)
        if not isinstance(called, ast.Attribute):
            return None
        if isinstance(called.value, ast.Name):
            place, name = self.modules[module].imported.get(called.value.id, ("", ""))
            of_module = ".".join(part for part in (place, name) if part)
            if of_module in self.modules:
                return self._named(of_module, called.attr)
        # A method that one class alone has, and nothing that Python comes with: what `get`, `close`
        # or `split` is of cannot be told from the text.
        holders = [] if called.attr in _OF_PYTHON else self.holders[called.attr]
        return holders[0] if len(holders) == 1 else None

    def _named(self, module: str, name: str) -> tuple[str, Function] | None:
        here = self.modules[module]
        if name in here.functions:
            return module, here.functions[name]
        if name in here.classes:
            made = here.classes[name].get("__init__")
            return (module, made) if made else None
        place, original = here.imported.get(name, ("", ""))
        if place in self.modules and (place, original) != (module, name):
            return self._named(place, original)
        return None


def _calls(function: Function) -> Iterator[ast.Call]:
    """Calls in the order in which they are made: what is handed over comes first."""

    def visit(node: ast.AST) -> Iterator[ast.Call]:
        for child in ast.iter_child_nodes(node):
            yield from visit(child)
        if isinstance(node, ast.Call):
            yield node

    for statement in function.body:
        yield from visit(statement)


def main(source: Path, entries: tuple[str, ...]) -> None:
    modules = read(source)
    print(f"{'entry':44} stops files returns")
    for entry in entries:
        place, _, name = entry.partition(":")
        module = place.removesuffix(".py").replace("/", ".")
        function = modules[module].functions.get(name) if module in modules else None
        if function is None:
            continue
        walk = Walk(modules)
        walk.enter(module, function)
        files = len(set(walk.files))
        print(f"{entry:44} {len(walk.files):5} {files:5} {len(walk.files) - files:7}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(Path(given[0]) if given else SOURCE, tuple(given[1:]) or ENTRIES)
