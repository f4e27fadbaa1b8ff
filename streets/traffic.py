"""What drives, rides and parks: queues in the lanes, rows at the kerbs, crossing traffic."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random

from streets import people, vehicles
from streets.canvas import Canvas
from streets.coachwork import Vehicle
from streets.order import Item, small
from streets.plan import PARKING_M, Side, Street
from streets.shapes import Card, Pose

AWAY, TOWARDS = math.pi / 2, -math.pi / 2
_MAKERS = {"truck": vehicles.truck, "bus": vehicles.bus, "train": vehicles.tram}


def _vehicle(street: Street, vehicle: Vehicle, band: float) -> Item:
    z = float(vehicle.footprint[:, 2].min())
    return Item((street.block(z), band, z), vehicle.draw, vehicle.footprint)


def traffic(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    """Queues in the lanes, rows at the kerbs, and what crosses."""
    big = [name for name in _MAKERS if name in guests]
    rng.shuffle(big)
    queues: dict[float, list[str]] = {lane: [] for lane in street.lanes}
    crossing = "car" if street.crossing and rng.random() < 0.6 else None
    for name in big:
        if street.crossing and crossing in (None, "car") and rng.random() < 0.4:
            crossing = name
        else:
            queues[-street.lane_m if name == "train" else rng.choice(street.lanes)].append(name)
    for lane, queue in queues.items():
        yield from _queue(rng, street, lane, queue)
    if street.crossing and crossing:
        way = rng.choice((0.0, math.pi))
        z = sum(street.crossing) / 2 + (-1.6 if way else 1.6)
        pose = Pose(rng.uniform(-7, 7), z, way + rng.uniform(-0.12, 0.12))
        yield _vehicle(street, _MAKERS.get(crossing, vehicles.car)(rng, pose), 0.0)
    for side in street.sides:
        if side.parked:
            yield from _parked(rng, street, side)


def _queue(rng: Random, street: Street, lane: float, queue: list[str]) -> Iterator[Item]:
    """The vehicles of one lane from near to far: those asked for first, then cars."""
    near = rng.uniform(8, 15) if queue else rng.uniform(9, 26)
    while near < 48:
        name = queue.pop(0) if queue else "car"
        vehicle = _MAKERS.get(name, vehicles.car)(rng, Pose(0, 0, 0))
        x, z = lane + rng.uniform(-0.25, 0.25), near + vehicle.length / 2
        vehicle = replace(vehicle, pose=Pose(x, z, TOWARDS if lane < 0 else AWAY))
        yield _vehicle(street, vehicle, abs(lane))
        near += vehicle.length + (rng.uniform(2, 5) if queue else rng.uniform(3, 26))


def _parked(rng: Random, street: Street, side: Side) -> Iterator[Item]:
    z = rng.uniform(6, 12)
    x = side.sign * (side.kerb - PARKING_M / 2 + 0.05)
    while z < 50:
        clear = street.crossing is None or not street.crossing[0] - 8 < z < street.crossing[1] + 6
        if clear and rng.random() < 0.75:
            yield _vehicle(street, vehicles.car(rng, Pose(x, z, AWAY if side.sign > 0 else TOWARDS)), abs(x))
        z += rng.uniform(5.4, 7.0)


def riders(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    """Cyclists and bikers near the kerb or in our way, most of them turning or crossing."""
    for guest in ("cyclist", "biker"):
        if guest not in guests:
            continue
        for _ in range(rng.choice((1, 1, 2))):
            side = rng.choice(street.sides)
            x = side.sign * (side.lane_edge - rng.uniform(0.5, 1.3))
            if rng.random() < 0.3:
                x = rng.uniform(-2, 1.5)
            z = rng.uniform(5.5, 13) + abs(x) * 0.5
            yield small(street, x, z, _rider(rng, guest == "biker", x, z), round_m=0.8)


def _rider(rng: Random, engine: bool, x: float, z: float) -> Callable[[Canvas], None]:
    end_on = rng.random() < 0.35
    yaw = rng.choice((0.0, math.pi)) + rng.uniform(-0.75, 0.75)

    def draw(canvas: Canvas) -> None:
        card = Card(x, z) if end_on else Card(x, z, yaw)
        if end_on and engine:
            people.motorcycle_end_on(canvas, rng, card, rear=x > -1.6)
        elif end_on:
            people.bicycle_end_on(canvas, rng, card)
        else:
            (people.motorcycle if engine else people.bicycle)(canvas, rng, card)
        if end_on:
            people.rider_end_on(canvas, rng, card)
        else:
            people.rider(canvas, rng, card, engine=engine)

    return draw


def parked_bikes(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    """A few of a kind on the pavement, turned so that one sees their sides."""
    for guest, draw in (("bicycle", people.bicycle), ("motorcycle", people.motorcycle)):
        if guest in guests:
            side = rng.choice(street.sides)
            yaw = rng.choice((0.0, math.pi)) + rng.uniform(-0.5, 0.5)
            out = side.kerb + rng.uniform(0.6, 1.3)
            z = out * 1.1 + rng.uniform(2.5, 9)
            for _ in range(rng.choice((1, 2, 3))):
                card = Card(side.sign * out, z, yaw + rng.uniform(-0.1, 0.1))
                yield small(street, card.x, z, partial(draw, rng=rng, card=card), round_m=0.8)
                z += rng.uniform(1.0, 2.2)
