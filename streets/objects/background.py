"""Sky, ground and skyline: the background of all other objects."""

import math
from random import Random

import cv2
import numpy as np

from streets.drawing.camera import NEAR_M, Color, scaled, vary
from streets.drawing.canvas import SUPERSAMPLE, Canvas
from streets.drawing.shapes import Plane
from streets.layout import FAR_M, Side, Street
from streets.objects.buildings import facade_across
from streets.objects.vegetation import tree

MARKING: Color = (232, 232, 224)
_HORIZON_M = 400.0


def sky(canvas: Canvas, rng: Random) -> None:
    """A gradient from the zenith to the skyline, with soft clouds."""
    height, width = canvas.size
    light = canvas.light
    with canvas.object("sky"):
        canvas.paint_part_pixels(
            np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64), light.skyline
        )
    rows = np.clip(np.linspace(0, height / canvas.camera.horizon, height), 0, 1)[:, None, None] ** 1.3
    image = np.broadcast_to(
        (1 - rows) * np.array(light.zenith) + rows * np.array(light.skyline), (height, width, 3)
    )
    clouds = np.zeros(canvas.size, np.float32)
    for _ in range(rng.randint(2, 5)):
        center = (rng.uniform(0, 1) * width, rng.uniform(0.0, 0.85) * canvas.camera.horizon)
        for _ in range(rng.randint(4, 7)):
            at = (int(center[0] + rng.gauss(0, 0.11) * width), int(center[1] + rng.gauss(0, 0.025) * height))
            radii = (int(rng.uniform(0.05, 0.13) * width), max(1, int(rng.uniform(0.015, 0.045) * height)))
            cv2.ellipse(clouds, at, radii, 0, 0, 360, rng.uniform(0.5, 1.0), -1)
    clouds = cv2.GaussianBlur(clouds, (0, 0), 0.022 * height)[..., None] * light.cloudiness
    image = image * (1 - clouds) + np.array(light.cloud) * clouds
    canvas.pixels[:] = cv2.resize(image.astype(np.uint8), canvas.pixels.shape[1::-1])


def ground(canvas: Canvas, rng: Random, street: Street) -> None:
    """Grass, sidewalks, curbs and the road with its markings, fading into the haze."""
    with canvas.object("terrain"):
        _strip(canvas, -90, 90, vary(rng, (122, 142, 70), 10))
    sidewalk = vary(rng, rng.choice(((186, 168, 154), (178, 160, 160), (196, 184, 162))), 7)
    for side in street.sides:
        _sidewalk(canvas, rng, side, sidewalk)
    asphalt = vary(rng, (94, 94, 102), 12)
    left, right = -street.left.curb, street.right.curb
    with canvas.object("road"):
        _strip(canvas, left, right, asphalt)
        if street.cross_street:
            near, far = street.cross_street
            canvas.paint_part(((-90, 0, near), (90, 0, near), (90, 0, far), (-90, 0, far)), asphalt)
    _patches(canvas, rng, left, right, asphalt)
    for side in street.sides:
        if side.parking_bay:
            _parking_bay(canvas, side, scaled(asphalt, 1.18))
    _markings(canvas, rng, street)
    _fade(canvas)


def _strip(
    canvas: Canvas, x0: float, x1: float, color: Color, z0: float = NEAR_M, z1: float = _HORIZON_M
) -> None:
    canvas.paint_part(((x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)), color)


def _ground_rectangles(x0: np.ndarray, z0: np.ndarray, x1: np.ndarray, z1: np.ndarray) -> np.ndarray:
    """[m, 4, 3]: rectangles on the ground."""
    zero = np.zeros_like(x0)
    corners = ((x0, zero, z0), (x1, zero, z0), (x1, zero, z1), (x0, zero, z1))
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)


def _sidewalk(canvas: Canvas, rng: Random, side: Side, color: Color) -> None:
    s, inner, outer = side.sign, side.curb + side.grass_strip, side.house_line
    with canvas.object("sidewalk"):
        _strip(canvas, s * side.curb, s * (outer + 0.3), color)
    z = np.concatenate([np.arange(2.0, 14, 1.0), np.arange(14, 40, 2.0)])
    canvas.paint(
        _ground_rectangles(z * 0 + s * inner, z, z * 0 + s * outer, z + 0.05 + z * 0.004), scaled(color, 0.86)
    )
    x = np.arange(inner + 0.9, outer, 0.9) * s
    if len(x):
        canvas.paint(_ground_rectangles(x, x * 0 + NEAR_M, x + 0.05, x * 0 + 50), scaled(color, 0.86))
    if side.grass_strip:
        with canvas.object("terrain"):
            _strip(canvas, s * (side.curb + 0.25), s * inner, vary(rng, (126, 146, 66), 10))
    canvas.paint(_line(s * side.curb, s * (side.curb + 0.22)), scaled(color, 1.16))
    canvas.paint(_line(s * (side.curb - 0.12), s * side.curb), scaled(color, 0.5))


