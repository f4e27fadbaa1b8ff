"""Images/s of segmentation training: `tools/train.py` against torchvision's reference script.

Usage: python benchmarks/training_speed.py [--size 512 1024] [--crop 480] [--base 520] [--batch 4]
                                           [--workers 2] [--steps 12] [--rounds 3] [--images 48]
                                           [--only ROW ...]

All sides train on the same drawn images from PNG files, with the same crop, magnification (half to twice
`base` pixels on the shorter side), batch, workers and threads. Each runs in its own process, set up as its
script would do it; the processes take turns and idle in between. torchvision's side follows its
documented behavior (`support/torchvision_training.py`). Rows: torchvision; torchvision with this project's
process settings (freed memory kept, OpenMP threads that wait passively); this project with torchvision's
network and optimizer, so that only data pipeline and loop differ; with the paper's LR-ASPP; and with the
defaults.

A round begins with the start of the loader and reads exactly what it trains on. The second table shows where
the time goes, per image: decoding and augmentation in CPU time of the workers, the rest in seconds of the
main process.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.support.images import as_strings, drawn_images, write_training_ids
from benchmarks.support.report import heading, table
from benchmarks.support.rounds import ratio, spread, take_turns
from benchmarks.support.workers import Side

REFERENCE = "torchvision"
SIDES = {
    REFERENCE: None,
    "torchvision, our process settings": None,
    "ours, torchvision's network": [
        "experiment=seg/lraspp_torchvision",
        "optimizer=sgd",
        "optimizer.lr=0.01",
        "optimizer.weight_decay=1e-6",
        "trainer.ema=null",
    ],
    "ours, paper's LR-ASPP on V3-Large": ["backbone=mobilenet_v3_large", "trainer.ema=null"],
    "ours, default (V3-Small, Dice, EMA)": [],
}
PARTS = ("wait", "forward", "backward", "optimizer", "other")


def start(name: str, options: argparse.Namespace, source: Any, masks: list[str], root: str) -> Side:
    """Start the process of one row."""
    overrides = SIDES[name]
    if overrides is None:
        images = as_strings(source.splits["train"].images)
        job = {"images": images, "masks": masks, "classes": len(source.classes)}
        job |= {key: getattr(options, key) for key in ("base", "crop", "batch", "workers", "steps")}
        tuned = name != REFERENCE
        without = () if tuned else ("OMP_WAIT_POLICY",)  # set by engine.environment in this process
        return Side("torchvision_training.py", {**job, "keep_memory": tuned}, without=without)
    factor = options.base / options.size[0]
    settings = [
        f"data.root={root}",
        f"data.source.num_train={options.images}",
        "data.source.num_val=1",
        "data.source.num_test=0",
        f"data.source.size=[{options.size[0]},{options.size[1]}]",
        f"data.crop={options.crop}",
        f"data.scale=[{0.5 * factor},{2 * factor}]",
        f"data.workers={options.workers}",
        f"trainer.batch={options.batch}",
        "trainer.device=cpu",
    ]
    return Side("project_training.py", {"overrides": [*settings, *overrides], "steps": options.steps})


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    with drawn_images(options.images, tuple(options.size)) as source, TemporaryDirectory() as folder:
        masks = write_training_ids(source, Path(folder))
        root = str(Path(as_strings(source.splits["train"].images)[0]).parents[3])
        sides = {name: start(name, options, source, masks, root) for name in options.only or SIDES}
        try:
            return take_turns({name: side.round for name, side in sides.items()}, rounds=options.rounds)
        finally:
            for side in sides.values():
                side.close()


def report(results: dict[str, list[dict[str, float]]]) -> str:
    rates = {name: [r["images"] / r["seconds"] for r in rounds] for name, rounds in results.items()}
    others = [name for name in rates if SIDES[name] is None] or list(rates)[:1]
    rows = []
    for name, rate in rates.items():
        ratios = [spread(ratio(rate, rates[other]), 2) for other in others]
        rows.append([name, spread(rate, 2), *ratios])
    speeds = table(["training", "images/s", *(f"times {other}" for other in others)], rows)
    details = []
    for name, rounds in results.items():
        parts = {
            part: statistics.median(1000 * r[part] / r["images"] for r in rounds)
            for part in rounds[0]
            if part != "images"
        }
        parts["other"] = parts["seconds"] - sum(parts[part] for part in PARTS[:-1])
        shown = ("decode", "augment", *PARTS, "seconds")
        details.append([name, *(f"{max(parts[part], 0.0):.1f}" for part in shown)])
    header = ["ms per image", "decode (CPU)", "augment (CPU)", *PARTS, "in all"]
    return f"{speeds}\n\n{table(header, details)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), help="of the images")
    parser.add_argument("--crop", type=int, default=480)
    parser.add_argument("--base", type=int, default=520, help="shorter side, before the random scale")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--only", nargs="+", choices=SIDES, metavar="ROW", help="rows: " + "; ".join(SIDES))
    options = parser.parse_args(arguments)
    results = measure(options)
    print(heading(__file__))
    print(report(results))


if __name__ == "__main__":
    main()
