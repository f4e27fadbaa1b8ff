"""Detection data by the names that configs give: `det.data.coco`, `.voc`, `.yolo` and `.streets`."""

from det.coco import coco
from det.dataset import Annotations, DetectionData, DetectionDataset, Transform
from det.made_streets import streets
from det.voc import voc
from det.yolo import yolo

__all__ = [
    "Annotations",
    "DetectionData",
    "DetectionDataset",
    "Transform",
    "coco",
    "streets",
    "voc",
    "yolo",
]
