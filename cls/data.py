"""Classification data by the names that configs give: `cls.data.imagenet`, `.folders` and `.street_crops`."""

from cls.dataset import ClassificationData, ClassificationDataset, Split, Transform
from cls.folders import folders
from cls.imagenet import imagenet
from cls.made_streets import street_crops

__all__ = [
    "ClassificationData",
    "ClassificationDataset",
    "Split",
    "Transform",
    "folders",
    "imagenet",
    "street_crops",
]
