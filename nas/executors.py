"""Where trials run: one after the other in this process, or on the workers of Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from engine.errors import UserError

Work = Callable[[Any], dict[str, Any]]


class Executor(Protocol):
    """Runs `work(job)` for each job; yields (number of the job, result) as they come.

    A result holds `status`: "done", with what `work` returned, or "failed", with `error`. A trial that
    crashes does not end the others.
    """

    def __call__(self, work: Work, jobs: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]: ...


class Serial:
    """One trial after the other, in this process."""

    def __call__(self, work: Work, jobs: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, job in enumerate(jobs):
            yield number, guarded(work, job)


class Ray:
    """Ray's workers, of this machine or of a cluster.

    Folders that trials read and write must be the same for all workers.

    Args:
        address: of a running cluster ("auto": the one of this machine); None starts workers here.
        cpus: CPUs that a trial takes.
        gpus: GPUs that a trial takes.

    Raises:
        ValueError: numbers out of range.
        UserError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, *, address: str | None = None, cpus: float = 1, gpus: float = 0) -> None:
        if cpus <= 0 or gpus < 0:
            raise ValueError(f"a trial needs cpus above 0 and gpus of at least 0, got {cpus} and {gpus}")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UserError("executor=ray: pip install -e '.[search]', or leave executor=serial") from None
        self._ray = ray
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        try:
            if not ray.is_initialized():
                ray.init(
                    address=address, include_dashboard=False, log_to_driver=False, configure_logging=False
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"Ray does not start ({str(error).partition(chr(10))[0]})") from None

    def __call__(self, work: Work, jobs: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        ray = self._ray
        remote = ray.remote(guarded).options(**self._options)
        pending = {remote.remote(work, job): number for number, job in enumerate(jobs)}
        while pending:
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            number = pending.pop(done)
            try:
                yield number, ray.get(done)
            except ray.exceptions.RayError as error:  # the worker itself died
                yield number, failed(error)


def guarded(work: Work, job: Any) -> dict[str, Any]:
    """`work(job)`, with a crash as a result."""
    try:
        return {"status": "done", **work(job)}
    except Exception as error:
        return failed(error)


def failed(error: Exception) -> dict[str, Any]:
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(error)).split())
    return {"status": "failed", "error": f"{type(error).__name__}: {text[:300]}"}
