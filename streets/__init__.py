"""Procedural street scenes in the formats of Cityscapes and COCO: data before any data is there."""

from streets.scene import Scene, scene
from streets.write import write_streets

__all__ = ["Scene", "scene", "write_streets"]
