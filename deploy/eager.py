"""PyTorch itself behind the interface of the other runtimes."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.session import Arrays, Session

EAGER = "eager"
"""The name of eager PyTorch as a runtime."""
_FORMER = "torch"
"""Its name until 2026-11 in tools/search.py and in latency tables."""


def current_name(runtime: str) -> str:
    """The current name of a runtime, which may be a former one."""
    return EAGER if runtime == _FORMER else runtime


def eager_session(module: nn.Module, *, threads: int = 1, names: Sequence[str] = ()) -> Session:
    """A session that runs a module in eager PyTorch on the CPU: images -> a tensor or a tuple of tensors.

    `names` of the outputs and the images' type default to the module's own attributes `names` and `dtype`.
    """
    return Session(
        run=array_function(module.eval(), threads),
        output_names=tuple(names or getattr(module, "names", ())),
        runtime=f"PyTorch {version('torch')}",
        dtype=getattr(module, "dtype", None),
    )


def array_function(module: Callable[..., Any], threads: int) -> Callable[[NDArray[Any]], Arrays]:
    """Wraps a function of tensors as a function of arrays that runs with `threads` threads."""

    def run(images: NDArray[Any]) -> Arrays:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            outputs = module(torch.from_numpy(images))
        return [output.numpy() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

    return run
