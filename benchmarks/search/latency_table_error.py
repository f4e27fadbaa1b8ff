"""The error of latency tables: the sum of a network's layers compared with the whole network, both measured.

Usage: python benchmarks/search/latency_table_error.py [--size 256 512] [--threads 1] [--runtime eager onnx]

Searches rely on this sum. Networks: LR-ASPP on MobileNetV3 (Table 7, rows 8 and 11), and the Large one at
three quarters of its width. The whole network is measured again after every few layers, so a machine that
gets slower or faster in the meantime affects both; its time is the median of these, and the last column
their range. Run it on an idle machine: other jobs interrupt long calls more often than short ones, so the
sum would be too low.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.spec import NetSpec
from benchmarks.support.report import heading, table
from deploy.latency_table.measurers import RUNTIMES, LocalMeasurer, measurer
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from seg.heads import LRASPP
from seg.model import Segmenter


def segmenter(spec: NetSpec) -> Segmenter:
    return Segmenter(backbone=spec, head=partial(LRASPP, pool="global"), num_classes=19).eval()


class InTurns:
    """Times layers and, after every `EVERY` of them, the whole network again (`whole`, in ms)."""

    EVERY = 4

    def __init__(self, measure: LocalMeasurer, model: nn.Module, size: Sequence[int]) -> None:
        self.about, self._measure = measure.about, measure
        self._program = measure.program(model, (torch.rand(1, 3, *size),))
        self.whole = [measure.median_ms(self._program)]
        self._calls = 0

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        layer = self._measure(module, inputs)
        self._calls += 1
        if self._calls % self.EVERY == 0:
            self.whole.append(self._measure.median_ms(self._program))
        return layer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtime", nargs="+", default=["eager", "onnx"], choices=RUNTIMES)
    options = parser.parse_args()
    build = partial(mobilenet_v3_large, output_stride=16, tail="rf2")
    networks = {
        "V3-Large": build(),
        "V3-Large 0.75": build(width_mult=0.75),
        "V3-Small": mobilenet_v3_small(output_stride=16, tail="rf2"),
    }
    rows = []
    for runtime in options.runtime:
        for name, spec in networks.items():
            model = segmenter(spec)
            measure = InTurns(measurer(runtime, threads=options.threads), model, options.size)
            latency = NetworkLatency(
                table=LatencyTable(about={}),
                size=tuple(options.size),
                taps=model.features,
                head="LRASPP",
                model=segmenter,
                measure=measure,
            )
            predicted, measured = latency(spec), statistics.median(measure.whole)
            error = f"{100 * (predicted / measured - 1):+.1f}%"
            span = f"{min(measure.whole):.2f} to {max(measure.whole):.2f}"
            rows.append([runtime, name, f"{predicted:.2f}", f"{measured:.2f}", error, span])
            print(*rows[-1], file=sys.stderr)
    print(heading(__file__))
    print(table(["runtime", "network", "sum of layers, ms", "measured, ms", "error", "range, ms"], rows))


if __name__ == "__main__":
    main()
