"""The doctor finds every fault that is planted in copies of real datasets, and nothing else."""

from collections import Counter
from functools import partial

import pytest

from doctor.check.cache import FactCache
from doctor.check.dataset_check import check_dataset
from engine.config.compose import compose_config
from engine.config.instantiate import task_info
from engine.config.training import build_changed_source, build_task_for, validate
from tests.doctor import planted
from tests.doctor.copies import copy_dataset
from tests.doctor.planted import KINDS, plant

pytestmark = pytest.mark.data

DATASETS = {
    "masks": "camvid",
    "cityscapes": "cityscapes_real",
    "voc": "bccd",
    "coco": "coco128",
    "yolo": "coco128",
    "folders": "imagenet_sample",
}
TASKS = {"masks": "seg", "cityscapes": "seg", "voc": "det", "coco": "det", "yolo": "det", "folders": "cls"}
MOST = 36  # images of each split; at least 30 are needed to compare the splits
ALSO = {  # what a fault is in addition
    planted.image_in_two_classes: {"copies": 1},
    planted.tiny_objects: {"anchors": None},
    planted.imbalance: {"class_drift": 1},
}


def findings(kind, root):
    """{code: count} of a dataset; the cache of what was read is shared."""
    arguments = [f"task={TASKS[kind]}", f"data={kind}", f"data.root={root}", "data.workers=0"]
    arguments += ["model=ssdlite"] if TASKS[kind] == "det" else []  # it has anchors to check
    config = compose_config("check", arguments)
    validate(config)
    cache = FactCache(root.parent / "facts.sqlite")
    try:
        checked = check_dataset(
            build=partial(build_changed_source, config),
            build_task=partial(build_task_for, config),
            info=task_info(config),
            cache=cache,
        )
    finally:
        cache.close()
    counts = Counter()
    for finding in checked.findings:
        counts[finding.code] += finding.count
    return counts


@pytest.fixture(scope="module")
def clean(data_folder, tmp_path_factory):
    """Kind -> the copy, and what the doctor finds in it: real data are not without faults."""
    known = {}

    def of(kind):
        if kind not in known:
            root = tmp_path_factory.mktemp(kind) / "data"
            copy_dataset(data_folder / DATASETS[kind], root, kind, most=MOST)
            known[kind] = (root, findings(kind, root))
        return known[kind]

    return of


CASES = [
    pytest.param(
        kind,
        fault,
        id=f"{kind}-{fault.__name__}",
        marks=pytest.mark.slow if kind in ("masks", "voc") else pytest.mark.weekly,
    )
    for kind in DATASETS
    for fault, kinds in KINDS.items()
    if kind in kinds
]


@pytest.mark.weekly
@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_planted_fault_is_found_and_nothing_else(kind, fault, clean, data_folder, tmp_path):
    before = clean(kind)[1]
    copy_dataset(data_folder / DATASETS[kind], tmp_path / "data", kind, most=MOST)
    done = plant(tmp_path / "data", fault, seed=1)
    after = findings(kind, tmp_path / "data")
    new = {code: count - before[code] for code, count in after.items() if count > before[code]}
    expected = {done.code: done.count, **ALSO.get(fault, {})}
    assert {code: None if expected.get(code, 0) is None else count for code, count in new.items()} == expected
