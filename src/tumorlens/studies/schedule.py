"""Runs dealt out: one after another or side by side on this machine, or on a Dask cluster."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor
from joblib.externals.loky.backend import get_context

from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent

Task = TypeVar("Task")
Result = TypeVar("Result")

# Seconds to wait for the scheduler, and for its first worker.
_PATIENCE = 30
# Seconds between two looks at what the processes of this machine tell.
_LISTENING = 0.2


def run_all(
    tasks: Sequence[Task],
    work: Callable[[Task, Progress], Result],
    failed: Callable[[Task, Exception], Result],
    cluster: str | None = None,
    progress: Progress = silent,
    jobs: int = 1,
) -> Iterator[Result]:
    """Do `work` on each task; results come as they are ready.

    With a cluster, a task whose worker dies is given to another, which goes on from what the first
    one left on the shared disk, until several have died of it. With a cluster or jobs, a task that
    raises, or whose process dies, such as one that the system killed for memory, stops no other.
    When the caller stops, by Ctrl-C or otherwise, the processes of this machine are killed.

    Args:
        tasks: the runs; with a cluster or several jobs they travel by pickle.
        work: from a task and a listener to its result.
        failed: the result of a task that raised elsewhere, or whose process or workers died.
        cluster: address of a Dask scheduler; None: here.
        progress: told of "study" in hundredths of a task over all tasks, and here of what else
            `work` tells. From a cluster's workers nothing is heard before a task is done.
        jobs: without a cluster, how many at a time, in processes of their own; 1: one after
            another, in this one.

    Raises:
        TumorlensError: no such cluster, no worker, a scheduler that goes away, or the extra is not
            installed.
    """
    if not tasks:
        return
    if cluster is not None:
        yield from _on_cluster(tasks, work, failed, progress, cluster)
    elif jobs > 1:
        yield from _side_by_side(tasks, work, failed, progress, jobs)
    else:
        for index, task in enumerate(tasks):
            yield work(task, _part(progress, index, len(tasks)))


def _part(progress: Progress, index: int, count: int) -> Progress:
    """A task's listener, whose 0 to 100 are the task's part of the whole."""

    def told(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "study":
            progress(stage, 100 * index + done, 100 * count, f"{index + 1} of {count}: {note}")
        else:
            progress(stage, done, total, note)

    return told


def _on_cluster(
    tasks: Sequence[Task],
    work: Callable[[Task, Progress], Result],
    failed: Callable[[Task, Exception], Result],
    progress: Progress,
    address: str,
) -> Iterator[Result]:
    with _dask(address) as client:
        from distributed import KilledWorker, as_completed  # noqa: PLC0415 (an extra)

        futures = {client.submit(work, task, silent, pure=False): task for task in tasks}
        progress("study", 0, 100 * len(tasks), f"handed to {address}")
        for count, future in enumerate(as_completed(futures), start=1):
            if future.status not in ("finished", "error"):
                raise TumorlensError(
                    f"--cluster {address}: the scheduler has gone; finished runs are kept, and the "
                    "same command goes on."
                )
            note = f"{count} of {len(tasks)} runs done"
            progress("study", 100 * count, 100 * len(tasks), note)
            error = future.exception()
            if isinstance(error, KilledWorker):
                error = TumorlensError(
                    f"--cluster {address}: several workers died of it; see their logs."
                )
            yield failed(futures[future], error) if error else future.result()


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Any]:
    try:
        from distributed import Client  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError:
        raise TumorlensError(
            "--cluster: needs Dask; install it with pip install 'tumorlens[cluster]'."
        ) from None
    if "://" not in address:
        raise TumorlensError(
            f"--cluster {address}: is no address; expected tcp://HOST:PORT, as `dask scheduler` "
            "prints it."
        )
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=True)
    except (OSError, ValueError) as error:
        raise TumorlensError(
            f"--cluster {address}: no Dask scheduler answers there ({error}); start one with "
            "`dask scheduler` and name the address that it prints."
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise TumorlensError(
                f"--cluster {address}: the scheduler has no worker; start some with "
                f"`dask worker {address} --nthreads 1` on each machine."
            ) from None
        yield client


def _side_by_side(
    tasks: Sequence[Task],
    work: Callable[[Task, Progress], Result],
    failed: Callable[[Task, Exception], Result],
    progress: Progress,
    jobs: int,
) -> Iterator[Result]:
    waiting = iter(range(len(tasks)))
    heard = _Heard(progress, len(tasks))
    idle = [_Process() for _ in range(min(jobs, len(tasks)))]
    busy: dict[Future[Result], tuple[int, _Process]] = {}
    try:
        while True:
            while idle and (index := next(waiting, None)) is not None:
                process = idle.pop()
                busy[process.start(work, tasks[index])] = index, process
            if not busy:
                break
            ready = wait(busy, timeout=_LISTENING, return_when=FIRST_COMPLETED).done
            for index, process in busy.values():
                for news in process.news():
                    heard(index, *news)
            for future in ready:
                index, process = busy.pop(future)
                heard.end(index)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    process.kill()
                    process = _Process()
                    error = TumorlensError(
                        f"--jobs {jobs}: its process died, for lack of memory perhaps; the same "
                        "command goes on, with fewer --jobs if it dies again."
                    )
                idle.append(process)
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield failed(tasks[index], error) if error else future.result()
    finally:
        for process in (*idle, *(process for _, process in busy.values())):
            process.kill()


class _Process:
    """A process that does one task after another, and what it tells meanwhile."""

    def __init__(self) -> None:
        context = get_context("loky")
        self._queue = context.SimpleQueue()
        # One process an executor: loky gives up all of an executor's when one dies.
        self._executor = ProcessPoolExecutor(
            1, context=context, initializer=_begin, initargs=(self._queue, os.getpid())
        )

    def start(self, work: Callable[[Task, Progress], Result], task: Task) -> Future[Result]:
        future: Future[Result] = self._executor.submit(_do, work, task)
        return future

    def news(self) -> Iterator[tuple[str, int, int, str]]:
        """What was told since."""
        while not self._queue.empty():
            yield self._queue.get()

    def kill(self) -> None:
        self._executor.shutdown(kill_workers=True)
        self._queue.close()


class _Heard:
    """Many tasks' news, as one listener's."""

    def __init__(self, progress: Progress, count: int) -> None:
        self.progress = progress
        self.done = [0] * count
        self.notes: dict[int, str] = {}

    def __call__(self, index: int, stage: str, done: int, total: int, note: str) -> None:
        if stage != "study":
            self.progress(stage, done, total, note)
            return
        self.done[index] = done
        self.notes[index] = f"{index + 1} of {len(self.done)}: {note}"
        self._tell()

    def end(self, index: int) -> None:
        """A task is done or has failed."""
        self.done[index] = 100
        self._tell()
        self.notes.pop(index, None)

    def _tell(self) -> None:
        notes = "; ".join(self.notes[index] for index in sorted(self.notes))
        self.progress("study", sum(self.done), 100 * len(self.done), notes)


# Of a process that does tasks: where its news go, and whose child it is.
_mine: dict[str, Any] = {}


def _begin(queue: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and ends us
    _mine.update(queue=queue, parent=parent)


def _do(work: Callable[[Task, Progress], Result], task: Task) -> Result:
    return work(task, _told)


def _told(stage: str, done: int, total: int, note: str = "") -> None:
    if os.name == "posix" and os.getppid() != _mine["parent"]:
        os._exit(1)  # the parent was killed, and nobody waits for the result
    _mine["queue"].put((stage, done, total, note))
