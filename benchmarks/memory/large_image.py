"""Memory of tools/predict.py for a large image with 19 classes (Linux).

Usage: python benchmarks/memory/large_image.py [--side 10000] [--window 512] [--whole]

Prints the peak resident memory of the whole process in MB, then minus that for an image of one window, then
also minus the decoded image (3 bytes per pixel) and its label map (1 byte). `--whole` also predicts without
windows.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from benchmarks.support.processes import ROOT, peak_mb
from benchmarks.support.report import heading, table

_TRAINING = (
    "task=seg", "data.source.num_train=2", "data.source.num_val=1", "data.source.num_test=1",
    "data.source.size=[64,128]", "data.crop=64", "data.workers=0", "trainer.batch=2", "trainer.steps=1",
    "trainer.tensorboard=false", "samples=0", "run=run",
)  # fmt: skip


def run_tool(folder: Path, tool: str, *arguments: str) -> tuple[float, float]:
    """Run a tool in `folder`: (peak memory in MB, seconds)."""
    started = time.monotonic()
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    peak = peak_mb(str(ROOT / "tools" / f"{tool}.py"), *arguments, cwd=folder, environment=cache)
    return peak, time.monotonic() - started


def save_image(path: Path, side: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (side // 20 + 1, side // 20 + 1, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (side, side)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args(arguments)
    window = f"inference.window=[{options.window},{options.window}]"
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        run_tool(folder, "train", *_TRAINING)
        for side in (options.window, options.side):
            save_image(folder / f"{side}.jpg", side)
        common = ("run=run", "data.max_megapixels=1000", "device=cpu")
        small, _ = run_tool(folder, "predict", *common, window, f"input={options.window}.jpg", "out=small")
        image = 4 * options.side**2 / 1e6
        modes = {f"windows of {options.window}": [window], **({"whole": []} if options.whole else {})}
        for mode, keys in modes.items():
            out = f"out={mode.split()[0]}"
            peak, seconds = run_tool(folder, "predict", *common, *keys, f"input={options.side}.jpg", out)
            beyond = peak - small
            rows.append([mode, *(f"{value:.0f}" for value in (peak, beyond, beyond - image, seconds))])
    print(heading(__file__))
    print(table([f"{options.side} x {options.side}", "peak", "beyond one window", "beyond image", "s"], rows))


if __name__ == "__main__":
    main()
