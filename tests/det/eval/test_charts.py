"""Charts of evaluations: written for any number of classes, and without objects or detections."""

import pytest
from PIL import Image

from det.eval.charts import save_charts
from engine.data.class_map import ClassMap
from tests.det.eval.scenes import annotate, detections, evaluated, scene


@pytest.mark.parametrize("count", [4, 40])
def test_charts_are_written(tmp_path, count):
    annotations, outputs = scene()
    classes = ClassMap(names=tuple(f"class {index}" for index in range(count)))
    evaluator = evaluated(annotations, outputs, classes=classes)
    save_charts(evaluator, tmp_path / "new" / "charts.png")
    with Image.open(tmp_path / "new" / "charts.png") as chart:
        assert min(chart.size) > 500
        assert len(set(chart.convert("RGB").get_flattened_data())) > 100


def test_charts_without_objects_or_detections(tmp_path):
    nothing = detections([], [], [])
    save_charts(evaluated(annotate([[]], [[]]), [nothing]), tmp_path / "a.png")
    save_charts(evaluated(annotate([[[1, 1, 20, 20]]], [[0]]), [nothing]), tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 1000
