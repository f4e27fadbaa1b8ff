"""Synthetic street scenes in the formats of Cityscapes and COCO, drawn on first use: nothing to download."""

from streets.files.cache import cached_streets
from streets.files.writing import write_streets
from streets.scene import Scene, draw_scene

__all__ = ["Scene", "cached_streets", "draw_scene", "write_streets"]
