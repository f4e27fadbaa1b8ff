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
from det.weights import carry_class_rows
from engine.errors import UserError
from engine.run.checkpoint import read_weights
from engine.run.initial_weights import carry_rows, class_names

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


def named_by_hand(model):
    """Our key -> the name in the released graph, and the kind of layout, written down once more."""
    root, norms = "FeatureExtractor/MobilenetV3", ("gamma", "beta", "moving_mean", "moving_variance")
    extras = ["2_1x1_256", "3_1x1_128", "4_1x1_128", "5_1x1_64"]
    strided = ["2_3x3_s2_512", "3_3x3_s2_256", "4_3x3_s2_256", "5_3x3_s2_128"]
    layers = {"backbone.stem": f"{root}/Conv", "backbone.last": f"{root}/Conv_1"}
    for number in range(15):
        theirs = f"{root}/expanded_conv" if number == 0 else f"{root}/expanded_conv_{number}"
        for part in ("expand", "depthwise", "project"):
            layers[f"backbone.blocks.{number}.{part}"] = f"{theirs}/{part}"
        layers[f"backbone.blocks.{number}.se.reduce"] = f"{theirs}/squeeze_excite/Conv"
        layers[f"backbone.blocks.{number}.se.expand"] = f"{theirs}/squeeze_excite/Conv_1"
    for number in range(4):
        layers[f"head.extras.{number}.reduce"] = f"{root}/layer_17_1_Conv2d_{extras[number]}"
        layers[f"head.extras.{number}.depthwise"] = f"{root}/layer_17_2_Conv2d_{strided[number]}_depthwise"
        layers[f"head.extras.{number}.expand"] = f"{root}/layer_17_2_Conv2d_{strided[number]}"
    for number in range(6):
        for ours, theirs in (("boxes", "BoxEncodingPredictor"), ("scores", "ClassPredictor")):
            layers[f"head.{ours}.{number}.depthwise"] = f"BoxPredictor_{number}/{theirs}_depthwise"
            layers[f"head.{ours}.{number}.predict"] = f"BoxPredictor_{number}/{theirs}"
    names = {}
    for ours, theirs in layers.items():
        weights = "depthwise_weights" if ours.endswith("depthwise") else "weights"
        names |= {f"{ours}.conv.weight": f"{theirs}/{weights}", f"{ours}.weight": f"{theirs}/weights"}
        names |= {f"{ours}.bias": f"{theirs}/biases"}
        for part, norm in zip(("weight", "bias", "running_mean", "running_var"), norms, strict=True):
            names[f"{ours}.bn.{part}"] = f"{theirs}/BatchNorm/{norm}"
    return {key: names[key] for key in model.state_dict() if not key.endswith("num_batches_tracked")}


def as_in_the_graph(name, tensor):
    """Our tensor in TensorFlow's layout; per anchor, the released box predictors return (y, x, h, w)."""
    if "/BoxEncodingPredictor/" in name:
        by_anchor = tensor.unflatten(0, (-1, 4))
        tensor = torch.stack([by_anchor[:, place] for place in (1, 0, 3, 2)], 1).flatten(0, 1)
    if tensor.dim() == 4:
        depthwise = name.endswith("depthwise_weights")
        return tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(2, 3, 1, 0)
    return tensor


@pytest.fixture(scope="module")
def made_up():
    """A detector with random statistics, and its tensors under the names and in the layout of the graph."""
    model = detector(dagger(), num_classes=3)
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for key, tensor in model.state_dict().items()
    }
    constants = {name: as_in_the_graph(name, state[key]) for key, name in named_by_hand(model).items()}
    return model, state, constants


def test_every_constant_has_its_place_and_layout(made_up):
    model, state, constants = made_up
    others = {"anchors": torch.zeros(1, 4), "BoxPredictor_1/Reshape/shape": torch.zeros(4)}
    others |= {"BoxPredictor_1/Reshape_1/shape": torch.zeros(3), "a/Mean/reduction_indices": torch.zeros(2)}
    ours = model.adapt({**constants, **others})
    assert ours.keys() == state.keys()
    gated = {f"backbone.blocks.{number}.project.conv.weight" for number in (3, 4, 5, 10, 11, 12, 13, 14)}
    for key, tensor in state.items():
        if key in gated:  # the authors' gates multiply by 0.16667 instead of 1/6
            tensor = (tensor.double() * (0.16667 * 6)).float()
        assert torch.equal(ours[key], tensor), key
        assert ours[key].is_contiguous()
    half = model.adapt({name: constant.half() for name, constant in constants.items()})
    assert half["backbone.stem.conv.weight"].dtype == torch.float32
    backbone = model.adapt_backbone(constants)
    assert torch.equal(backbone["stem.conv.weight"], state["backbone.stem.conv.weight"])
    assert not any(key.startswith(("head.", "backbone.")) for key in backbone)


def test_a_constant_that_is_left_over_is_named(made_up):
    model, _, constants = made_up
    surplus = {"FeatureExtractor/MobilenetV3/expanded_conv_15/expand/weights": torch.zeros(1)}
    with pytest.raises(UserError, match=r"\['FeatureExtractor.*expanded_conv_15.*\] are unexpected"):
        model.adapt(constants | surplus)


def test_class_rows_are_carried_by_name():
    """Two anchors, classes (a, b, c) -> (c, d, a): background and the rows of c and a are taken over."""
    own = torch.arange(100.0, 108.0)[:, None]
    loaded = torch.arange(8.0)[:, None]  # per anchor: background, a, b, c
    rows = carry_class_rows("x", own, loaded, ("a", "b", "c"), ("c", "d", "a"))
    assert rows[:, 0].tolist() == [0, 3, 102, 1, 4, 7, 106, 5]
    assert own[:, 0].tolist() == list(range(100, 108))
    surplus = carry_class_rows("x", own, loaded, ("a", "b", "c", "d"), ("c", "d", "a"))
    assert torch.equal(surplus, rows)  # the weights have no row for d
    assert carry_class_rows("x", own.half(), loaded, ("a", "b", "c"), ("c", "d", "a")).dtype == torch.half
    with pytest.raises(UserError, match="x has 7 rows, which is not a multiple of 2 anchors"):
        carry_class_rows("x", own, loaded[:7], ("a", "b", "c"), ("c", "d", "a"))


def test_class_rows_of_another_network_are_left_for_the_comparison_of_all_weights():
    own, loaded = torch.zeros(9, 4, 1, 1), torch.ones(9, 5, 1, 1)
    assert carry_class_rows("head", own, loaded, ("a", "b"), ("a", "b")) is loaded


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_so_are_those_of_other_tasks():
    own, loaded = torch.zeros(2, 128, 1, 1), torch.ones(2, 256, 1, 1)
    assert carry_rows(own, loaded, ("a", "b"), ("a", "b")) is loaded
