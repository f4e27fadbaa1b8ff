"""Outputs of an exported detector -> boxes, using only NumPy. tools/export.py writes this file next to the
exported file.

    about = json.loads(Path("preprocess.json").read_text())
    boxes, scores, labels = decode(dict(zip(about["outputs"], outputs)), about, (height, width))

Apache-2.0; from mobilenet-dense, det/export/decode.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Detected = tuple[Floats, Floats, NDArray[np.int64]]


def decode(
    outputs: Mapping[str, NDArray[Any]], about: Mapping[str, Any], size: tuple[int, int], index: int = 0
) -> Detected:
    """The detections in image `index` of the batch, best first.

    Args:
        outputs: by name, as the file returns them.
        about: the content of preprocess.json.
        size: (height, width) of the image before it was resized.

    Returns:
        boxes [D, 4], (x1, y1, x2, y2) in pixels of the image; scores [D]; class indices [D].
    """
    pixels = np.array([size[1], size[0], size[1], size[0]], np.float32)
    if about["output"] == "detections":
        found = outputs["labels"][index] >= 0  # -1: unused rows
        boxes, scores, labels = (outputs[name][index][found] for name in ("boxes", "scores", "labels"))
        return boxes * pixels, scores, labels
    how = about["decoding"]
    deltas = np.asarray(outputs["deltas"][index], np.float32)
    scores = confidences(np.asarray(outputs["scores"][index], np.float32), how["activation"])
    boxes = decode_boxes(deltas, anchors(how["anchors"]), how["coder"]).clip(0, 1) * pixels
    background = how["background_column"]
    return suppress(boxes, scores if background is None else np.delete(scores, background, axis=1), how)


def anchors(how: Mapping[str, Any]) -> Floats:
    """[A, 4] xyxy as fractions of the input, in the order map, row, column, shape."""
    if "boxes" in how:
        return np.array(how["boxes"], np.float32).reshape(-1, 4)
    parts = []
    for each in how["maps"]:
        rows, columns = each["rows"], each["columns"]
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
        )
        centers, half = np.stack([x, y], axis=-1)[:, :, None], np.array(each["shapes"]) / 2
        parts.append(np.concatenate([centers - half, centers + half], axis=-1).reshape(-1, 4))
    return np.concatenate(parts).astype(np.float32)


def confidences(scores: Floats, activation: str) -> Floats:
    """Raw scores [A, C] -> confidences in 0..1."""
    if activation == "sigmoid":
        confident: Floats = 0.5 * (1 + np.tanh(0.5 * scores))  # does not overflow
        return confident
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def decode_boxes(deltas: Floats, anchor: Floats, coder: Mapping[str, Any]) -> Floats:
    """Deltas and anchors [A, 4] -> boxes [A, 4], xyxy in the unit of the anchors.

    Deltas are (tx, ty, tw, th) [A, 4]; or logits [A, 4 * bins] for the distances from the anchor's center to
    the sides left, top, right and bottom of the box, in units of the anchor's sides.
    """
    if coder.get("kind") == "distances":
        logits = deltas.reshape(len(deltas), 4, -1)
        powers = np.exp(logits - logits.max(axis=2, keepdims=True))
        distances = (powers * np.arange(logits.shape[2])).sum(axis=2) / powers.sum(axis=2)
        anchor_sides, middle = anchor[:, 2:] - anchor[:, :2], (anchor[:, :2] + anchor[:, 2:]) / 2
        low, high = middle - distances[:, :2] * anchor_sides, middle + distances[:, 2:] * anchor_sides
        return np.concatenate([low, high], axis=1).astype(np.float32)
    unscaled = deltas / np.array(coder["scales"], np.float32)
    log_ratio = unscaled[:, 2:]
    if coder["max_log_ratio"] is not None:
        log_ratio = np.minimum(log_ratio, np.float32(coder["max_log_ratio"]))
    sides = anchor[:, 2:] - anchor[:, :2]
    centers = unscaled[:, :2] * sides + (anchor[:, :2] + anchor[:, 2:]) / 2
    half = np.exp(log_ratio) * sides / 2
    return np.concatenate([centers - half, centers + half], axis=1)


def suppress(boxes: Floats, scores: Floats, limits: Mapping[str, Any]) -> Detected:
    """Boxes [A, 4] in pixels, scores [A, K] -> the detections, best first.

    Of two boxes of a class that overlap more than `iou_threshold`, the better one is kept.
    """
    most = np.inf if limits["per_class"] is None else limits["per_class"]
    considered = np.inf if limits["candidates"] is None else limits["candidates"]
    seen = [0] * scores.shape[1]
    kept: list[list[int]] = [[] for _ in seen]
    result: list[tuple[int, int]] = []
    for pair in np.argsort(-scores, axis=None, kind="stable"):
        place, label = divmod(int(pair), scores.shape[1])
        if not scores[place, label] > limits["score_threshold"] or len(result) == limits["max_detections"]:
            break
        seen[label] += 1
        rivals, empty = boxes[kept[label]], not (boxes[place, 2:] > boxes[place, :2]).all()
        if seen[label] > considered or len(rivals) == most or empty:
            continue
        if not (overlaps(boxes[place], rivals) > limits["iou_threshold"]).any():
            kept[label].append(place)
            result.append((place, label))
    places, labels = np.array(result, np.int64).reshape(-1, 2).T
    return boxes[places], scores[places, labels], labels


def overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of a box [4] with others [N, 4], all of positive area -> [N]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    share: Floats = shared / ((box[2:] - box[:2]).prod() + areas - shared)
    return share
