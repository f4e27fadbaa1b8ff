"""Export a run to a file for an inference runtime and compare its outputs with PyTorch's.

Usage: python tools/export.py run=<run folder> [format=<format>] [key=value ...]

Examples:
  python tools/export.py run=<run folder>                                        ONNX
  python tools/export.py run=<run folder> format=openvino precision=fp16
  python tools/export.py run=<run folder> format=openvino precision=int8 budget.miou=1
  python tools/export.py run=<run folder> output=argmax full_size=true           label maps (segmentation)
  python tools/export.py run=<run folder> output=raw opset=17                  without NMS, for old runtimes
  python tools/export.py run=<run folder> dynamic=both budget.miou=0.5           also score the labeled split
  python tools/export.py run=<run folder> data.eval_size=[512,1024] input=photos
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import shlex
from functools import partial
from pathlib import Path

from backbones.weights import catalog
from deploy.export.export_run import export_run
from deploy.options import ExportOptions
from engine.config.launch import launch
from engine.config.overrides import unquote_path
from engine.config.runs import TrainedRun
from engine.published import run_by_name


def export(options: ExportOptions) -> Path:
    """Export a run; returns the file."""
    run = TrainedRun.open(
        options.run, overrides=options.overrides, checkpoint=options.checkpoint, reads="dataset"
    )
    path = export_run(run, options, log=partial(print, flush=True))
    words = (f"run={run.folder.path}", f"artifact={path}", *map(unquote_path, options.overrides))
    print(f"next: python tools/eval.py {shlex.join(words)}")
    print(f"out: {path}")
    return path


if __name__ == "__main__":
    launch(export, "export", __doc__, complete=partial(run_by_name, published=catalog.find))
