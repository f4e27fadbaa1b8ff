"""Traffic: vehicles in the lanes and on the cross street, parked cars and bikes, riders."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random

from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Plane, Pose
from streets.drawing_order import SceneItem, small_item
from streets.layout import PARKING_M, Side, Street
from streets.objects import people, two_wheelers, vehicles
from streets.objects.vehicle_body import Vehicle

AWAY, TOWARD = math.pi / 2, -math.pi / 2
_LARGE_VEHICLES = {"truck": vehicles.truck, "bus": vehicles.bus, "train": vehicles.tram}


def _vehicle_item(street: Street, vehicle: Vehicle, from_middle: float) -> SceneItem:
    z = float(vehicle.footprint[:, 2].min())
    return SceneItem((street.block(z), from_middle, z), vehicle.draw, vehicle.footprint)


def vehicle_traffic(rng: Random, street: Street, featured: set[str]) -> Iterator[SceneItem]:
    """Vehicles in the lanes, on the cross street and parked at the curbs; `featured` names the large ones."""
    large = [name for name in _LARGE_VEHICLES if name in featured]
    rng.shuffle(large)
    queues: dict[float, list[str]] = {lane: [] for lane in street.lanes}
    crossing = "car" if street.cross_street and rng.random() < 0.6 else None
    for name in large:
        if street.cross_street and crossing in (None, "car") and rng.random() < 0.4:
            crossing = name
        else:
            queues[-street.lane_m if name == "train" else rng.choice(street.lanes)].append(name)
    for lane, queue in queues.items():
        yield from _queue(rng, street, lane, queue)
    if street.cross_street and crossing:
        way = rng.choice((0.0, math.pi))
        z = sum(street.cross_street) / 2 + (-1.6 if way else 1.6)
        pose = Pose(rng.uniform(-7, 7), z, way + rng.uniform(-0.12, 0.12))
        yield _vehicle_item(street, _LARGE_VEHICLES.get(crossing, vehicles.car)(rng, pose), 0.0)
    for side in street.sides:
        if side.has_parked_cars:
            yield from _parked(rng, street, side)


def _queue(rng: Random, street: Street, lane: float, queue: list[str]) -> Iterator[SceneItem]:
    """The vehicles of one lane from near to far: first those in `queue`, then cars."""
    near = rng.uniform(8, 15) if queue else rng.uniform(9, 26)
    while near < 48:
        name = queue.pop(0) if queue else "car"
        vehicle = _LARGE_VEHICLES.get(name, vehicles.car)(rng, Pose(0, 0, 0))
        x, z = lane + rng.uniform(-0.25, 0.25), near + vehicle.length / 2
        vehicle = replace(vehicle, pose=Pose(x, z, TOWARD if lane < 0 else AWAY))
        yield _vehicle_item(street, vehicle, abs(lane))
        near += vehicle.length + (rng.uniform(2, 5) if queue else rng.uniform(3, 26))


def _parked(rng: Random, street: Street, side: Side) -> Iterator[SceneItem]:
    z = rng.uniform(6, 12)
    x = side.sign * (side.curb - PARKING_M / 2 + 0.05)
    while z < 50:
        clear = street.cross_street is None or not street.cross_street[0] - 8 < z < street.cross_street[1] + 6
        if clear and rng.random() < 0.75:
            yield _vehicle_item(
                street, vehicles.car(rng, Pose(x, z, AWAY if side.sign > 0 else TOWARD)), abs(x)
            )
        z += rng.uniform(5.4, 7.0)


def riders(rng: Random, street: Street, featured: set[str]) -> Iterator[SceneItem]:
    """Cyclists and motorcyclists, near the curb or in the camera's lane, many of them turning or crossing."""
    for kind in ("cyclist", "motorcyclist"):
        if kind not in featured:
            continue
        for _ in range(rng.choice((1, 1, 2))):
            side = rng.choice(street.sides)
            x = side.sign * (side.lane_edge - rng.uniform(0.5, 1.3))
            if rng.random() < 0.3:
                x = rng.uniform(-2, 1.5)
            z = rng.uniform(5.5, 13) + abs(x) * 0.5
            yield small_item(street, x, z, _rider(rng, kind == "motorcyclist", x, z), radius_m=0.8)


def _rider(rng: Random, motorized: bool, x: float, z: float) -> Callable[[Canvas], None]:
    end_on = rng.random() < 0.35
    yaw = rng.choice((0.0, math.pi)) + rng.uniform(-0.75, 0.75)

    def draw(canvas: Canvas) -> None:
        plane = Plane(x, z) if end_on else Plane(x, z, yaw)
        if end_on and motorized:
            two_wheelers.motorcycle_end_on(canvas, rng, plane, rear=x > -1.6)
        elif end_on:
            two_wheelers.bicycle_end_on(canvas, rng, plane)
        else:
            (two_wheelers.motorcycle if motorized else two_wheelers.bicycle)(canvas, rng, plane)
        if end_on:
            people.rider_end_on(canvas, rng, plane)
        else:
            people.rider(canvas, rng, plane, motorized=motorized)

    return draw


def parked_bikes(rng: Random, street: Street, featured: set[str]) -> Iterator[SceneItem]:
    """Groups of bicycles or motorcycles on the sidewalk, with their sides toward the camera."""
    for kind, draw in (("bicycle", two_wheelers.bicycle), ("motorcycle", two_wheelers.motorcycle)):
        if kind in featured:
            side = rng.choice(street.sides)
            yaw = rng.choice((0.0, math.pi)) + rng.uniform(-0.5, 0.5)
            out = side.curb + rng.uniform(0.6, 1.3)
            z = out * 1.1 + rng.uniform(2.5, 9)
            for _ in range(rng.choice((1, 2, 3))):
                plane = Plane(side.sign * out, z, yaw + rng.uniform(-0.1, 0.1))
                yield small_item(street, plane.x, z, partial(draw, rng=rng, plane=plane), radius_m=0.8)
                z += rng.uniform(1.0, 2.2)