def _line(x0: float, x1: float) -> tuple[tuple[float, float, float], ...]:
    """A line along the street, from `x0` to `x1`."""
    return ((x0, 0, NEAR_M), (x1, 0, NEAR_M), (x1, 0, 120), (x0, 0, 120))


def _parking_bay(canvas: Canvas, side: Side, color: Color) -> None:
    """A parking bay, which has its own class, with white lines between the spaces."""
    edge = side.lane_edge
    with canvas.object("parking"):
        _strip(canvas, side.sign * (edge + 0.1), side.sign * side.curb, color)
    z = np.arange(3.0, 40.0, 6.0)
    x0, x1 = (np.full_like(z, side.sign * x) for x in (edge, side.curb))
    canvas.paint(_ground_rectangles(x0, z, x1, z + 0.16), MARKING)


def _patches(canvas: Canvas, rng: Random, left: float, right: float, asphalt: Color) -> None:
    """Repaired asphalt and manhole covers."""
    for _ in range(rng.randint(0, 4)):
        x, z = rng.uniform(left, right - 1), rng.uniform(4, 25)
        wide, long = rng.uniform(0.7, 1.6), rng.uniform(1, 6)
        patch = ((x, 0, z), (x + wide, 0, z), (x + wide, 0, z + long), (x, 0, z + long))
        canvas.paint(patch, asphalt, shade=rng.choice((0.86, 0.92, 1.1)))
    for _ in range(rng.randint(0, 2)):
        x, z = rng.uniform(left, right), rng.uniform(5, 16)
        angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
        lid = np.stack([x + 0.35 * np.cos(angles), angles * 0, z + 0.35 * np.sin(angles)], axis=-1)
        canvas.paint(lid, scaled(asphalt, 0.62))


def _markings(canvas: Canvas, rng: Random, street: Street) -> None:
    half = street.lane_m / 2
    z = np.arange(3.0 + rng.uniform(0, 3), 70, rng.choice((4.5, 6.0)))
    if street.cross_street:
        near, far = street.cross_street
        z = z[(z + 3 < near - 4) | (z > far + 4)]
    for lane in street.lanes[1:]:
        x = np.full_like(z, lane + math.copysign(half, -lane) - 0.07)
        canvas.paint(_ground_rectangles(x, z, x + 0.15, z + 3), MARKING)
    for side in street.sides:
        if rng.random() < 0.5:
            edge = side.sign * (side.lane_edge - 0.12)
            canvas.paint(_line(edge - 0.06, edge + 0.06), MARKING)
    if street.rails is not None:
        for rail in (street.rails - 0.72, street.rails + 0.72):
            canvas.paint(_line(rail - 0.2, rail + 0.2), (112, 104, 98))
            canvas.paint(_line(rail - 0.06, rail + 0.06), (188, 192, 198))
    if street.cross_street:
        _crosswalk(canvas, street, street.cross_street[0] - 3.2)
        _crosswalk(canvas, street, street.cross_street[1] + 0.6)
        stop = street.cross_street[0] - 4.2
        canvas.paint(
            ((-half, 0, stop), (half, 0, stop), (half, 0, stop + 0.4), (-half, 0, stop + 0.4)), MARKING
        )


def _crosswalk(canvas: Canvas, street: Street, z: float) -> None:
    x = np.arange(-street.left.curb + 0.4, street.right.curb - 0.5, 1.0)
    canvas.paint(_ground_rectangles(x, x * 0 + z, x + 0.5, x * 0 + z + 2.6), MARKING)


def _fade(canvas: Canvas) -> None:
    """Fade the ground into the haze toward the horizon."""
    camera, light = canvas.camera, canvas.light
    top = math.ceil(camera.horizon * SUPERSAMPLE)
    below = np.arange(top, canvas.pixels.shape[0]) + 0.5 - camera.horizon * SUPERSAMPLE
    depth = camera.focal * SUPERSAMPLE * camera.height_m / np.maximum(below, 0.25)
    clear = np.exp(-depth / light.visibility_m)[:, None, None].astype(np.float32)
    hazy = canvas.pixels[top:] * clear + (1 - clear) * np.array(light.skyline, np.float32)
    canvas.pixels[top:] = hazy.astype(np.uint8)


def skyline(canvas: Canvas, rng: Random, street: Street) -> None:
    """Distant houses and trees on both sides, sometimes also straight ahead, where they close the view."""
    closed = rng.random() < 0.35
    x = -45.0
    while x < 45.0:
        wide = rng.uniform(9, 18)
        middle = -street.left.house_line < x + wide / 2 < street.right.house_line
        if closed or not middle or rng.random() < 0.3:
            if rng.random() < 0.6:
                facade_across(canvas, rng, x0=x, x1=x + wide, z=FAR_M + 12, tall=rng.uniform(7, 15))
            else:
                for _ in range(2):
                    tree(canvas, rng, Plane(x + rng.uniform(0, wide), FAR_M + 8), tall=rng.uniform(6, 11))
        x += wide
