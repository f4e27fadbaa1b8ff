"""Measure the latency of the paper's networks or of runs, in PyTorch and in the runtimes of exported files.

Usage: python tools/benchmark.py suite=<name> | run=<folders> | table=latency spec=<network> [key=value ...]

Examples:
  python tools/benchmark.py suite=table7                          V3 with LR-ASPP and V2 with R-ASPP
  python tools/benchmark.py suite=table7 latency=false            only parameters and multiply-adds (fast)
  python tools/benchmark.py suite=table7 size=[512,1024] runtime=eager,onnx,openvino measure.budget_s=600
  python tools/benchmark.py suite=table6 include=all              including pre- and postprocessing
  python tools/benchmark.py run=<run folder> runtime=all threads=1,2
  python tools/benchmark.py run=<run folder> runtime=onnx artifact=[model_int8.onnx]
  python tools/benchmark.py run=[<run folder>,<another>] runtime=onnx
  python tools/benchmark.py table=latency spec=seg/lraspp_v3_large runtime=onnx size=[512,1024] out=phone.json
      shares=[1,0.75,0.5,0.25]      also narrower layers, for NetAdapt on another machine
      space=true                    all layers in the search space of method=mnas
      device=ssh://pi@raspberrypi   on another device; run= and suite= work too (runtime=onnx or openvino)
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from backbones.weights import catalog
from deploy.benchmark.run_benchmark import run_benchmark
from deploy.latency_table.measure_table import measure_table
from deploy.options import BenchmarkOptions
from engine.config.launch import launch
from engine.published import run_by_name
from nas.mnas.space import MnasSpace

log = partial(print, flush=True)


def benchmark(options: BenchmarkOptions) -> None:
    """Benchmark rows, or measure a latency table."""
    if options.table is not None:
        table = measure_table(options, search_space=lambda spec: MnasSpace(spec).covering(), log=log)
        print(f"{len(table.entries)} layers\nout: {options.out}")
        return
    command = shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]])
    out, _ = run_benchmark(options, command=command, log=log)
    print(f"out: {out}")


def bracket_lists(arguments: Sequence[str]) -> list[str]:
    """Turn `threads=1,2` into `threads=[1,2]`; Hydra would treat it as a sweep."""
    bracketed = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        several = key in ("threads", "runtime", "run") and "," in value and value[0] not in "[\"'"
        several = several and not (key == "run" and Path(value).exists())
        bracketed.append(f"{key}=[{value}]" if several else argument)
    return bracketed


if __name__ == "__main__":
    if not {"-m", "--multirun"}.intersection(sys.argv):
        sys.argv[1:] = bracket_lists(sys.argv[1:])
    launch(benchmark, "benchmark", __doc__, complete=partial(run_by_name, published=catalog.find))
