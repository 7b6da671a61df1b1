import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress
from tumorlens.studies.schedule import run_all

TASKS = 4


def test_tasks_run_one_after_another_and_tell_of_the_whole() -> None:
    heard: list[tuple[str, int, int, str]] = []

    def work(task: int, progress: Progress) -> int:
        progress("study", 50, 100, f"task {task}")
        progress("epoch", 1, 2)
        return task * task

    found = list(run_all([3, 4], work, progress=lambda *news: heard.append(news)))
    assert found == [9, 16]
    assert heard == [
        ("study", 50, 200, "1 of 2: task 3"),
        ("epoch", 1, 2, ""),
        ("study", 150, 200, "2 of 2: task 4"),
        ("epoch", 1, 2, ""),
    ]


def test_result_is_there_before_the_next_task_starts() -> None:
    started: list[int] = []

    def work(task: int, progress: Progress) -> int:
        started.append(task)
        return task

    results = run_all([1, 2], work)
    assert next(results) == 1
    assert started == [1]


def test_nothing_to_do_asks_for_no_cluster() -> None:
    assert list(run_all([], lambda task, progress: task, cluster="tcp://127.0.0.1:1")) == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A scheduler and two worker processes on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    started = [
        subprocess.Popen([*dask, "--host", address, "--no-dashboard", "--no-show"], **quiet),
        *(
            subprocess.Popen([*worker, "--nthreads", "1", "--no-dashboard"], **quiet)
            for _ in range(2)
        ),
    ]
    try:
        yield address
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def test_worker_killed_in_the_middle_loses_no_run(cluster: str, tmp_path: Path) -> None:
    from distributed import Client

    with Client(cluster, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)

    def work(task: tuple[int, Path], progress: Progress) -> tuple[int, bool]:
        number, folder = task
        begun = folder / f"begun{number}"
        again = begun.exists()
        begun.touch()
        if number == 1 and not again:
            os.kill(os.getpid(), signal.SIGKILL)  # as when a machine goes away
        return number, again

    heard: list[int] = []
    found = list(
        run_all(
            [(number, tmp_path) for number in range(TASKS)],
            work,
            cluster,
            lambda stage, done, total, note="": heard.append(done),
        )
    )
    assert dict(found) == {number: number == 1 for number in range(TASKS)}
    assert heard == [100 * count for count in range(TASKS + 1)]


def test_address_where_nothing_answers_is_said_in_a_sentence() -> None:
    with pytest.raises(TumorlensError, match="--cluster 127.0.0.1: is no address"):
        list(run_all([1], lambda task, progress: task, cluster="127.0.0.1"))
