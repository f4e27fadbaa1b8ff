"""The authors' released detection network: its weights load, and its detections are the original graph's."""

import contextlib
import io
import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from det.anchors.generators import SSDAnchors
from det.boxes import clip, to_pixels
from det.model import Detector
from det.postprocess import Postprocess
from engine.errors import UserError
from engine.run.checkpoint import read_weights
from engine.run.initial_weights import class_names

STEM = "FeatureExtractor/MobilenetV3/Conv/weights"


def detector(spec, num_classes=90):
    return Detector(backbone=spec, num_classes=num_classes, input_size=320, anchors=SSDAnchors())


def dagger(**options):
    return mobilenet_v3_large(tail="dagger", padding="same", **options)


# Without the data


def test_tensorflow_pads_its_own_way():
    with pytest.raises(UserError, match=r"set backbone\.padding=same"):
        detector(mobilenet_v3_large(tail="dagger")).adapt({STEM: torch.zeros(3, 3, 3, 16)})


def test_a_missing_constant_is_named():
    with pytest.raises(
        UserError, match=r"not the weights of mobilenet_v3_large.*FeatureExtractor.*gamma is missing"
    ):
        detector(dagger()).adapt({STEM: torch.zeros(3, 3, 3, 16)})


def test_the_weights_of_a_classifier_are_rejected():
    state = {"stem.conv.weight": torch.zeros(16, 3, 3, 3), "conv_stem.weight": torch.zeros(16, 3, 3, 3)}
    with pytest.raises(UserError, match="not the weights of a detector; use the file as weights="):
        detector(dagger()).adapt({"conv_stem.weight": state["conv_stem.weight"]})
    assert detector(dagger()).adapt({"backbone.stem.conv.weight": state["stem.conv.weight"]})


def test_pickled_arrays_are_rejected(tmp_path):
    file = tmp_path / "weights.npz"
    np.savez(file, allow_pickle=True, a=np.array([{"code": 1}], dtype=object))
    with pytest.raises(UserError, match=r"weights\.npz: not an \.npz"):
        read_weights(file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"hello"])
def test_other_files_than_npz_are_rejected(tmp_path, content):
    (tmp_path / "weights.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.npz: not an \.npz"):
        read_weights(tmp_path / "weights.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such weight file"):
        read_weights(tmp_path / "weights.npz")


# With the data


@pytest.fixture(scope="module")
def released(data_folder):
    folder = data_folder / "weights" / "ssd_mobilenet_v3_large_coco"
    if not folder.is_dir():
        pytest.skip(f"needs the released weights in {folder}")
    return folder


@pytest.fixture(scope="module")
def constants(released):
    (file,) = released.glob("*.npz")
    return read_weights(file)


@pytest.fixture(scope="module")
def network(constants):
    model = detector(dagger(bn_momentum=0.03))
    model.load_state_dict(model.adapt(constants))  # strict: every parameter and every statistic is there
    return model.eval()


@pytest.mark.data
def test_every_learned_constant_is_used(constants, network):
    learned = {name: c for name, c in constants.items() if c.is_floating_point() and name != "anchors"}
    stored = [t for key, t in network.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert len(learned) == len(stored)
    assert sum(c.numel() for c in learned.values()) == sum(t.numel() for t in stored)


@pytest.mark.data
def test_the_anchors_of_the_graph_are_ours(constants, network):
    stored = constants["anchors"]  # center y, center x, height, width
    assert stored.shape == (2034, 4)
    y, x, height, width = stored.unbind(1)
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1)
    torch.testing.assert_close(network.anchors, corners, atol=1e-6, rtol=0)


@pytest.mark.data
def test_line_n_of_the_released_labels_names_category_n(released):
    (file,) = released.glob("*.npz")
    names = class_names(file)
    assert (names[0], names[2], names[43], names[89]) == ("person", "car", "bottle", "toothbrush")
    assert (names[11], names[25]) == ("street sign", "hat")  # ids that COCO left out


