"""table=latency: measures the layers of a network one by one, for a search that adds them up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from backbones.spec import NetSpec
from deploy.latency_table.build import build_table
from deploy.latency_table.checked_table import CheckedTable, check_table
from deploy.latency_table.device_measurer import measure_on_device
from deploy.latency_table.measurers import Measurer, measurer
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from deploy.latency_table.timed_network import TimedNetwork, network_and_size
from deploy.options import BenchmarkOptions
from deploy.remote.connect import connect
from engine.data.preprocessing import Size
from engine.errors import UserError
from engine.io.progress import Progress
from engine.run import run_folder


def measure_table(
    options: BenchmarkOptions,
    *,
    search_space: Callable[[NetSpec], Iterable[NetSpec]],
    log: Callable[[str], None] = print,
) -> LatencyTable:
    """Measure the table of a network and write it to `options.out`.

    Args:
        search_space: networks whose layers are all those that a search around a network can need; used
            with `space=true`.

    Raises:
        UserError: if the network cannot be read, a runtime is not installed, or the file exists, is being
            written by another process or cannot be written.
    """
    if options.on_device:
        return _measure_on_device(options, search_space, log)
    (runtime,), (threads,) = options.runtimes, options.thread_counts
    measure = measurer(runtime, threads=threads)
    network, size = _network(options)
    with run_folder.claim_file(options.table_file) as out:
        bar: list[Progress] = []
        table = build_table(
            network.spec,
            size=size,
            measure=measure,
            shares=tuple(options.shares),
            progress=partial(_show, bar, "layer"),
            **network.model_options,
        )
        table.save(out)
        if options.space:  # each network adds the layers that are missing in the table
            variants = list(search_space(network.spec))
            measure_missing = NetworkLatency(
                table=table, size=size, measure=measure, path=out, **network.model_options
            )
            bar = []
            for done, variant in enumerate(variants, start=1):
                measure_missing(variant)
                _show(bar, "network", done, len(variants))
    return table


def _measure_on_device(
    options: BenchmarkOptions,
    search_space: Callable[[NetSpec], Iterable[NetSpec]],
    log: Callable[[str], None],
) -> LatencyTable:
    if options.runtimes != ["onnx"]:
        raise UserError(f"device={options.device}: a device's latency table needs runtime=onnx")
    (threads,) = counts = options.thread_counts
    timer = connect(options.device, options.remote, runtimes=options.runtimes, threads=counts, log=log)
    network, size = _network(options)
    variants = list(search_space(network.spec)) if options.space else []

    def build(measure: Measurer) -> CheckedTable:
        checked = check_table(network, size=size, measure=measure, shares=tuple(options.shares))
        more = NetworkLatency(table=checked.table, size=size, measure=measure, **network.model_options)
        for variant in variants:
            more(variant)
        return checked

    statistic = options.remote.statistic
    with run_folder.claim_file(options.table_file) as out:
        checked = measure_on_device(timer, threads=threads, statistic=statistic, build=build, log=log)
        log(checked.text("on the device"))
        checked.table.save(out)
    return checked.table


def _network(options: BenchmarkOptions) -> tuple[TimedNetwork, Size]:
    run = options.runs[0] if options.runs else None
    return network_and_size(options.spec, run, options.image_size, options.overrides, options.checkpoint)


def _show(bar: list[Progress], unit: str, done: int, total: int) -> None:
    """Update the bar, created once the total is known, and close it at the end."""
    if not bar:
        bar.append(Progress(total, unit=unit))
    bar[0].update(done)
    if done == total:
        bar[0].close()
