"""Where trials run: in this process one by one, in several processes, or on Ray workers."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from engine.errors import UserError

RunTrial = Callable[[Any], dict[str, Any]]
"""Job -> result of one trial; can be pickled."""


class Executor(Protocol):
    """Runs `run_trial(job)` for each job; yields (index of the job, outcome) as trials finish.

    An outcome has `status`: "done", with what `run_trial` returned, or "failed", with `error`. A trial that
    fails does not stop the others.

    Attributes:
        parallel: number of trials that run at a time.
    """

    @property
    def parallel(self) -> int: ...

    def __call__(self, run_trial: RunTrial, jobs: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]: ...


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """Which executor runs the trials.

    Attributes:
        executor: see `make_executor`.
        workers: `processes`: trials at the same time.
        address, cpus, gpus: `ray`: see `RayExecutor`.

    Raises:
        ValueError: if a number is out of range.
    """

    executor: Literal["serial", "processes", "ray"] = "serial"
    workers: int = 2
    address: str | None = None
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.cpus <= 0:
            raise ValueError(f"cpus must be positive, got {self.cpus}")
        if self.gpus < 0:
            raise ValueError(f"gpus must be at least 0, got {self.gpus}")


def make_executor(options: ExecutorOptions) -> Executor:
    """The executor that the options name.

    Raises:
        UserError: if the options ask for Ray and it is not installed or does not start.
    """
    if options.executor == "ray":
        return RayExecutor(address=options.address, cpus=options.cpus, gpus=options.gpus)
    if options.executor == "processes":
        return ProcessExecutor(workers=options.workers)
    return SerialExecutor()


class SerialExecutor:
    """One trial after the other, in this process."""

    parallel = 1

    def __call__(self, run_trial: RunTrial, jobs: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, job in enumerate(jobs):
            yield index, outcome_of(run_trial, job)


class ProcessExecutor:
    """Processes on this machine, started when they are first needed and kept until this process ends.

    They are spawned, so a script that uses them needs `if __name__ == "__main__":`. Each uses as many torch
    threads as this process, so that a trial gives the same result as in this process.

    Args:
        workers: trials at the same time.

    Raises:
        UserError: when called, if a process is killed. The trials that finished before have been yielded.
    """

    def __init__(self, *, workers: int) -> None:
        self.workers = self.parallel = workers
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, run_trial: RunTrial, jobs: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        self._pool = pool = self._pool or ProcessPoolExecutor(
            self.workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(torch.get_num_threads(),),
        )
        pending: dict[Future[dict[str, Any]], int] = {}
        try:
            for index, job in enumerate(jobs):
                pending[pool.submit(outcome_of, run_trial, job)] = index
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool:
            self._pool = None
            raise UserError(
                "a worker process of executor=processes ended abruptly (killed, or out of memory?); repeat "
                "the command with this search's out= to resume it, with fewer workers= to use less memory"
            ) from None
        finally:
            for future in pending:
                future.cancel()


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent dies: a killed parent cannot stop its workers, which would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class RayExecutor:
    """Ray workers, on this machine or in a cluster. All must see the same folders.

    Args:
        address: of a running cluster ("auto": the one on this machine); None starts workers here.
        cpus, gpus: that each trial reserves.

    Raises:
        UserError: if Ray is not installed or does not start, or the cluster does not answer.
    """

    def __init__(self, *, address: str | None = None, cpus: float = 1, gpus: float = 0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UserError(
                "executor=ray needs Ray: pip install -e '.[search]', or use executor=processes"
            ) from None
        self._ray = ray
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        try:
            if not ray.is_initialized():
                ray.init(
                    address=address, include_dashboard=False, log_to_driver=False, configure_logging=False
                )
        except Exception as error:  # Ray raises a plain Exception if a node does not start in time
            raise UserError(
                f"executor=ray: Ray failed to start ({str(error).partition(chr(10))[0]})"
            ) from None

    @property
    def parallel(self) -> int:
        """As many trials as the cluster has room for now, at least one."""
        available = self._ray.cluster_resources()
        room = [
            available.get(kind, 0) // needed
            for kind, needed in (
                ("CPU", self._options["num_cpus"]),
                ("GPU", self._options["num_gpus"]),
            )
            if needed
        ]
        return max(1, int(min(room)))

    def __call__(self, run_trial: RunTrial, jobs: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        ray = self._ray
        remote = ray.remote(outcome_of).options(**self._options)
        pending = {remote.remote(run_trial, job): index for index, job in enumerate(jobs)}
        while pending:
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            index = pending.pop(done)
            try:
                yield index, ray.get(done)
            except ray.exceptions.RayError as error:  # the worker died
                yield index, _failed(error)


def outcome_of(run_trial: RunTrial, job: Any) -> dict[str, Any]:
    """The outcome of one trial; any exception is a failure."""
    try:
        return {"status": "done", **run_trial(job)}
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> dict[str, Any]:
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(error)).split())[:300]
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return {"status": "failed", "error": f"{name}{text}"}
