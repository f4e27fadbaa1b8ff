"""How fast LR-ASPP on MobileNetV3-Large runs: exported files against torchvision's network in eager PyTorch.

Usage: python benchmarks/inference_speed.py [--size 512 1024] [--threads 1] [--rounds 30]
                                            [--format onnx openvino] [--artifact FILE ...]

The networks take turns, one call each per round, at batch 1 on noise, without pre- and post-processing.
torchvision's network runs as in its documentation. Ours is the paper's (Table 7, row 8), with random
weights, eager and exported to the formats (`--format` alone: none). `--artifact` adds files of
tools/export.py, such as 8-bit ones, assuming the same multiply-adds. The last columns compare the
multiply-adds per second with the CPU's float32 peak, measured by a loop of fused multiply-adds (needs a C
compiler), and with a large matrix product in torch on the same threads.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from backbones.count import count
from backbones.mobilenet_v3 import mobilenet_v3_large
from benchmarks.support.peak import fma_gmadds
from benchmarks.support.report import heading, table
from deploy.benchmark.measure import gemm_gmadds
from deploy.eager import eager_session
from deploy.export.module import export_module
from deploy.formats import open_session
from deploy.timing.latency import Latency, Ratio, Rounds, clocked, take_rounds
from seg.heads import LRASPP
from seg.model import Segmenter

REFERENCE = "torchvision, eager"
CLASSES = 19
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def ours() -> Segmenter:
    """Table 7, row 8."""
    return Segmenter(
        backbone=mobilenet_v3_large(output_stride=16, tail="rf2"),
        head=partial(LRASPP, pool="large_kernel"),
        num_classes=CLASSES,
    ).eval()


def calls_by_name(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Any]]:
    """A call of each network, at batch 1."""
    pixels = torch.rand(1, 3, *options.size) * 2 - 1
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    network, array = ours(), pixels.numpy()
    calls: dict[str, Callable[[], Any]] = {REFERENCE: lambda: theirs(pixels)}
    sessions = {"ours, eager": eager_session(network, threads=options.threads)}
    for form in options.format:
        suffix = SUFFIXES[form]
        path = export_module(
            network, pixels, folder / f"network{suffix}", format=form, names=["scores"], metadata={}
        )
        sessions[f"ours, {form}"] = open_session(path, threads=options.threads)
    for name, session in sessions.items():
        calls[name] = partial(session, array)
    for path in map(Path, options.artifact):
        session = open_session(path, threads=options.threads)
        kind = np.uint8 if session.dtype == "uint8" else np.float32
        images = np.clip(array, 0, 255).astype(kind)
        calls[f"{path.parent.name}/{path.name}"] = partial(session, images)
    return calls


def report(seconds: dict[str, list[float]], options: argparse.Namespace) -> str:
    product, loop = gemm_gmadds(), fma_gmadds()
    peak = loop and loop * options.threads
    madds = {REFERENCE: madds_of(reference_twin(), options.size)}
    rows = []
    for name, times in seconds.items():
        latency, ratio = Latency.of(times), Ratio.of(seconds[REFERENCE], times)
        rate = madds.get(name, madds_of(ours(), options.size)) / np.median(times) / 1e9
        spread = f"{ratio.p50:.2f} ({ratio.p5:.2f}-{ratio.p95:.2f})"
        numbers = [f"{latency.p50:.1f}", f"{latency.p95:.1f}", f"{latency.minimum:.1f}"]
        shares = ["-" if best is None else f"{100 * rate / best:.0f}%" for best in (peak, product)]
        rows.append([name, *numbers, spread, f"{rate:.1f}", *shares])
    header = [
        "network",
        "ms, median",
        "p95",
        "lowest",
        "times as fast",
        "G multiply-adds/s",
        "of the peak",
        "of a matrix product",
    ]
    known = "not measured: no C compiler" if peak is None else f"{peak:.1f}"
    return f"{table(header, rows)}\nG multiply-adds/s: peak {known}, matrix product {product:.1f}"


def reference_twin() -> Segmenter:
    """torchvision's network built from our layers, to count its multiply-adds; a test compares the two."""
    from engine.config.compose import compose_config
    from engine.config.instantiate import build

    config = compose_config("train", ["experiment=seg/lraspp_torchvision"])
    model: Segmenter = build(config.model, key="model", num_classes=CLASSES)
    return model


def madds_of(network: torch.nn.Module, size: tuple[int, int]) -> int:
    height, width = size
    return count(network, (height, width)).madds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--format", nargs="*", default=list(SUFFIXES), choices=SUFFIXES)
    parser.add_argument("--artifact", nargs="+", default=[], help="exported files of the same input size")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rounds = Rounds(least=options.rounds, most=options.rounds, budget_s=600)
    with TemporaryDirectory() as folder, torch.inference_mode():
        calls = calls_by_name(options, Path(folder))
        seconds = take_rounds({name: clocked(call) for name, call in calls.items()}, rounds)
    print(heading(__file__))
    print(report(seconds, options))


if __name__ == "__main__":
    main()
