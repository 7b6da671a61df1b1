"""Runs dealt out by joblib: one after another or side by side here, or on a Dask cluster."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config

from tumorlens.errors import TumorlensError
from tumorlens.progress import Progress, silent
from tumorlens.studies.side_by_side import side_by_side

Task = TypeVar("Task")
Result = TypeVar("Result")

# Seconds to wait for the scheduler, and for its first worker.
_PATIENCE = 30


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
    one left on the shared disk; only when several die of one task is it an error.

    Args:
        tasks: the runs; with a cluster or several jobs they travel by pickle.
        work: from a task and a listener to its result.
        failed: the result of a task whose job's process raised or died.
        cluster: address of a Dask scheduler; None: here.
        progress: told of "study" in hundredths of a task over all tasks. From a cluster's workers
            nothing is heard before a task is done.
        jobs: without a cluster, how many at a time, in processes of their own; 1: one after
            another, in this one.

    Raises:
        TumorlensError: no such cluster, no worker, several that died of one task, or the extra is
            not installed.
    """
    if not tasks:
        return
    if cluster is None and jobs > 1:
        for task, found in side_by_side(tasks, work, jobs, progress):
            yield failed(task, found) if isinstance(found, Exception) else found
        return
    if cluster is None:
        one_by_one = Parallel(n_jobs=1, return_as="generator")
        yield from one_by_one(
            delayed(work)(task, _part(progress, index, len(tasks)))
            for index, task in enumerate(tasks)
        )
        return
    with _dask(cluster):
        parallel = Parallel(return_as="generator_unordered", batch_size=1)
        results = parallel(delayed(work)(task, silent) for task in tasks)
        progress("study", 0, 100 * len(tasks), f"handed to {cluster}")
        for count, result in enumerate(results, start=1):
            progress("study", 100 * count, 100 * len(tasks), f"{count} of {len(tasks)} runs done")
            yield result


def _part(progress: Progress, index: int, count: int) -> Progress:
    """A task's listener, whose 0 to 100 are the task's part of the whole."""

    def told(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "study":
            progress(stage, 100 * index + done, 100 * count, f"{index + 1} of {count}: {note}")
        else:
            progress(stage, done, total, note)

    return told


@contextlib.contextmanager
def _dask(address: str) -> Iterator[None]:
    try:
        from distributed import Client, KilledWorker  # noqa: PLC0415 (an extra)
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
        with parallel_config(backend="dask", wait_for_workers_timeout=_PATIENCE):
            try:
                yield
            except KilledWorker as error:
                raise TumorlensError(
                    f"--cluster {address}: several workers died of the same run ({error}); see "
                    "their logs. Finished runs are kept, and the same command goes on."
                ) from None
