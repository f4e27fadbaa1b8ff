"""The decoder next to an exported detector, and the metadata that it needs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cls.decode
import seg.decode
from backbones.mobilenet_v3 import mobilenet_v3_small
from deploy.eager import eager_session
from deploy.metadata import describe
from det.anchors.generators import DefaultBoxes, SSDAnchors
from det.boxes import BoxCoder
from det.export import decode
from det.export.anchors import describe_anchors
from det.export.network import ExportedDetection
from det.model import Detector
from det.postprocess import Postprocess
from tests.det.export.test_export import anchor_free, images_of, task


def about(module):
    """The entries of preprocess.json that come from the metadata."""
    texts = describe(module, task="det", facts={}) | {"outputs": json.dumps(module.names)}
    return {key: json.loads(text) if text[:1] in "{[" else text for key, text in texts.items()}


@pytest.mark.parametrize("source", [decode, seg.decode, cls.decode])
def test_a_decoder_needs_numpy_alone(source, tmp_path):
    path = Path(source.__file__)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        entry.name for node in ast.walk(tree) if isinstance(node, ast.Import) for entry in node.names
    }
    assert imported == {"collections.abc", "typing", "numpy", "numpy.typing"}
    (tmp_path / "decode.py").write_bytes(path.read_bytes())
    code = "import sys, decode; assert 'torch' not in sys.modules; print(decode.decode.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "decode\n", done.stderr


@pytest.mark.parametrize("output", ["raw", "detections"])
@pytest.mark.parametrize(
    ("activation", "limits"),
    [
        ("sigmoid", {"score_threshold": 0.3, "iou_threshold": 0.4}),
        ("softmax", {"score_threshold": 0.05, "per_class": 2}),
        ("sigmoid", {"candidates": 5, "per_class": None, "iou_threshold": 0.3}),
        ("softmax", {"max_detections": 4, "coder": BoxCoder(scales=(5, 4, 3, 2), max_log_ratio=0.5)}),
    ],
)
def test_decoded_outputs_are_what_the_task_predicts(activation, limits, output):
    plain = task(activation, **limits)
    module = ExportedDetection(task=plain, output=output)
    images, sizes = images_of(3), [(100, 200), (64, 48), (30, 40)]
    with torch.inference_mode():
        expected = plain.predict({"image": torch.from_numpy(images), "size": torch.tensor(sizes)})
    outputs = dict(zip(module.names, eager_session(module)(images), strict=True))
    for index, (size, one) in enumerate(zip(sizes, expected, strict=True)):
        boxes, scores, labels = decode.decode(outputs, about(module), size, index)
        assert len(one.labels) > 2
        assert labels.tolist() == one.labels.tolist()
        np.testing.assert_allclose(scores, one.scores, atol=1e-6)
        np.testing.assert_allclose(boxes, one.boxes, atol=1e-3)


@pytest.mark.parametrize("output", ["raw", "detections"])
def test_decoded_outputs_of_an_anchor_free_head_are_what_the_task_predicts(output):
    plain = anchor_free()
    module = ExportedDetection(task=plain, output=output)
    images, sizes = images_of(2, size=(40, 56)), [(100, 200), (64, 48)]
    with torch.inference_mode():
        expected = plain.predict({"image": torch.from_numpy(images), "size": torch.tensor(sizes)})
    outputs = dict(zip(module.names, eager_session(module)(images), strict=True))
    if output == "raw":
        assert outputs["deltas"].shape == (2, 5 * 7 + 3 * 4 + 2 * 2, 4 * 4)
    for index, (size, one) in enumerate(zip(sizes, expected, strict=True)):
        boxes, scores, labels = decode.decode(outputs, about(module), size, index)
        assert len(one.labels) > 2
        assert labels.tolist() == one.labels.tolist()
        np.testing.assert_allclose(scores, one.scores, atol=1e-6)
        np.testing.assert_allclose(boxes, one.boxes, atol=1e-3)


def test_metadata_of_an_anchor_free_head():
    decoding = about(ExportedDetection(task=anchor_free(), output="raw"))["decoding"]
    assert decoding["background_column"] is None
    assert decoding["coder"] == {"kind": "distances"}
    assert [(each["rows"], each["columns"]) for each in decoding["anchors"]["maps"]] == [
        (5, 7),
        (3, 4),
        (2, 2),
    ]
    np.testing.assert_allclose(decoding["anchors"]["maps"][0]["shapes"], [[1 / 7, 1 / 5]], atol=1e-7)


def test_one_box_of_distances_is_decoded_by_hand():
    """Cell of 20 x 40 at (50, 60); distances of 0.5, 1, 1 and 0 cells: three bins, of which two are equal."""
    cell = np.array([[40, 40, 60, 80]], np.float32)
    deltas = np.full((1, 12), -200, np.float32)
    deltas[0, [0, 1, 4, 7, 9]] = 100
    boxes = decode.decode_boxes(deltas, cell, {"kind": "distances"})
    np.testing.assert_allclose(boxes, [[40, 20, 70, 60]], rtol=1e-6)


def test_metadata_have_all_that_a_decoder_needs():
    coder = BoxCoder(scales=(10, 10, 5, 5), max_log_ratio=None)
    limits = {"score_threshold": 0.02, "iou_threshold": 0.55, "per_class": 7, "candidates": 300}
    module = ExportedDetection(task=task("softmax", coder=coder, max_detections=9, **limits), output="raw")
    decoding = about(module)["decoding"]
    boxes = decoding.pop("anchors")["boxes"]
    np.testing.assert_allclose(boxes, module.anchors, atol=1e-7)
    assert decoding == {
        "in_graph": False,
        "boxes": "x1, y1, x2, y2 as fractions of the image",
        "activation": "softmax",
        "background_column": 0,
        "coder": {"scales": [10, 10, 5, 5], "max_log_ratio": None},
        "max_detections": 9,
        "draw_threshold": 0.4,  # the default
        **limits,
    }


def test_the_default_output_is_detections():
    module = ExportedDetection(task=task())
    assert module.output == "detections"
    assert about(module)["decoding"]["in_graph"] is True


def test_one_box_is_decoded_by_hand():
    """Anchor of 20 x 40 at (50, 60), box of 30 x 40 at (52, 60): tx = 10 x 2 / 20, tw = 5 x log(30 / 20)."""
    anchor = np.array([[40, 40, 60, 80]], np.float32)
    deltas = np.array([[1, 0, 5 * np.log(1.5), 0]], np.float32)
    coder = {"scales": [10, 10, 5, 5], "max_log_ratio": None}
    np.testing.assert_allclose(decode.decode_boxes(deltas, anchor, coder), [[37, 40, 67, 80]], rtol=1e-6)


@pytest.mark.parametrize(
    "anchors", [SSDAnchors(), SSDAnchors(reduce_lowest=False, ratios=(1.0, 3.0)), DefaultBoxes()]
)
@pytest.mark.parametrize("size", [(96, 160), (64, 64)])
def test_anchors_are_described_by_their_cells(anchors, size):
    model = Detector(
        backbone=mobilenet_v3_small(tail="dagger"), num_classes=2, input_size=size, anchors=anchors
    )
    described = describe_anchors(model, model.anchors)
    assert list(described) == ["maps"]
    assert len(json.dumps(described)) < 4000
    np.testing.assert_allclose(decode.anchors(described), model.anchors, atol=1e-6)


def test_other_anchors_are_listed():
    model = Detector(
        backbone=mobilenet_v3_small(tail="dagger"), num_classes=2, input_size=64, anchors=SSDAnchors()
    )
    moved = model.anchors + 0.01
    described = describe_anchors(model, moved)
    assert list(described) == ["boxes"]
    np.testing.assert_allclose(decode.anchors(described), moved, atol=1e-6)


def test_limits_are_those_of_the_postprocessing():
    """A box without area covers nothing and is not kept; equal boxes of two classes are both kept."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [5, 5, 5, 9], [0, 0, 10, 10]], np.float32)
    scores = np.array([[0.9, 0], [0.8, 0], [0.7, 0.6], [0, 0.5]], np.float32)
    how = {"per_class": None, "candidates": None, "max_detections": 9, "iou_threshold": 0.5}
    kept, confident, labels = decode.suppress(boxes, scores, {**how, "score_threshold": 0.1})
    assert labels.tolist() == [0, 1]
    assert confident.tolist() == pytest.approx([0.9, 0.5])
    assert kept.tolist() == [[0, 0, 10, 10]] * 2
    expected = Postprocess(score_threshold=0.1, iou_threshold=0.5, per_class=None).select(
        torch.from_numpy(boxes), torch.from_numpy(scores)
    )
    assert expected.labels.tolist() == labels.tolist()
