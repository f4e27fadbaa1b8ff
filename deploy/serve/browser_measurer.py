"""Measures layers in the browser that opened the page: the `Measurer` of a phone's latency table.

The page asks for jobs (`GET /api/job`), runs each graph in onnxruntime-web and sends back the time of a call.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deploy.latency_table.layer_graph import LayerGraphs
from deploy.latency_table.measurers import WHOLE
from deploy.serve.http_server import Call, Calls, Refusal, Reply
from deploy.web import assets
from engine.errors import UserError

KINDS = ("wasm", "webgpu")
POLL_S = 10.0
"""How long a page's question for a job waits for one."""
_MAX_MS = 1e6
_MAX_TEXT = 300


@dataclass(frozen=True, kw_only=True)
class _Job:
    number: int
    graph: bytes
    inputs: tuple[tuple[int, ...], ...]
    seconds: float


class BrowserMeasurer:
    """Times modules in the browser of the first page that presents the token.

    Args:
        layer_s: seconds of measuring per layer.
        statistic: of the times of a layer, `median` or `min`.

    Attributes:
        token: part of the page's address; admits one page.
        about: device, runtime and settings, once a page was admitted.
        progress: (finished layers, all layers), shown by the page.
    """

    def __init__(self, *, layer_s: float, statistic: str = "median") -> None:
        self.layer_s, self.statistic = layer_s, statistic
        self._graphs = LayerGraphs()
        self.token = secrets.token_urlsafe(16)
        self.about: dict[str, Any] = {}
        self.progress = (0, 0)
        self._session = ""
        self._job: _Job | None = None
        self._answer: Mapping[str, Any] | None = None
        self._finished: Mapping[str, Any] | None = None
        self._number = 0
        self._seen = threading.Event()
        self._changed = threading.Condition()

    # In the main thread

    def wait_for_page(self) -> None:
        """Return once a page was admitted."""
        with self._changed:
            while not self._session:
                self._changed.wait(1.0)

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        """The time of a call in the browser, in milliseconds.

        Raises:
            UserError: if the browser cannot run the graph.
        """
        graph = self._graphs(module, inputs)
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        seconds = self.layer_s * (WHOLE if hasattr(module, "backbone") else 1)
        self._hand_out(graph, shapes, seconds)
        answer = self._awaited()
        if "error" in answer:
            raise UserError(f"the browser cannot run a layer ({answer['error']}); nothing was written")
        return float(answer["ms"])

    def _hand_out(self, graph: bytes, shapes: tuple[tuple[int, ...], ...], seconds: float) -> None:
        with self._changed:
            self._number += 1
            self._job = _Job(number=self._number, graph=graph, inputs=shapes, seconds=seconds)
            self._answer = None
            self._changed.notify_all()

    def _awaited(self) -> Mapping[str, Any]:
        """The page's answer, however long it is away: it continues where it was."""
        with self._changed:
            while self._answer is None:
                self._changed.wait(1.0)
            self._job = None
            return self._answer

    def finish(self, result: Mapping[str, Any], *, timeout_s: float = POLL_S) -> None:
        """Tell the page the result, and wait until it has it."""
        with self._changed:
            self._finished = result
            self._changed.notify_all()
        self._seen.wait(timeout_s)

    # In the server's threads

    @property
    def calls(self) -> Calls:
        """What the page can call."""
        return {
            ("POST", "/api/device"): self._admit,
            ("GET", "/api/job"): self._next_job,
            ("POST", "/api/result"): self._take_result,
        }

    def _admit(self, call: Call) -> Reply:
        with self._changed:
            if not _same(call.bearer, self.token):
                raise Refusal(403, "this address lacks the token; open the one that tools/serve.py printed")
            if self._session:
                raise Refusal(403, "this address was used; it admits one page: start tools/serve.py again")
            self.about = self._described(call.content)
            self._session = secrets.token_urlsafe(16)
            self._changed.notify_all()
            return Reply.json({"session": self._session})

    def _next_job(self, call: Call) -> Reply:
        self._check(call)
        with self._changed:
            self._changed.wait_for(lambda: self._finished is not None or self._open, POLL_S)
            if self._finished is not None:
                self._seen.set()
                return Reply.json({"finished": self._finished})
            if not self._open or self._job is None:
                return Reply(status=204)
            job, (done, total) = self._job, self.progress
        about = {
            "number": job.number,
            "inputs": job.inputs,
            "done": done,
            "total": total,
            "seconds": job.seconds,
            "statistic": self.statistic,
        }
        return Reply(body=job.graph, type="application/octet-stream", headers={"X-Job": json.dumps(about)})

    @property
    def _open(self) -> bool:
        return self._job is not None and self._answer is None

    def _take_result(self, call: Call) -> Reply:
        self._check(call)
        number, content = call.content.get("number"), call.content
        if "error" in content:
            answer: dict[str, Any] = {"error": _text(content, "error")}
        else:
            answer = {"ms": _number(content, "ms", least=0, most=_MAX_MS)}
        with self._changed:
            if self._job is None or number != self._job.number or self._answer is not None:
                raise Refusal(409, "this is not the result that is waited for")
            self._answer = answer
            self._changed.notify_all()
        return Reply(status=204)

    def _check(self, call: Call) -> None:
        if not self._session or not _same(call.bearer, self._session):
            raise Refusal(403, "this page was not admitted; open the address that tools/serve.py printed")

    def _described(self, content: Mapping[str, Any]) -> dict[str, Any]:
        kind = _text(content, "kind")
        if kind not in KINDS:
            raise Refusal(400, f"kind must be {' or '.join(KINDS)}, got {kind!r}")
        browser = _text(content, "browser")
        isolated = content.get("isolated") is True
        return {
            "device": f"{kind} in {browser}",
            "cpu": f"unknown (browser: {browser})",
            "gpu": _text(content, "gpu") if content.get("gpu") else None,
            "cores": int(_number(content, "cores", least=1, most=4096)),
            "load": None,
            "platform": _text(content, "platform"),
            "python": None,
            "openmp_wait_policy": None,
            "runtime": "onnxruntime-web",
            "runtime_version": f"{assets.VERSION} {kind}",
            "threads": int(_number(content, "threads", least=1, most=4096)),
            "isolated": isolated,
            "layer_s": self.layer_s,
            "statistic": self.statistic,
        }


def _same(secret: str, other: str) -> bool:
    return secrets.compare_digest(secret.encode(), other.encode())


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise Refusal(400, f"{key} must be a string")
    return "".join(letter if letter.isprintable() else "?" for letter in value[:_MAX_TEXT])


def _number(content: Mapping[str, Any], key: str, *, least: float, most: float) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise Refusal(400, f"{key} must be a number")
    if not least <= value <= most:
        raise Refusal(400, f"{key} must be {least:g} to {most:g}")
    return float(value)
