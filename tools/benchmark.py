"""Measure latency: rows of the paper's tables, or a run on the runtimes that it can be exported to.

Usage: python tools/benchmark.py suite=<name> | run=<folder> | table=latency spec=<network> [key=value ...]

Examples:
  python tools/benchmark.py suite=table7                          LR-ASPP on V3 against R-ASPP on V2
  python tools/benchmark.py suite=table7 latency=false            parameters and multiply-adds, in seconds
  python tools/benchmark.py suite=table7 size=[512,1024] runtime=eager,onnx,openvino measure.budget_s=600
  python tools/benchmark.py suite=table6 include=all              from pixels to boxes
  python tools/benchmark.py run=<run folder> runtime=all threads=1,2
  python tools/benchmark.py run=<run folder> runtime=onnx artifact=[model_int8.onnx]
  python tools/benchmark.py table=latency spec=seg/lraspp_v3_large runtime=onnx size=[512,1024] out=phone.json
      shares=[1,0.75,0.5,0.25]      narrower layers too: for NetAdapt on another machine
      space=true                    all layers that method=mnas can ask for
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import shlex
import sys
from collections.abc import Sequence
from functools import partial

from deploy.benchmark.run_benchmark import run_benchmark
from deploy.latency_table.measure_table import measure_table
from deploy.options import BenchmarkOptions
from engine.config.launch import launch
from nas.mnas.space import MnasSpace


def benchmark(options: BenchmarkOptions) -> None:
    """Benchmark rows, or measure a latency table."""
    if options.table is not None:
        table = measure_table(options, search_space=lambda spec: MnasSpace(spec).covering())
        print(f"{len(table.entries)} layers\nout: {options.out}")
        return
    command = shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]])
    out, _ = run_benchmark(options, command=command, log=partial(print, flush=True))
    print(f"out: {out}")


def with_lists(arguments: Sequence[str]) -> list[str]:
    """`threads=1,2` means both, in one run; Hydra would take it for a sweep, its lists have brackets."""
    bracketed = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        several = key in ("threads", "runtime") and "," in value and value[0] not in "[\"'"
        bracketed.append(f"{key}=[{value}]" if several else argument)
    return bracketed


if __name__ == "__main__":
    if not {"-m", "--multirun"}.intersection(sys.argv):
        sys.argv[1:] = with_lists(sys.argv[1:])
    launch(benchmark, "benchmark", __doc__)
