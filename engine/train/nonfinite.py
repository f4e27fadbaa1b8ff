"""Finds the first module output and the first parameter gradient of a training step that are not finite."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class NonFiniteTracer:
    """A context manager that checks the forward and backward passes of a module.

    A module's hook runs after those of its children, so the innermost module is reported. Operations of a
    parent between its children are attributed to the parent.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._hooks: list[RemovableHandle] = []
        self._inputs: dict[str, str] = {}
        self._output: str | None = None
        self._gradient: str | None = None

    def __enter__(self) -> "NonFiniteTracer":
        for name, module in self._module.named_modules():
            self._hooks.append(module.register_forward_hook(self._watch(name)))
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._watch_gradient(name))  # type: ignore[no-untyped-call]
                self._hooks.append(hook)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._output is None or name not in self._inputs:
                self._inputs[name] = value_range(inputs)
            if self._output is None and not _finite(output):
                self._output = name

        return hook

    def _watch_gradient(self, name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if self._gradient is None and not _finite(parameter.grad):
                self._gradient = name

        return hook

    def lines(self) -> list[str]:
        """Describe the first non-finite output and the first non-finite gradient, with their input ranges."""
        if self._output == "":
            first = "the outputs of all modules are finite; the loss computed from them is not"
        elif self._output is None:
            first = "the outputs of all modules are finite"
        else:
            kind = type(self._module.get_submodule(self._output)).__name__
            first = (
                f"first module whose output is not finite: {self._output} ({kind}); its input: "
                f"{self._inputs[self._output]}"
            )
        if self._gradient is None:
            return [first, "the gradients of all parameters are finite"]
        owner = self._gradient.rpartition(".")[0]
        input_range = self._inputs.get(owner, "unknown")
        return [
            first,
            "first parameter (in backward order) whose gradient is not finite: "
            f"{self._gradient}; input of {owner or 'the task'}: {input_range}",
        ]


def value_range(value: Any) -> str:
    """`<min> .. <max>` of the finite values in nested tensors, and the number of non-finite values."""
    numbers = [tensor.detach().float().flatten() for tensor in _tensors(value) if tensor.numel()]
    if not numbers:
        return "no numbers"
    flat = torch.cat(numbers)
    finite = flat[flat.isfinite()]
    text = f"{finite.min().item():g} .. {finite.max().item():g}" if len(finite) else "none finite"
    others = len(flat) - len(finite)
    return f"{text}, and {others} of {len(flat)} values not finite" if others else text


def _finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