@pytest.mark.data
def test_the_weights_of_large_are_not_those_of_small(constants):
    with pytest.raises(UserError, match="not the weights of mobilenet_v3_small"):
        detector(mobilenet_v3_small(tail="dagger", padding="same")).adapt(constants)
    with pytest.raises(UserError, match=r"not the weights of mobilenet_v3_large.*are unexpected"):
        detector(mobilenet_v3_large(minimalistic=True, tail="dagger", padding="same")).adapt(constants)


@pytest.fixture(scope="module")
def outputs(data_folder, network):
    """Raw outputs and size by COCO image id, for the first 128 images of val2017."""
    root = data_folder / "coco128"
    if not root.is_dir():
        pytest.skip(f"needs COCO's first 128 validation images in {root}")
    by_image = {}
    for entry in json.loads((root / "instances_val2017_128.json").read_text())["images"]:
        image = cv2.imread(str(root / "images" / "val2017" / entry["file_name"]))[:, :, ::-1]
        pixels = (cv2.resize(image, (320, 320)).astype(np.float32) - 127.5) / 127.5
        with torch.inference_mode():
            deltas, scores = network(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
        by_image[entry["id"]] = (deltas, scores, torch.tensor([image.shape[:2]]))
    return by_image


def average_precisions(data_folder, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data_folder / "coco128" / "instances_val2017_128.json"))
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


def as_coco(results):
    """(image id, detections) -> COCO's list; category id n is class n - 1."""
    return [
        {
            "image_id": image,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, part in results
        for (x1, y1, x2, y2), score, label in zip(*(column.tolist() for column in part), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.data
def test_average_precision_on_coco(data_folder, network, outputs):
    """OpenCV's run of the original graph scores .357, .550 and .361 on these images."""
    process = Postprocess(score_threshold=1e-8, iou_threshold=0.6, per_class=100, max_detections=100)
    results = [
        (image, process(deltas, scores, network.anchors, size)[0])
        for image, (deltas, scores, size) in outputs.items()
    ]
    assert average_precisions(data_folder, as_coco(results)) == pytest.approx(
        [0.357, 0.550, 0.361], abs=0.003
    )


@pytest.mark.data
def test_every_detection_of_the_original_graph(data_folder, released, network, outputs):
    """OpenCV considers 100 candidates per class, and clips no box to the image."""
    reference = {}
    for entry in json.loads((released / "detections_coco128_val2017.json").read_text()):
        reference.setdefault(entry["image_id"], []).append(entry)
    process = Postprocess(score_threshold=1e-8, iou_threshold=0.6, candidates=100)
    total = matched = 0
    for image, (deltas, scores, size) in outputs.items():
        (detections,) = process(deltas, scores, network.anchors, size)
        theirs = torch.tensor([entry["bbox"] for entry in reference[image]])
        theirs = clip(
            torch.cat([theirs[:, :2], theirs[:, :2] + theirs[:, 2:]], dim=1), tuple(size[0].tolist())
        )
        score = torch.tensor([entry["score"] for entry in reference[image]])
        label = torch.tensor([entry["category_id"] for entry in reference[image]]) - 1
        same = (
            (label[:, None] == detections.labels)
            & ((score[:, None] - detections.scores).abs() < 2e-4)
            & ((theirs[:, None] - detections.boxes).abs().amax(-1) < 0.05)
        )
        total += len(theirs)
        matched += int(same.any(1).sum())
    assert total == 12800
    assert matched / total > 0.995  # the others are boxes whose suppression the clipping changes


@pytest.mark.data
def test_average_precision_to_the_last_digit_with_opencvs_settings(data_folder, network, outputs):
    process = Postprocess(score_threshold=1e-8, iou_threshold=0.6, candidates=100)
    results = []
    for image, (deltas, scores, size) in outputs.items():
        boxes = to_pixels(process.coder.decode(deltas[0], network.anchors), tuple(size[0].tolist()))
        results.append((image, process.select(boxes, scores[0].sigmoid()[:, 1:])))
    assert average_precisions(data_folder, as_coco(results)) == pytest.approx(
        [0.3567, 0.5504, 0.3613], abs=2e-4
    )
