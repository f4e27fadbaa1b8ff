"""The metadata say how an image becomes the network's input: what they say is what the transforms do."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from cls.transforms import EvalTransform as OfClassification
from deploy.metadata import describe
from det.transforms import EvalTransform as OfDetection
from seg.transforms import EvalTransform as OfSegmentation
from tests.deploy.toys import ToyExport

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
OPENCV = {
    "interpolation": "bilinear",
    "when_smaller": "bilinear",
    "antialias": False,
    "center_crop": None,
    "same_as": "OpenCV: cv2.resize with cv2.INTER_LINEAR",
}
AREA = {
    "when_smaller": "area",
    "same_as": "OpenCV: cv2.resize with cv2.INTER_LINEAR, with cv2.INTER_AREA if neither side grows",
}
PILLOW = {
    "interpolation": "bilinear",
    "when_smaller": "bilinear",
    "antialias": True,
    "same_as": "Pillow: Image.resize with Image.Resampling.BILINEAR",
}


def opencv(size, method):
    return cv2.resize(IMAGE, size[::-1], interpolation=method)


def pillow(size):
    return np.asarray(Image.fromarray(IMAGE).resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("transform", "described", "expected"),
    [
        (
            OfDetection(size=(32, 70)),
            {"mode": "to_size", "size": [32, 70], "keep_aspect": False, **OPENCV},
            opencv((32, 70), cv2.INTER_LINEAR),
        ),
        (
            OfDetection(size=40, area=True),
            {"mode": "to_size", "size": [40, 40], "keep_aspect": False, **OPENCV, **AREA},
            opencv((40, 40), cv2.INTER_AREA),
        ),
        (
            OfSegmentation(size=(80, 50), area=True),  # one side grows
            {"mode": "to_size", "size": [80, 50], "keep_aspect": False, **OPENCV, **AREA},
            opencv((80, 50), cv2.INTER_LINEAR),
        ),
        (
            OfSegmentation(size=0.5),
            {"mode": "scale", "factor": 0.5, "keep_aspect": True, **OPENCV},
            opencv((30, 45), cv2.INTER_LINEAR),
        ),
        (OfSegmentation(), {"mode": "none"}, IMAGE),
        (
            OfClassification(crop=28, resize=32),  # 60x90 -> 32x48, then the center
            {"mode": "shorter_side", "side": 32, "keep_aspect": True, "center_crop": [28, 28], **PILLOW},
            pillow((32, 48))[2:30, 10:38],
        ),
        (
            OfClassification(crop=(28, 30), square=True),
            {"mode": "to_size", "size": [28, 30], "keep_aspect": False, "center_crop": None, **PILLOW},
            pillow((28, 30)),
        ),
    ],
)
def test_resizing_is_described_as_it_is_done(transform, described, expected):
    module = ToyExport()
    module.eval_transform = transform
    preprocessing = json.loads(describe(module, task="seg", facts={})["preprocessing"])
    assert preprocessing["resize"] == described
    assert preprocessing["channel_order"] == "RGB"
    parts = {OfDetection: (), OfSegmentation: (None, 0), OfClassification: (0,)}[type(transform)]
    resized = transform(IMAGE, *parts)
    assert (np.asarray(resized[0] if isinstance(resized, tuple) else resized) == expected).all()


def test_the_range_of_pixels_is_stored():
    described = describe(ToyExport(), task="seg", facts={}, pixel_range=(0.0, 4095.0))
    assert json.loads(described["preprocessing"])["pixel_range"] == [0, 4095]
    assert json.loads(describe(ToyExport(), task="seg", facts={})["preprocessing"])["pixel_range"] is None


def test_whether_images_are_turned_is_stored():
    for upright in (True, False):
        described = describe(ToyExport(), task="seg", facts={}, upright=upright)
        assert json.loads(described["preprocessing"])["upright"] is upright


def test_a_transform_without_a_description_is_custom():
    preprocessing = json.loads(describe(ToyExport(), task="seg", facts={})["preprocessing"])
    assert preprocessing["resize"] == {"mode": "custom"}
    assert preprocessing["transform"] == "input as stored"
