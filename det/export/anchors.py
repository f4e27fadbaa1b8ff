"""Describes anchors for the metadata of an exported file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from det.anchors.generators import place_in_cells


def describe_anchors(model: Any, anchors: Tensor) -> dict[str, Any]:
    """Anchors [A, 4] as `{"maps": [{"rows", "columns", "shapes": [[width, height], ...]}, ...]}`, with
    shapes centered on each cell, as fractions of the input; or as `{"boxes": [...]}` if they have no such
    grid.
    """
    corners = anchors.detach().cpu().double()
    sizes = model.map_sizes() if hasattr(model, "map_sizes") else []
    counts = getattr(model, "anchors_per_cell", ())
    lengths = [rows * columns * count for (rows, columns), count in zip(sizes, counts, strict=False)]
    if sizes and len(sizes) == len(counts) and sum(lengths) == len(corners):
        maps, placed = [], []
        for (rows, columns), count, part in zip(sizes, counts, torch.split(corners, lengths), strict=True):
            shapes = (part[:count, 2:] - part[:count, :2]).numpy()
            maps.append({"rows": rows, "columns": columns, "shapes": shapes.round(8).tolist()})
            placed.append(place_in_cells([shapes], [(rows, columns)]))
        if torch.allclose(torch.cat(placed).double(), corners, rtol=0, atol=1e-6):
            return {"maps": maps}
    return {"boxes": corners.numpy().round(8).tolist()}
