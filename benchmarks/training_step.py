"""Images/s of a training step: memory format, precision and compilation compared.

Usage: python benchmarks/training_step.py [--backbone mobilenet_v3_large] [--size 360 480] [--batch 4]
                                          [--rounds 5] [--compile] [--memory]

Prints the median over the rounds for each variant, and its ratio to the first. The variants take turns, so
other load on the machine affects them equally.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from backbones import mobilenet_v2, mobilenet_v3
from backbones.spec import NetSpec
from engine.runtime import keep_freed_memory
from seg.heads import LRASPP
from seg.model import Segmenter

BACKBONES: dict[str, Callable[..., NetSpec]] = {
    "mobilenet_v3_large": mobilenet_v3.mobilenet_v3_large,
    "mobilenet_v3_small": mobilenet_v3.mobilenet_v3_small,
    "mobilenet_v2": mobilenet_v2.mobilenet_v2,
}


HEAD = partial(LRASPP, pool="large_kernel", align_corners=False)


def step(
    arguments: argparse.Namespace, *, channels_last: bool, bf16: bool, compiled: bool
) -> Callable[[], None]:
    """One optimizer step on random images."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    spec = BACKBONES[arguments.backbone](output_stride=16)
    model = Segmenter(backbone=spec, head=HEAD, num_classes=19).to(device).to(memory_format=layout)
    if compiled:
        model.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    size = tuple(arguments.size)
    images = torch.randn(arguments.batch, 3, *size, device=device).contiguous(memory_format=layout)
    labels = torch.randint(0, 19, (arguments.batch, *size), device=device)

    def run() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            scores = F.interpolate(model(images), size, mode="bilinear")
        F.cross_entropy(scores.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=BACKBONES, default="mobilenet_v3_large")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--compile", action="store_true", help="also measure torch.compile (a minute to compile)"
    )
    parser.add_argument(
        "--memory", action="store_true", help="keep freed memory, as training on the CPU does"
    )
    arguments = parser.parse_args()
    if arguments.memory:
        keep_freed_memory()
    variants = {
        "NCHW fp32": step(arguments, channels_last=False, bf16=False, compiled=False),
        "channels_last fp32": step(arguments, channels_last=True, bf16=False, compiled=False),
        "channels_last bf16": step(arguments, channels_last=True, bf16=True, compiled=False),
    }
    if arguments.compile:
        variants["channels_last fp32 compiled"] = step(
            arguments, channels_last=True, bf16=False, compiled=True
        )
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(arguments.rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if round_number:  # the first is warm-up
                seconds[name].append(time.perf_counter() - started)
    first = statistics.median(seconds["NCHW fp32"])
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{arguments.backbone}, {arguments.size}"
    )
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:28} {arguments.batch / median:6.1f} images/s  {first / median:5.2f}x")


if __name__ == "__main__":
    main()
