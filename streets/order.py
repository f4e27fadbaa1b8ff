"""The painter's order: an item knows its place in it, and the shadow that it casts."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from streets.camera import NEAR_M, Light
from streets.canvas import Canvas
from streets.plan import FAR_M, Street


@dataclass(frozen=True)
class Item:
    """`order` sorts back to front: (block, band, z), all descending.

    Within a block the camera's rays run outwards, so what stands farther from the street's middle (`band`)
    never hides what stands nearer to it; within a band, distance decides.
    """

    order: tuple[float, float, float]
    draw: Callable[[Canvas], None]
    shadow: np.ndarray | None = None


def small(
    street: Street, x: float, z: float, draw: Callable[[Canvas], None], *, round_m: float = 0.4
) -> Item:
    """An item on a small footprint, with a round shadow."""
    block = street.block(z)
    band = 0.0 if block == 1 or abs(x) < street.lane_m / 2 else abs(x)
    angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
    flat = np.stack([x + round_m * np.cos(angles), angles * 0, z + round_m * 0.8 * np.sin(angles)], axis=-1)
    return Item((block, band, z), draw, flat)


def shadows(street: Street, light: Light, items: list[Item]) -> Iterator[np.ndarray]:
    """What lies on the ground before anything stands on it; in the sun it reaches to one side."""
    reach = np.array((-light.sun[0] * 1.6, 0.0, 0.0)) if light.name == "sun" else np.zeros(3)
    for item in items:
        if item.shadow is not None:
            swept = np.concatenate([item.shadow, item.shadow + reach])[:, ::2].astype(np.float32)
            hull = cv2.convexHull(swept)[:, 0]
            yield np.stack([hull[:, 0], hull[:, 0] * 0, hull[:, 1]], axis=-1)
    if light.name == "sun":  # the houses on the sun's side
        side = street.right if light.sun[0] > 0 else street.left
        x0, x1 = side.sign * (side.front + 1), side.sign * (side.front - 9 * abs(light.sun[0]))
        near, far = street.crossing or (FAR_M, FAR_M)
        for z0, z1 in ((NEAR_M, near), (far + 1, FAR_M + 10)):
            yield np.array(((x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)))
