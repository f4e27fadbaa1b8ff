"""Sky, ground and skyline: everything that the things stand on or before."""

import math
from random import Random

import cv2
import numpy as np

from streets.buildings import facade_across
from streets.camera import NEAR_M, Color, scaled, vary
from streets.canvas import SUPERSAMPLE, Canvas
from streets.greenery import tree
from streets.plan import FAR_M, Side, Street
from streets.shapes import Card

MARKING: Color = (232, 232, 224)
_HORIZON_M = 400.0


def sky(canvas: Canvas, rng: Random) -> None:
    """A gradient from the zenith to the skyline, with soft clouds."""
    height, width = canvas.size
    light = canvas.light
    with canvas.object("sky"):
        canvas.fill_pixels(
            np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64), light.skyline
        )
    rows = np.clip(np.linspace(0, height / canvas.camera.horizon, height), 0, 1)[:, None, None] ** 1.3
    picture = np.broadcast_to(
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
    picture = picture * (1 - clouds) + np.array(light.cloud) * clouds
    canvas.pixels[:] = cv2.resize(picture.astype(np.uint8), canvas.pixels.shape[1::-1])


def ground(canvas: Canvas, rng: Random, street: Street) -> None:
    """Grass, pavements, kerbs and the road with its markings, fading into the haze."""
    with canvas.object("terrain"):
        _strip(canvas, -90, 90, vary(rng, (122, 142, 70), 10))
    pavement = vary(rng, rng.choice(((186, 168, 154), (178, 160, 160), (196, 184, 162))), 7)
    for side in street.sides:
        _pavement(canvas, rng, side, pavement)
    asphalt = vary(rng, (94, 94, 102), 12)
    left, right = -street.left.kerb, street.right.kerb
    with canvas.object("road"):
        _strip(canvas, left, right, asphalt)
        if street.crossing:
            near, far = street.crossing
            canvas.fill(((-90, 0, near), (90, 0, near), (90, 0, far), (-90, 0, far)), asphalt)
    _patches(canvas, rng, left, right, asphalt)
    for side in street.sides:
        if side.bay:
            _bay(canvas, side, scaled(asphalt, 1.18))
    _markings(canvas, rng, street)
    _haze(canvas)


def _strip(
    canvas: Canvas, x0: float, x1: float, color: Color, z0: float = NEAR_M, z1: float = _HORIZON_M
) -> None:
    canvas.fill(((x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)), color)


def _flat(x0: np.ndarray, z0: np.ndarray, x1: np.ndarray, z1: np.ndarray) -> np.ndarray:
    """[m, 4, 3] rectangles on the ground."""
    zero = np.zeros_like(x0)
    corners = ((x0, zero, z0), (x1, zero, z0), (x1, zero, z1), (x0, zero, z1))
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)


def _pavement(canvas: Canvas, rng: Random, side: Side, color: Color) -> None:
    s, inner, outer = side.sign, side.kerb + side.verge, side.front
    with canvas.object("sidewalk"):
        _strip(canvas, s * side.kerb, s * (outer + 0.3), color)
    z = np.concatenate([np.arange(2.0, 14, 1.0), np.arange(14, 40, 2.0)])
    canvas.paint(_flat(z * 0 + s * inner, z, z * 0 + s * outer, z + 0.05 + z * 0.004), scaled(color, 0.86))
    x = np.arange(inner + 0.9, outer, 0.9) * s
    if len(x):
        canvas.paint(_flat(x, x * 0 + NEAR_M, x + 0.05, x * 0 + 50), scaled(color, 0.86))
    if side.verge:
        with canvas.object("terrain"):
            _strip(canvas, s * (side.kerb + 0.25), s * inner, vary(rng, (126, 146, 66), 10))
    canvas.paint(_one(s * side.kerb, s * (side.kerb + 0.22)), scaled(color, 1.16))
    canvas.paint(_one(s * (side.kerb - 0.12), s * side.kerb), scaled(color, 0.5))


