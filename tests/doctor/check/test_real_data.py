"""Real datasets: the check finds what is known of them, and nothing else."""

import pytest

from doctor.check.cache import FactCache
from doctor.check.dataset_check import check_dataset
from engine.config.compose import compose_config
from engine.config.instantiate import task_info
from engine.config.training import build_changed_source, build_task_for
from tests.doctor.check.datasets import finding_of, found

pytestmark = pytest.mark.data


@pytest.fixture
def check(tmp_path):
    def call(*overrides):
        config = compose_config("check", [*overrides, "data.workers=2"])
        cache = FactCache(tmp_path / "facts", workers=2)
        try:
            return check_dataset(
                build=lambda changes: build_changed_source(config, changes),
                build_task=lambda source: build_task_for(config, source),
                info=task_info(config),
                cache=cache,
                eval_split=config.data.split,
            )
        finally:
            cache.close()

    return call


@pytest.mark.slow
def test_camvid(check, data_folder):
    """Its val images are from one video, darker, with other classes; many frames are nearly the same."""
    result = check("task=seg", "data=masks", f"data.root={data_folder / 'camvid'}")
    assert found(result) == {"class_drift": 3, "brightness_drift": 1, "near_duplicates": 130, "imbalance": 1}
    assert result.excluded == {}
    assert finding_of(result, "class_drift").examples[0].startswith("bicyclist: ")


@pytest.mark.slow
def test_bccd(check, data_folder):
    """Two boxes have no area; BloodImage_00037 (val) and 00038 (train) show the same cells, refocused."""
    result = check("task=det", "data=voc", f"data.root={data_folder / 'bccd'}")
    assert found(result) == {"box_degenerate": 2, "near_duplicates_in_splits": 1}
    assert result.excluded == {"val": {"BloodImage_00037": "near duplicates in splits"}}


@pytest.mark.parametrize("data", ["coco", "yolo"])
def test_coco128_has_only_a_val_split(check, data_folder, data):
    result = check("task=det", f"data={data}", f"data.root={data_folder / 'coco128'}")
    counts = found(result)
    counts.pop("reader", None)  # data.yaml names a train folder that does not exist
    assert counts == {"no_split": 1, "class_absent": 7, "mixed_colors": 1}


@pytest.mark.slow
def test_the_imagenet_sample_has_one_image_of_each_class(check, data_folder, tmp_path):
    root = tmp_path / "imagenet"
    root.mkdir()
    (root / "val").symlink_to(data_folder / "imagenet_sample")
    names = sorted(path.name for path in (root / "val").iterdir() if path.suffix == ".JPEG")
    (root / "val.txt").write_text("".join(f"{name} {index}\n" for index, name in enumerate(names)))
    counts = found(check("task=cls", "data=imagenet", f"data.root={root}"))
    counts.pop("reader", None)  # ImageNet has more images
    assert counts == {"no_split": 1}


def test_one_cityscapes_image(check, data_folder):
    result = check("task=seg", "data=cityscapes", f"data.root={data_folder / 'cityscapes_real/tree'}")
    counts = found(result)
    counts.pop("reader", None)  # the official split has 500 images
    assert counts == {"no_split": 1, "class_absent": 9}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seg", "det", "cls"])
def test_nothing_serious_is_found_in_the_drawn_street_scenes(check, task, tmp_path):
    scenes = ["data.source.num_train=40", "data.source.num_val=40", "data.source.num_test=5"]
    result = check(f"task={task}", f"data.root={tmp_path / 'streets'}", *scenes)
    assert result.count("error") == 0
    assert result.count("warning") == 0
