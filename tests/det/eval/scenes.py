"""Annotated scenes and detections of them, for the tests of evaluation, charts and diagnoses."""

import numpy as np
import torch

from det.boxes import Detections
from det.data.dataset import DetectionSplit, to_offsets
from det.eval.evaluator import DetectionEvaluator
from engine.data.class_map import ClassMap
from engine.io.files import pack_paths

CLASSES = ClassMap(names=("dog", "car", "person", "kite"), ids=(18, 3, 1, 90))  # gaps, not sorted


def annotate(boxes, labels, *, crowd=None, difficult=None, image_ids=None, size=(480, 640)):
    """DetectionSplit from boxes [M, 4] and labels [M] per image."""
    counts = np.array([len(part) for part in labels])
    flat = np.concatenate([np.reshape(part, (-1, 4)) for part in boxes]).astype(np.float32)
    crowd = np.zeros(len(flat), bool) if crowd is None else crowd
    difficult = np.zeros(len(flat), bool) if difficult is None else difficult
    names = [f"image_{index}" for index in range(len(counts))]
    return DetectionSplit(
        images=pack_paths([f"/somewhere/{name}.jpg" for name in names]),
        names=pack_paths(names),
        image_ids=np.arange(1, len(counts) + 1) if image_ids is None else image_ids,
        sizes=np.tile(np.array(size, np.int32), (len(counts), 1)),
        offsets=to_offsets(counts),
        boxes=flat,
        labels=np.concatenate(labels).astype(np.int32),
        crowd=crowd,
        ignored=crowd | difficult,
        areas=(flat[:, 2:] - flat[:, :2]).prod(1) * np.float32(0.8),  # COCO's area is that of the mask
    )


def detections(boxes, scores, labels):
    return Detections(
        torch.as_tensor(np.reshape(boxes, (-1, 4)), dtype=torch.float32),
        torch.as_tensor(scores, dtype=torch.float32),
        torch.as_tensor(labels, dtype=torch.int64),
    )


def scene(seed=0, images=30):
    """Crowds, difficult objects, images without objects, without detections, without both; no true kite."""
    rng = np.random.default_rng(seed)
    counts = np.where(rng.random(images) < 0.2, 0, rng.integers(1, 12, images))
    starts = [rng.uniform(0, 400, (count, 2)) for count in counts]
    boxes = [np.hstack([xy, xy + np.exp(rng.uniform(2, 5.3, xy.shape))]) for xy in starts]
    labels = [rng.integers(0, 3, count) for count in counts]
    total = counts.sum()
    annotations = annotate(
        boxes, labels, crowd=rng.random(total) < 0.1, difficult=rng.random(total) < 0.1,
        image_ids=rng.permutation(1000)[:images].astype(np.int64),
    )  # fmt: skip
    outputs = []
    for index in range(images):
        true, classes, _ = annotations.objects(index)
        count = 0 if rng.random() < 0.15 else rng.integers(1, 130)
        pick = rng.integers(0, max(1, len(true)), count)
        near = true[pick] + rng.normal(0, 4, (count, 4)) if len(true) else np.zeros((count, 4))
        far = rng.uniform(0, 300, (count, 2))
        far = np.hstack([far, far + rng.uniform(5, 150, (count, 2))])
        use = (rng.random((count, 1)) < 0.6) & bool(len(true))
        said = classes[pick] if len(true) else rng.integers(0, 4, count)
        said = np.where(rng.random(count) < 0.7, said, rng.integers(0, 4, count))
        scores = np.round(rng.random(count), 2)  # with ties
        outputs.append(detections(np.where(use, near, far), scores, said))
    return annotations, outputs


def evaluated(annotations, outputs, *, backend="auto", batch=4, **options):
    options = {"classes": CLASSES} | options
    evaluator = DetectionEvaluator(split=annotations, backend=backend, **options)
    for start in range(0, len(outputs), batch):
        indices = torch.arange(start, min(start + batch, len(outputs)))
        evaluator.update(outputs[start : start + batch], {"index": indices})
    return evaluator
