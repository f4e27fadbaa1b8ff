"""The items of a scene, the order in which they are drawn (back to front), and their shadows."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from streets.drawing.camera import NEAR_M, Light
from streets.drawing.canvas import Canvas
from streets.layout import FAR_M, Street


@dataclass(frozen=True)
class SceneItem:
    """Something to draw. Items are drawn in descending `order`: (block, distance from the middle, z).

    Within a block the camera's rays run outward, so an item farther from the middle of the street never hides
    one nearer to it; between items equally far from the middle, z decides. `shadow` is the item's outline on
    the ground, [n, 3].
    """

    order: tuple[float, float, float]
    draw: Callable[[Canvas], None]
    shadow: np.ndarray | None = None


def small_item(
    street: Street, x: float, z: float, draw: Callable[[Canvas], None], *, radius_m: float = 0.4
) -> SceneItem:
    """An item with a small base, such as a post, and a round shadow of radius `radius_m`."""
    block = street.block(z)
    from_middle = 0.0 if block == 1 or abs(x) < street.lane_m / 2 else abs(x)
    angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
    shadow = np.stack(
        [x + radius_m * np.cos(angles), angles * 0, z + radius_m * 0.8 * np.sin(angles)], axis=-1
    )
    return SceneItem((block, from_middle, z), draw, shadow)


def shadows(street: Street, light: Light, items: list[SceneItem]) -> Iterator[np.ndarray]:
    """The shadows on the ground, [n, 3] each: below the items, in sunlight also to one side and of houses."""
    reach = np.array((-light.sun[0] * 1.6, 0.0, 0.0)) if light.name == "sun" else np.zeros(3)
    for item in items:
        if item.shadow is not None:
            swept = np.concatenate([item.shadow, item.shadow + reach])[:, ::2].astype(np.float32)
            hull = cv2.convexHull(swept)[:, 0]
            yield np.stack([hull[:, 0], hull[:, 0] * 0, hull[:, 1]], axis=-1)
    if light.name == "sun":  # the houses on the sun's side
        side = street.right if light.sun[0] > 0 else street.left
        x0, x1 = side.sign * (side.house_line + 1), side.sign * (side.house_line - 9 * abs(light.sun[0]))
        near, far = street.cross_street or (FAR_M, FAR_M)
        for z0, z1 in ((NEAR_M, near), (far + 1, FAR_M + 10)):
            yield np.array(((x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)))
