"""Segmentation data, by the name that a config gives: `seg.data.cityscapes`, `seg.data.masks`, `seg.data.streets`."""

from seg.cityscapes import cityscapes
from seg.dataset import SegmentationData, SegmentationDataset, Split, Transform
from seg.made_streets import streets
from seg.masks import masks

__all__ = ["SegmentationData", "SegmentationDataset", "Split", "Transform", "cityscapes", "masks", "streets"]
