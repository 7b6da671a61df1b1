"""Tasks side by side in processes of this machine, by joblib's loky."""

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

# Seconds between two looks at what the processes tell.
_LISTENING = 0.2


def side_by_side(
    tasks: Sequence[Task],
    work: Callable[[Task, Progress], Result],
    jobs: int,
    progress: Progress = silent,
) -> Iterator[tuple[Task, Result | Exception]]:
    """Do `work` on `jobs` tasks at a time; each comes with its result, or why it has none.

    When the caller stops, by Ctrl-C or otherwise, the processes are killed. A task that fails, or
    whose process dies, such as one that the system killed for memory, stops no other.

    Args:
        tasks: they, `work` and the results travel by pickle.
        work: from a task and a listener to its result.
        jobs: processes, 1 or more.
        progress: told of "study" in hundredths of a task over all tasks, with a note of each task
            under way; and of what else `work` tells.
    """
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
                yield tasks[index], error or future.result()
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
