"""Rows without networks, for tests of what is written about them."""

from deploy.benchmark.paper_rows import BenchmarkRow


def row(name, *, room="seg", size=(1024, 2048), task=None, accuracy=None, **paper):
    return BenchmarkRow(
        name=name,
        source=f"{room}/{name}",
        room=room,
        params=2_000_000,
        madds=20_000_000_000,
        size=size,
        executed_madds=16_000_000_000,
        paper=paper,
        accuracy=accuracy or {},
        task=task,
    )
