"""What does an installation bring and weigh, before and after the web page left Gradio?

    .venv/bin/python experiments/install_sizes.py

Run it in a clone, by the Python of the environment that `make test` made; about ten minutes. pip
says by `--dry-run --report` what the wheel with all extras brings, under the constraints of the
same commit; nothing is installed. What each extra needs of it is read from the packages' own
requirements. Megabytes are of the files in this environment, without compiled bytecode; null where
a package is not in it. `--starts` measures the starts alone anew.
Writes results/install/install.json.
"""

import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tumorlens.files import write_json
from tumorlens.studies.run import machine

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "597e422~1"  # the last commit whose page was Gradio's
PIP = (sys.executable, "-m", "pip")
ROUNDS = 15
STARTS = {
    "python, nothing imported": ["-c", "pass"],
    "import tumorlens": ["-c", "import tumorlens"],
    "tumorlens --help": ["-m", "tumorlens", "--help"],
}


def main() -> None:
    """Two trees: what each brings, and its starts in turns; with --starts, the starts anew."""
    began = time.perf_counter()
    out = ROOT / "results" / "install" / "install.json"
    with tempfile.TemporaryDirectory() as folder:
        trees = {"before": Path(folder, "before"), "after": Path(folder, "after")}
        for tree, commit in zip(trees.values(), (BEFORE, "HEAD"), strict=True):
            _run("git", "archive", "-o", f"{tree}.tar", commit)
            with tarfile.open(f"{tree}.tar") as packed:
                packed.extractall(tree, filter="data")
        if sys.argv[1:] == ["--starts"]:
            found = json.loads(out.read_text(encoding="utf-8"))
        else:
            found = {
                "command": "python experiments/install_sizes.py",
                "torch": importlib.metadata.version("torch"),
                "sizes": {name: brought(tree) for name, tree in trees.items()} | run_of(began),
            }
        began = time.perf_counter()
        found["starts"] = starts(trees) | run_of(began)
    write_json(out, found)


def run_of(began: float) -> dict[str, Any]:
    """Where, how long and of which commits a part was measured."""
    return {
        "commit": _run("git", "rev-parse", "--short", "HEAD").strip(),
        "commit_before": _run("git", "rev-parse", "--short", BEFORE).strip(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "minutes": round((time.perf_counter() - began) / 60, 1),
    }


def brought(tree: Path) -> dict[str, Any]:
    """The wheel's bytes; what it brings beside itself, and what each extra adds to that."""
    _run(*PIP, "wheel", "-q", "--no-deps", "-w", str(tree / "dist"), str(tree))
    (wheel,) = (tree / "dist").glob("*.whl")
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = list(project["optional-dependencies"])
    every = resolved(f"{wheel}[{','.join(extras)}]", tree)
    base = needed("", every)
    sizes = {"base": base} | {extra: needed(extra, every) - base for extra in extras}
    with zipfile.ZipFile(wheel) as packed:
        unpacked = sum(file.file_size for file in packed.infolist())
    return {
        "wheel_bytes": wheel.stat().st_size,
        "tumorlens_installed_mb": round(unpacked / 1e6, 1),
        "installs": {
            name: {
                "packages": len(those),
                "mb": megabytes({one: every[one]["version"] for one in those}),
                "names": sorted(those),
            }
            for name, those in sizes.items()
        },
    }


def resolved(what: str, tree: Path) -> dict[str, Any]:
    """Name to metadata of everything that `pip install` of `what` would bring."""
    report = tree / "report.json"
    _run(
        *(*PIP, "install", "-q", "--dry-run", "--ignore-installed", "--report", str(report)),
        *("-c", str(tree / "constraints.txt"), what),
    )
    told = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(one["metadata"]["name"]): one["metadata"] for one in told}


def needed(extra: str, every: dict[str, Any]) -> set[str]:
    """The packages of pip's answer that tumorlens with one extra, or none, needs."""
    found, todo = set(), [("tumorlens", extra), ("tumorlens", "")]
    while todo:
        one = todo.pop()
        found.add(one)
        for text in every[one[0]].get("requires_dist", ()):
            asked = Requirement(text)
            if asked.marker is None or asked.marker.evaluate({"extra": one[1]}):
                name = canonicalize_name(asked.name)
                todo += [
                    each for each in ((name, e) for e in ("", *asked.extras)) if each not in found
                ]
    return {name for name, _ in found} - {"tumorlens"}


def megabytes(those: dict[str, str]) -> float | None:
    """Size of the installed files; None where one package is not here in this version."""
    total = 0
    for name, version in those.items():
        try:
            here = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            return None
        if here.version.partition("+")[0] != version.partition("+")[0]:
            return None
        total += sum(file.size or 0 for file in here.files or ())
    return round(total / 1e6, 1)


def starts(trees: dict[str, Path]) -> dict[str, Any]:
    """Median seconds of processor time of whole processes, the two trees in turns."""
    seconds: dict[str, dict[str, list[float]]] = {
        name: {what: [] for what in STARTS} for name in trees
    }
    for _ in range(ROUNDS + 1):
        for name, tree in trees.items():
            for what, words in STARTS.items():
                began = _of_children()
                subprocess.run(
                    [sys.executable, *words],
                    env={"PYTHONPATH": str(tree / "src")},
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
                seconds[name][what].append(_of_children() - began)
    return {
        name: {what: round(statistics.median(each[1:]), 3) for what, each in of.items()}
        for name, of in seconds.items()
    } | {"seconds_are": "of one processor, whole processes", "rounds": ROUNDS}


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(*words: str) -> str:
    return subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
