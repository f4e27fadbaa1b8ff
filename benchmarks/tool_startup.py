"""How long the tools take to start: `--help`, imports, and a tiny training up to its first step.

Usage: python benchmarks/tool_startup.py [--rounds 5] [--top 10] [--tools train eval ...] [--first-step]

All figures are for new Python processes. The second table shows what importing a tool costs by package (with
`python -X importtime`, which is slower than the import alone; only the most expensive packages). The third
shows which heavy packages are loaded after `--help`, after the tool's own imports and, with `--first-step`,
after a training without TensorBoard and sample images.
"""

import argparse
import re
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.support.processes import ROOT, python
from benchmarks.support.report import heading, table
from benchmarks.support.rounds import clocked, spread, take_turns

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))
HEAVY = [
    "torch",
    "torchvision",
    "albumentations",
    "scipy",
    "cv2",
    "matplotlib",
    "tensorboard",
    "hydra",
    "PIL",
]
TINY = [
    "task=seg",
    "data.source.num_train=4",
    "data.source.num_val=1",
    "data.source.num_test=0",
    "data.source.size=[64,128]",
    "data.crop=[64,96]",
    "data.workers=0",
    "trainer.steps=1",
    "trainer.batch=2",
    "trainer.device=cpu",
    "trainer.tensorboard=false",
]
IMPORTED = "import runpy; runpy.run_path({tool!r}, run_name='imported')"
RUN = """
import atexit, runpy, sys
atexit.register(lambda: print("loaded:", *[name for name in {heavy!r} if name in sys.modules]))
sys.argv = [{tool!r}, *{arguments!r}]
runpy.run_path({tool!r}, run_name={name!r})
"""


def run(*arguments: str) -> tuple[str, str]:
    done = python(*arguments)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return done.stdout, done.stderr


def path_of(tool: str) -> str:
    return str(ROOT / "tools" / f"{tool}.py")


def importing(tool: str) -> None:
    run("-c", IMPORTED.format(tool=path_of(tool)))


def helping(tool: str) -> None:
    run(path_of(tool), "--help")


def training(folder: Path) -> list[str]:
    """Arguments of a training of one step on scenes in `folder`, which the first call draws."""
    return [*TINY, f"data.root={folder / 'streets'}", f"run={folder / f'run-{time.monotonic_ns()}'}"]


def first_step(folder: Path) -> float:
    """Seconds from the start of the process to the first row of its log."""
    arguments = training(folder)
    started = time.time()
    run(path_of("train"), *arguments)
    log = Path(arguments[-1].removeprefix("run=")) / "log.jsonl"
    logged = re.search(r'"time": ([\d.]+)', log.read_text(encoding="utf-8"))
    assert logged is not None
    return float(logged[1]) - started


def cost_by_package(tool: str) -> dict[str, float]:
    """Package -> ms that its own modules take to import."""
    _, text = run("-X", "importtime", "-c", IMPORTED.format(tool=path_of(tool)))
    costs: dict[str, float] = {}
    for own, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)", text):
        package = module.partition(".")[0]
        costs[package] = costs.get(package, 0.0) + int(own) / 1000
    return costs


def loaded(tool: str, name: str, arguments: list[str]) -> str:
    """The heavy packages that are loaded when the process ends."""
    script = RUN.format(tool=path_of(tool), heavy=HEAVY, name=name, arguments=arguments)
    return run("-c", script)[0].rpartition("loaded:")[2].strip() or "none"


def times(options: argparse.Namespace, folder: Path) -> str:
    jobs = {}
    for tool in options.tools:
        jobs[f"{tool} --help"] = clocked(partial(helping, tool))
        jobs[f"imports of {tool}"] = clocked(partial(importing, tool))
    if options.first_step:
        jobs["train, to the first step"] = partial(first_step, folder)
    jobs["import torch"] = clocked(partial(run, "-c", "import torch"))
    seconds = take_turns(jobs, rounds=options.rounds)
    rows = [[name, spread(values, 2)] for name, values in seconds.items()]
    return table(["start", "seconds"], rows)


def costs(options: argparse.Namespace) -> str:
    by_tool = {tool: cost_by_package(tool) for tool in options.tools}
    most = {
        package: max(costs.get(package, 0.0) for costs in by_tool.values())
        for costs in by_tool.values()
        for package in costs
    }
    rows = [
        [package, *(f"{by_tool[tool].get(package, 0.0):.0f}" for tool in options.tools)]
        for package in sorted(most, key=lambda package: -most[package])[: options.top]
    ]
    return table(["ms to import", *options.tools], rows)


def loaded_packages(options: argparse.Namespace, folder: Path) -> str:
    rows = []
    for tool in options.tools:
        rows.append([f"{tool} --help", loaded(tool, "__main__", ["--help"])])
        rows.append([f"imports of {tool}", loaded(tool, "imported", [])])
    if options.first_step:
        rows.append(["a training", loaded("train", "__main__", [*training(folder), "samples=0"])])
    return table(["after", "loaded"], rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--first-step", action="store_true", help="also train for a step")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        parts = [times(options, Path(folder)), costs(options), loaded_packages(options, Path(folder))]
    print(heading(__file__))
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
