"""One street scene: a pure function of seed, split and index."""

from dataclasses import dataclass
from random import Random

import numpy as np

from streets.drawing.camera import random_camera, random_light, vary
from streets.drawing.canvas import Canvas, Outline
from streets.drawing.photo_effects import photograph
from streets.drawing_order import shadows
from streets.layout import random_street
from streets.objects.background import ground, sky, skyline
from streets.placement import place_objects

_MIN_SIDE = 32


@dataclass(frozen=True)
class Scene:
    """An image and its ground truth, in the encodings of Cityscapes.

    `image` uint8 [H, W, 3] RGB; `label_ids` uint8 [H, W]; `instance_ids` uint16 [H, W] (id * 1000 + n for
    classes with instances, else the label id); `polygons` in drawing order, back to front; `owners` uint16
    [H, W]: the index in `polygons` of the object that is visible at each pixel.
    """

    image: np.ndarray
    label_ids: np.ndarray
    instance_ids: np.ndarray
    polygons: list[Outline]
    owners: np.ndarray


def draw_scene(seed: int, index: int, size: tuple[int, int] = (128, 256), *, split: str = "train") -> Scene:
    """Draw scene `index` of a split at `size` (height, width). The layout does not depend on the size.

    Raises:
        ValueError: if the size is below 32x32.
    """
    if min(size) < _MIN_SIDE:
        raise ValueError(f"size must be at least {_MIN_SIDE}x{_MIN_SIDE} pixels, got {size[0]}x{size[1]}")
    rng = Random(f"{seed}/{split}/{index}")
    street = random_street(rng)
    canvas = Canvas(size=size, camera=random_camera(rng, size=size), light=random_light(rng))
    items = place_objects(rng, street)
    sky(canvas, rng)
    ground(canvas, rng, street)
    canvas.cast_shadows(list(shadows(street, canvas.light, items)), blur=0.006)
    skyline(canvas, rng, street)
    for item in items:
        item.draw(canvas)
    if rng.random() < 0.25:
        _hood(canvas, rng)
    return Scene(
        photograph(canvas, rng), canvas.label_ids(), canvas.instance_ids(), canvas.outlines, canvas.owners
    )


def _hood(canvas: Canvas, rng: Random) -> None:
    """The hood of the car that carries the camera; its class is not evaluated."""
    height, width = canvas.size
    rise = rng.uniform(0.06, 0.11) * height
    u = np.linspace(-1, 1, 13)
    top = height - rise * (1 - 0.75 * u**4)
    middle = canvas.camera.center
    edge = np.stack([middle + u * width * 0.42, top], axis=-1)
    foot = np.array([(middle + width * 0.42, height + 1), (middle - width * 0.42, height + 1)])
    color = vary(rng, rng.choice(((46, 50, 58), (120, 124, 130), (70, 30, 36), (34, 54, 90))))
    with canvas.object("ego vehicle"):
        canvas.paint_part_pixels(np.concatenate([edge, foot]), color)
    down = np.array((0.0, rise))
    gloss = np.concatenate([edge[2:-2] + 0.1 * down, edge[-3:1:-1] + 0.34 * down])
    canvas.paint_pixels(gloss, (color[0] + 40, color[1] + 42, color[2] + 46))
