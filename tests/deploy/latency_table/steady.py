"""A measured latency table without the noise of a busy machine."""

from deploy.latency_table.table import LatencyTable


def steady(measured: LatencyTable) -> LatencyTable:
    """The same layers, each with as many milliseconds as channels, so that narrower ones are faster."""
    entries = {layer: float(1 + layer.channels_in + layer.exp + layer.out) for layer in measured.entries}
    return LatencyTable(about=measured.about, entries=entries)
