"""Segmentation data by the names that configs give: `seg.data.cityscapes`, `.masks` and `.streets`."""

from seg.cityscapes import cityscapes
from seg.dataset import SegmentationData, SegmentationDataset, Split, Transform
from seg.made_streets import streets
from seg.masks import masks

__all__ = ["SegmentationData", "SegmentationDataset", "Split", "Transform", "cityscapes", "masks", "streets"]
