"""How fast is a training whose cores another program wants too?

    python benchmarks/contended_training.py

Training steps of SE-ResNet18 at 96 px and batch 64 by one thread and by all, under each policy of
how an OpenMP thread waits for the others: by default GNU's runtime, which PyTorch's Linux wheels
bring, spins for some milliseconds before it sleeps; `passive` sleeps at once; the short spin is in
between. KMP_BLOCKTIME is for Intel's and LLVM's runtimes alone, which read OMP_WAIT_POLICY too.
Each configuration is a process of its own. In each round all of them take their turn: on a quiet
machine, then beside a busy loop that is tied to the last core; and once more beside it with the
training at a lower priority (nice 10). `others_cores` tells how many cores other programs took in
each turn, the busy loop among them: near 0 on a machine that is quiet indeed. Writes
results/speed/contended_training.json.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import facts
from rounds import spread
from worker import Worker, serve

OUT = Path(__file__).parent.parent / "results" / "speed" / "contended_training.json"
NETWORK, SIZE, BATCH = "se_resnet18", 96, 64
POLICIES = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "short spin": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 50000": {"GOMP_SPINCOUNT": "50000"},
}
ONE = "1 thread, default"
KINDS = ("quiet", "contended", "contended, nice 10")
NICE = 10


def work(threads: int, nice: int) -> None:
    """Take a lower priority; train for as many seconds as each line on standard input says."""
    import torch  # noqa: PLC0415 (after the environment is set, and not in the parent)

    from training_step import training_step  # noqa: PLC0415
    from tumorlens.device import kept_memory  # noqa: PLC0415

    os.nice(nice)
    torch.set_num_threads(threads)
    with kept_memory():
        step = training_step(NETWORK, SIZE, BATCH)
        for _ in range(3):
            step()

        def answer(seconds: str) -> dict[str, Any]:
            steps, started, cpu = 0, time.perf_counter(), time.process_time()
            while not steps or time.perf_counter() - started < float(seconds):
                step()
                steps += 1
            wall, busy = time.perf_counter() - started, time.process_time() - cpu
            return {"images_per_s": steps * BATCH / wall, "images_per_cpu_s": steps * BATCH / busy}

        serve({"torch": torch.__version__, "openmp": _runtime(torch)}, answer)


def _runtime(torch: Any) -> str:
    """The OpenMP library that is loaded, such as "libgomp"."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    names = {line.rsplit("/", 1)[-1].split(".")[0].split("-")[0] for line in maps.splitlines()}
    found = sorted(name for name in names if name in ("libgomp", "libiomp5", "libomp"))
    return ", ".join(found) or str(torch.__config__.parallel_info())


def trainer(threads: int, policy: dict[str, str], nice: int) -> Worker:
    """A process that trains when asked."""
    taken = {name for other in POLICIES.values() for name in other} | {"OMP_NUM_THREADS"}
    environment = dict.fromkeys(taken) | policy | {"THP_MEM_ALLOC_ENABLE": "1"}
    return Worker([sys.executable, __file__, "--worker", str(threads), str(nice)], environment)


def _taken() -> float:
    """Seconds of processor time that all programs have had, since the machine started."""
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, *interrupts = map(int, first[:7])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def busy(core: int) -> Iterator[None]:
    """A busy loop on a core for as long as the context lasts."""
    loop = subprocess.Popen(
        [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    )
    time.sleep(0.2)
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def measure(rounds: int, seconds: float, cores: list[int]) -> dict[str, Any]:
    """Every configuration in turns, and what each is in multiples of another."""
    names = [ONE, *(f"{len(cores)} threads, {name}" for name in POLICIES)]
    about: dict[str, Any] = {}
    results = {}
    # Training at lower priority needs processes of its own; all at once would take much memory.
    for nice, kinds in ((0, KINDS[:2]), (NICE, KINDS[2:])):
        rates: dict[str, dict[str, list[dict[str, float]]]] = {
            kind: {name: [] for name in names} for kind in kinds
        }
        with contextlib.ExitStack() as stack:
            trainers = {}
            for name in names:
                count, policy = name.split(", ")
                trainers[name] = trainer(int(count.split()[0]), POLICIES[policy], nice)
                stack.callback(trainers[name].end)
            about = trainers[ONE].facts
            for number in range(rounds):
                turn = number % len(names)
                for kind in kinds:
                    with contextlib.nullcontext() if kind == "quiet" else busy(cores[-1]):
                        for name in names[turn:] + names[:turn]:
                            started, taken = time.perf_counter(), _taken()
                            found = trainers[name].ask(seconds)
                            wall = time.perf_counter() - started
                            mine = wall * found["images_per_s"] / found["images_per_cpu_s"]
                            found["others_cores"] = max(0.0, (_taken() - taken - mine) / wall)
                            rates[kind][name].append(found)
                print(f"round {number + 1} of {rounds}, nice {nice}", file=sys.stderr, flush=True)
        results |= {kind: _result(rates[kind], names) for kind in kinds}
    return {"about": about, "results": results}


def _result(found: dict[str, list[dict[str, float]]], names: list[str]) -> dict[str, Any]:
    wall = {name: [one["images_per_s"] for one in found[name]] for name in names}
    default = next(name for name in names if name.endswith("threads, default"))
    result: dict[str, Any] = {}
    for name in names:
        result[name] = {
            key: spread([one[key] for one in found[name]])
            for key in ("images_per_s", "images_per_cpu_s", "others_cores")
        }
        for beside, key in ((ONE, "of_one_thread"), (default, "of_all_by_default")):
            ratios = [a / b for a, b in zip(wall[name], wall[beside], strict=True)]
            result[name][key] = spread(ratios)
    return result


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.2, help="of each configuration's turn")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    before = facts()
    cores = sorted(os.sched_getaffinity(0))
    found = measure(args.rounds, args.seconds, cores)
    record = {
        "command": shlex.join(["python", "benchmarks/contended_training.py", *sys.argv[1:]]),
        "what": f"{NETWORK}, {SIZE} px, batch {BATCH}; images_per_cpu_s is by processor time",
        **found["about"],
        "rounds": args.rounds,
        "seconds_a_turn": args.seconds,
        "results": found["results"],
        "machine": before,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
