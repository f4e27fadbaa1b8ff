"""Search for a network that is faster on a device and nearly as accurate, or for good training settings.

Usage: python tools/search.py run=<run folder> [latency=<table>.json] [budget=<fraction>] [key=value ...]
       python tools/search.py method=mnas task=<task> latency=<table>.json target_ms=<ms> [key=value ...]
       python tools/search.py method=sweep task=<task> key=value,value,... [key=value ...]

Examples:
  python tools/search.py run=<run folder> budget=0.7                70% of its latency on this machine
  python tools/search.py run=<run folder> latency=phone.json budget=0.7 method.steps=500
  python tools/search.py run=<run folder> runtime=onnx threads=1 size=[360,480] data.root=camvid
  python tools/search.py run=<run folder> executor=processes workers=4   trials in parallel
  python tools/search.py run=<run folder> executor=ray cpus=2       trials on Ray workers
  python tools/search.py method=mnas task=seg target_ms=8 samples=400
  python tools/search.py method=sweep task=seg optimizer.lr=0.001,0.003 trainer.ema=0.9,0.99 trainer.epochs=4
  python tools/search.py run=<run folder> out=<folder>              resume a search that was stopped
  python tools/train.py task=seg backbone=<folder>/network.yaml     train the resulting network
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from collections.abc import Sequence

from backbones.weights import catalog
from engine.config.launch import launch
from engine.published import run_by_name
from nas.mnas.search import MnasSearch
from nas.options import SearchOptions, check_method_keys
from nas.search_from_run import search_from_run
from nas.search_from_scratch import search_from_scratch
from nas.search_settings import search_settings
from nas.sweep.search import Sweep


def complete(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments, with the name of a published network as its run folder."""
    check_method_keys(arguments)
    return run_by_name(arguments, published=catalog.find)


def search(options: SearchOptions) -> None:
    if isinstance(options.method, Sweep):
        search_settings(options, options.method)
    elif isinstance(options.method, MnasSearch):
        search_from_scratch(options, options.method)
    else:
        search_from_run(options, options.method)


if __name__ == "__main__":
    launch(search, "search", __doc__, complete=complete)
