import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress
from tumorlens.studies.schedule import run_all

TASKS = 4


def _raised(task: object, error: Exception) -> object:
    raise error


def test_tasks_run_one_after_another_and_tell_of_the_whole() -> None:
    heard: list[tuple[str, int, int, str]] = []

    def work(task: int, progress: Progress) -> int:
        progress("study", 50, 100, f"task {task}")
        progress("epoch", 1, 2)
        return task * task

    found = list(run_all([3, 4], work, _raised, progress=lambda *news: heard.append(news)))
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

    results = run_all([1, 2], work, _raised)
    assert next(results) == 1
    assert started == [1]


def test_nothing_to_do_asks_for_no_cluster() -> None:
    assert (
        list(run_all([], lambda task, progress: task, _raised, cluster="tcp://127.0.0.1:1")) == []
    )


def test_jobs_do_tasks_side_by_side_and_tell_of_each(tmp_path: Path) -> None:
    def work(task: tuple[int, Path], progress: Progress) -> tuple[int, int]:
        number, folder = task
        progress("study", 50, 100, f"task {number}")
        progress("epoch", 1, 2, f"of task {number}")
        (folder / f"begun{number}").touch()
        other = folder / f"begun{1 - number}"
        for _ in range(600):  # neither ends before the other has begun
            if other.exists():
                return number, os.getpid()
            time.sleep(0.1)
        raise TimeoutError

    heard: list[tuple[str, int, int, str]] = []
    tasks = [(0, tmp_path), (1, tmp_path)]
    found = dict(run_all(tasks, work, _raised, progress=lambda *news: heard.append(news), jobs=2))
    assert set(found) == {0, 1}
    assert len({*found.values(), os.getpid()}) == 3
    assert [news for news in heard if news[0] == "epoch" and "task 0" in news[3]] == [
        ("epoch", 1, 2, "of task 0")
    ]
    study = [news for news in heard if news[0] == "study"]
    assert {total for _, _, total, _ in study} == {200}
    assert [done for _, done, _, _ in study] == sorted(done for _, done, _, _ in study)
    assert study[-1][1] == 200
    assert any(note == "1 of 2: task 0; 2 of 2: task 1" for *_, note in study)


def test_job_that_fails_or_dies_stops_no_other() -> None:
    def work(task: int, progress: Progress) -> int:
        if task == 0:
            raise ZeroDivisionError
        if task == 1:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is short
        return task

    def failed(task: int, error: Exception) -> str:
        return f"{task}: {type(error).__name__}: {error}"

    found = list(run_all([0, 2, 1, 3, 4], work, failed, jobs=2))
    assert sorted(one for one in found if isinstance(one, int)) == [2, 3, 4]
    assert sorted(one for one in found if isinstance(one, str)) == [
        "0: ZeroDivisionError: ",
        "1: TumorlensError: --jobs 2: its process died, for lack of memory perhaps; the same "
        "command goes on, with fewer --jobs if it dies again.",
    ]


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 7), (signal.SIGKILL, -9)])
def test_jobs_end_with_the_one_who_asked(sent: signal.Signals, status: int, tmp_path: Path) -> None:
    script = tmp_path / "asks.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from pathlib import Path
            from tumorlens.studies.schedule import run_all

            def work(task, progress):
                Path(sys_path, f"{os.getpid()}.begun").touch()
                while True:
                    progress("epoch", 1, 2)
                    time.sleep(0.1)

            sys_path = sys.argv[1]
            try:
                list(run_all([1, 2], work, print, jobs=2))
            except KeyboardInterrupt:
                sys.exit(7)
            """
        )
    )
    asking = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun: list[int] = []
    try:
        for _ in range(600):
            begun = [int(path.stem) for path in tmp_path.glob("*.begun")]
            if len(begun) == 2:
                break
            time.sleep(0.1)
        if sent == signal.SIGINT:
            os.killpg(asking.pid, sent)  # as a terminal does: all of them get it
        else:
            asking.kill()
        _, told = asking.communicate(timeout=60)
    finally:
        asking.kill()
        asking.wait()
    assert len(begun) == 2
    assert asking.returncode == status, told
    assert "Traceback" not in told
    for _ in range(100):
        if not any(Path(f"/proc/{one}").exists() for one in begun):
            break
        time.sleep(0.1)
    assert not [one for one in begun if Path(f"/proc/{one}").exists()]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A scheduler and three worker processes on loopback; a task may kill one of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": tmp_path,
        "env": os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"},
    }
    started = [
        subprocess.Popen([*dask, "--host", address, "--no-dashboard", "--no-show"], **quiet),
        *(
            subprocess.Popen([*worker, "--nthreads", "1", "--no-dashboard"], **quiet)
            for _ in range(3)
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
        client.wait_for_workers(3, timeout=60)

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
            _raised,
            cluster,
            lambda stage, done, total, note="": heard.append(done),
        )
    )
    assert dict(found) == {number: number == 1 for number in range(TASKS)}
    assert heard == [100 * count for count in range(TASKS + 1)]


def test_run_that_raises_or_kills_workers_stops_no_other_of_the_cluster(cluster: str) -> None:
    from distributed import Client

    with Client(cluster, timeout=60) as client:
        client.wait_for_workers(3, timeout=60)

    def work(task: int, progress: Progress) -> int:
        if task == 0:
            raise ZeroDivisionError("why")
        if task == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    def failed(task: int, error: Exception) -> str:
        return f"{task}: {error}"

    # The last one kills: a run that waits for the same worker would die with it.
    found = list(run_all([0, 2, 3, 1], work, failed, cluster))
    assert sorted(one for one in found if isinstance(one, int)) == [2, 3]
    assert sorted(one for one in found if isinstance(one, str)) == [
        "0: why",
        f"1: --cluster {cluster}: several workers died of it; see their logs.",
    ]


def test_address_where_nothing_answers_is_said_in_a_sentence() -> None:
    with pytest.raises(TumorlensError, match="--cluster 127.0.0.1: is no address"):
        list(run_all([1], lambda task, progress: task, _raised, cluster="127.0.0.1"))
