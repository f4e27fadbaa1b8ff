"""Rows without networks, for tests of reports."""

from deploy.benchmark.rows import BenchmarkRow


def row(
    name,
    *,
    task="seg",
    metric="miou",
    size=(1024, 2048),
    predictor=None,
    accuracy=None,
    accuracy_on=None,
    **paper,
):
    return BenchmarkRow(
        name=name,
        source=f"{task}/{name}",
        task=task,
        metric=metric,
        params=2_000_000,
        madds=20_000_000_000,
        size=size,
        executed_madds=16_000_000_000,
        paper=paper,
        accuracy=accuracy or {},
        accuracy_on=accuracy_on,
        predictor=predictor,
    )