def _one(x0: float, x1: float) -> tuple[tuple[float, float, float], ...]:
    return ((x0, 0, NEAR_M), (x1, 0, NEAR_M), (x1, 0, 120), (x0, 0, 120))


def _bay(canvas: Canvas, side: Side, color: Color) -> None:
    """A parking bay of its own class, with a white edge."""
    edge = side.lane_edge
    with canvas.object("parking"):
        _strip(canvas, side.sign * (edge + 0.1), side.sign * side.kerb, color)
    z = np.arange(3.0, 40.0, 6.0)
    x0, x1 = (np.full_like(z, side.sign * x) for x in (edge, side.kerb))
    canvas.paint(_flat(x0, z, x1, z + 0.16), MARKING)


def _patches(canvas: Canvas, rng: Random, left: float, right: float, asphalt: Color) -> None:
    """Repairs and manholes."""
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
    if street.crossing:
        near, far = street.crossing
        z = z[(z + 3 < near - 4) | (z > far + 4)]
    for lane in street.lanes[1:]:
        x = np.full_like(z, lane + math.copysign(half, -lane) - 0.07)
        canvas.paint(_flat(x, z, x + 0.15, z + 3), MARKING)
    for side in street.sides:
        if rng.random() < 0.5:
            edge = side.sign * (side.lane_edge - 0.12)
            canvas.paint(_one(edge - 0.06, edge + 0.06), MARKING)
    if street.rails is not None:
        for rail in (street.rails - 0.72, street.rails + 0.72):
            canvas.paint(_one(rail - 0.2, rail + 0.2), (112, 104, 98))
            canvas.paint(_one(rail - 0.06, rail + 0.06), (188, 192, 198))
    if street.crossing:
        _zebra(canvas, street, street.crossing[0] - 3.2)
        _zebra(canvas, street, street.crossing[1] + 0.6)
        stop = street.crossing[0] - 4.2
        canvas.paint(
            ((-half, 0, stop), (half, 0, stop), (half, 0, stop + 0.4), (-half, 0, stop + 0.4)), MARKING
        )


def _zebra(canvas: Canvas, street: Street, z: float) -> None:
    x = np.arange(-street.left.kerb + 0.4, street.right.kerb - 0.5, 1.0)
    canvas.paint(_flat(x, x * 0 + z, x + 0.5, x * 0 + z + 2.6), MARKING)


def _haze(canvas: Canvas) -> None:
    """The ground pales towards the horizon."""
    camera, light = canvas.camera, canvas.light
    top = math.ceil(camera.horizon * SUPERSAMPLE)
    below = np.arange(top, canvas.pixels.shape[0]) + 0.5 - camera.horizon * SUPERSAMPLE
    depth = camera.focal * SUPERSAMPLE * camera.height_m / np.maximum(below, 0.25)
    clear = np.exp(-depth / light.visibility_m)[:, None, None].astype(np.float32)
    hazy = canvas.pixels[top:] * clear + (1 - clear) * np.array(light.skyline, np.float32)
    canvas.pixels[top:] = hazy.astype(np.uint8)


def skyline(canvas: Canvas, rng: Random, street: Street) -> None:
    """What closes the view: far houses and trees on either side, and now and then across the street."""
    closed = rng.random() < 0.35
    x = -45.0
    while x < 45.0:
        wide = rng.uniform(9, 18)
        middle = -street.left.front < x + wide / 2 < street.right.front
        if closed or not middle or rng.random() < 0.3:
            if rng.random() < 0.6:
                facade_across(canvas, rng, x0=x, x1=x + wide, z=FAR_M + 12, tall=rng.uniform(7, 15))
            else:
                for _ in range(2):
                    tree(canvas, rng, Card(x + rng.uniform(0, wide), FAR_M + 8), tall=rng.uniform(6, 11))
        x += wide
