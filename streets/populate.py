"""Who and what is in the street: every thing as an item that knows its place in the painter's order."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from streets import buildings, furniture, greenery, people, vehicles
from streets.camera import Light
from streets.canvas import Canvas
from streets.plan import FAR_M, PARKING_M, Side, Street
from streets.shapes import Card, Pose

# How often a scene invites each of the rarer guests; some end up hidden, so more are asked than are seen.
GUESTS = {
    "truck": 0.36, "bus": 0.36, "train": 0.36, "cyclist": 0.38, "biker": 0.3, "bicycle": 0.4, "motorcycle": 0.32,
    "wall": 0.46, "fence": 0.46, "traffic light": 0.4, "bush": 0.3,
}  # fmt: skip
AWAY, TOWARDS = math.pi / 2, -math.pi / 2


@dataclass(frozen=True)
class Item:
    """`order` sorts back to front: (block, band, z), all descending.

    Within a block the camera's rays run outwards, so what stands farther from the street's middle (`band`) never
    hides what stands nearer to it; within a band, distance decides.
    """

    order: tuple[float, float, float]
    draw: Callable[[Canvas], None]
    shadow: np.ndarray | None = None


def populate(rng: Random, street: Street) -> list[Item]:
    """All items of a scene, back to front."""
    guests = {name for name, share in GUESTS.items() if rng.random() < share}
    items = [*_frontage(rng, street, guests), *_traffic(rng, street, guests), *_riders(rng, street, guests)]
    for side in street.sides:
        items += _pavement(rng, street, side)
    items += _parked_bikes(rng, street, guests)
    if street.crossing or "traffic light" in guests:
        items += _lights(rng, street)
    return sorted(items, key=lambda item: item.order, reverse=True)


def shadows(street: Street, light: Light, items: list[Item]) -> Iterator[np.ndarray]:
    """What lies on the ground before anything stands on it; in the sun it reaches to one side."""
    reach = np.array((-light.sun[0] * 1.6, 0.0, 0.0)) if light.name == "sun" else np.zeros(3)
    for item in items:
        if item.shadow is not None:
            hull = np.concatenate([item.shadow, item.shadow + reach])[:, ::2].astype(np.float32)
            hull = cv2.convexHull(hull)[:, 0]
            yield np.stack([hull[:, 0], hull[:, 0] * 0, hull[:, 1]], axis=-1)
    if light.name == "sun":  # the houses on the sun's side
        side = street.right if light.sun[0] > 0 else street.left
        x0, x1 = side.sign * (side.front + 1), side.sign * (side.front - 9 * abs(light.sun[0]))
        for z0, z1 in (
            ((1.2, 90.0),)
            if street.crossing is None
            else ((1.2, street.crossing[0]), (street.crossing[1] + 1, 90.0))
        ):
            yield np.array(((x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)))


def _small(
    street: Street, x: float, z: float, draw: Callable[[Canvas], None], *, round_m: float = 0.4
) -> Item:
    """An item on a small footprint, with a round shadow."""
    block = street.block(z)
    band = 0.0 if block == 1 or abs(x) < street.lane_m / 2 else abs(x)
    angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
    flat = np.stack([x + round_m * np.cos(angles), angles * 0, z + round_m * 0.8 * np.sin(angles)], axis=-1)
    return Item((block, band, z), draw, flat)


def _frontage(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    """Houses and gardens along both sides, from near to far; the guests wall and fence where one sees them."""
    wanted = [kind for kind in ("wall", "fence") if kind in guests]
    sides = list(street.sides)
    rng.shuffle(sides)
    for i, side in enumerate(sides):
        first = wanted[i : i + 1] if len(wanted) > 1 else (wanted if i == 0 else [])
        z, hidden = 2.5, False
        tall = rng.uniform(7, 15)
        while z < FAR_M:
            end = z + rng.uniform(8, 15)
            kind = "house" if rng.random() < 0.68 else rng.choice(("hedge", "open", "wall", "fence"))
            if z == 2.5:
                end = side.front * 1.25 + rng.uniform(5, 11)
                kind = first[0] if first else kind
            if street.crossing and z < street.crossing[1] and end > street.crossing[0] - 1:
                end = max(z + 1, street.crossing[0] - rng.uniform(0.5, 2))
            tall = min(18, max(5.5, tall + rng.uniform(-3, 3)))
            yield Item((street.block(z), 99.0, z), _plot(rng, side, kind, z, end, tall, hidden))
            hidden = kind == "house"
            z = end if rng.random() < 0.75 else end + rng.uniform(1, 3)
            if street.crossing and street.crossing[0] - 4 < z < street.crossing[1]:
                z, hidden = street.crossing[1] + rng.uniform(0.8, 2), False


def _plot(
    rng: Random, side: Side, kind: str, z0: float, z1: float, tall: float, hidden: bool
) -> Callable[[Canvas], None]:
    """One plot: a house, or a garden behind its edging; a house's gable is `hidden` by the one before it."""
    x = side.sign * side.front
    trees = [
        (rng.uniform(1.5, 9), rng.uniform(z0, z1), rng.uniform(4.5, 8.5)) for _ in range(rng.randint(1, 4))
    ]

    def draw(canvas: Canvas) -> None:
        if kind == "house":
            buildings.house(canvas, rng, x=x, z0=z0, z1=z1, side=side.sign, tall=tall, open_gable=not hidden)
            return
        if rng.random() < 0.5:  # a house at the back of the garden
            back = side.front + rng.uniform(10, 14)
            buildings.house(
                canvas, rng, x=side.sign * back, z0=z0, z1=z1, side=side.sign, tall=tall * 0.7, deep=20
            )
        for out, z, high in sorted(trees, key=lambda t: -t[1]):
            greenery.tree(canvas, rng, Card(x + side.sign * out, z), tall=high)
        if kind == "wall":
            buildings.wall(canvas, rng, x=x, z0=z0, z1=z1, side=side.sign)
        elif kind == "fence":
            buildings.fence(canvas, rng, x=x, z0=z0, z1=z1, tall=rng.uniform(1.2, 1.9))
        elif kind == "hedge":
            greenery.hedge(canvas, rng, x, z0, z1, tall=rng.uniform(0.9, 1.6))

    return draw


def _vehicle(street: Street, vehicle: vehicles.Vehicle, band: float) -> Item:
    z = float(vehicle.footprint[:, 2].min())
    return Item((street.block(z), band, z), vehicle.draw, vehicle.footprint)


def _traffic(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    """Queues in the lanes, rows at the kerbs, and what crosses."""
    makers = {"truck": vehicles.truck, "bus": vehicles.bus, "train": vehicles.tram}
    big = [name for name in makers if name in guests]
    rng.shuffle(big)
    queues: dict[float, list[str]] = {lane: [] for lane in street.lanes}
    crossing: list[str] = []
    for name in big:
        if street.crossing and not crossing and rng.random() < 0.4:
            crossing.append(name)
        else:
            lane = -street.lane_m if name == "train" else rng.choice(street.lanes)
            queues[lane].append(name)
    for lane, queue in queues.items():
        near = rng.uniform(8, 15) if queue else rng.uniform(9, 26)
        while near < 55:
            name = queue.pop(0) if queue else "car"
            vehicle = makers.get(name, vehicles.car)(rng, Pose(0, 0, 0))
            pose = Pose(
                lane + rng.uniform(-0.25, 0.25), near + vehicle.length / 2, TOWARDS if lane < 0 else AWAY
            )
            vehicle.pose = pose
            yield _vehicle(street, vehicle, abs(lane))
            near += vehicle.length + (rng.uniform(2, 5) if queue else rng.uniform(3, 26))
    if street.crossing and (crossing or rng.random() < 0.6):
        way = rng.choice((0.0, math.pi))
        z = sum(street.crossing) / 2 + (-1.6 if way else 1.6)
        maker = makers.get(crossing[0] if crossing else "car", vehicles.car)
        yield _vehicle(street, maker(rng, Pose(rng.uniform(-7, 7), z, way + rng.uniform(-0.12, 0.12))), 0.0)
    for side in street.sides:
        if side.parked:
            yield from _parked(rng, street, side)


def _parked(rng: Random, street: Street, side: Side) -> Iterator[Item]:
    z = rng.uniform(6, 12)
    x = side.sign * (side.kerb - PARKING_M / 2 + 0.05)
    while z < 50:
        clear = street.crossing is None or not street.crossing[0] - 8 < z < street.crossing[1] + 6
        if clear and rng.random() < 0.75:
            yield _vehicle(street, vehicles.car(rng, Pose(x, z, AWAY if side.sign > 0 else TOWARDS)), abs(x))
        z += rng.uniform(5.4, 7.0)


def _riders(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    for guest in ("cyclist", "biker"):
        if guest not in guests:
            continue
        for _ in range(rng.choice((1, 1, 2))):
            side = rng.choice(street.sides)
            x = (
                side.sign * (side.lane_edge - rng.uniform(0.5, 1.3))
                if rng.random() < 0.7
                else rng.uniform(-2, 1.5)
            )
            z = rng.uniform(5.5, 13) + abs(x) * 0.5
            yield _small(street, x, z, _rider(rng, guest == "biker", x, z), round_m=0.8)


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


def _parked_bikes(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    for guest, draw in (("bicycle", people.bicycle), ("motorcycle", people.motorcycle)):
        if guest in guests:
            side = rng.choice(street.sides)
            yaw = rng.choice((0.0, math.pi)) + rng.uniform(-0.5, 0.5)
            out = side.kerb + rng.uniform(0.6, 1.3)
            z = out * 1.1 + rng.uniform(2.5, 9)
            for _ in range(rng.choice((1, 2, 3))):
                card = Card(side.sign * out, z, yaw + rng.uniform(-0.1, 0.1))
                yield _small(street, card.x, z, lambda canvas, d=draw, c=card: d(canvas, rng, c), round_m=0.8)
                z += rng.uniform(1.0, 2.2)


def _pavement(rng: Random, street: Street, side: Side) -> Iterator[Item]:
    """Lamps, trees, signs, boxes and people on one side."""

    def put(out: float, z: float, draw: Callable[[Canvas, Random, Card], None], round_m: float = 0.3) -> Item:
        card = Card(side.sign * out, z)
        return _small(street, card.x, z, lambda canvas: draw(canvas, rng, card), round_m=round_m)

    def clear(z: float) -> bool:
        return street.crossing is None or not street.crossing[0] - 0.5 < z < street.crossing[1] + 0.5

    edge = side.kerb + 0.45
    spots = [rng.uniform(6, 14) + i * rng.uniform(15, 22) for i in range(3)]
    if rng.random() < 0.75:
        towards = -side.sign
        yield from (
            put(edge, z, lambda c, r, card: furniture.lamp(c, r, card, towards=towards))
            for z in spots
            if clear(z)
        )
    if side.verge or rng.random() < 0.4:
        out, z = side.kerb + max(0.7, side.verge * 0.6), rng.uniform(7, 18)
        while z < 60:
            tall = rng.uniform(4.5, 8)
            if clear(z):
                yield put(out, z, lambda c, r, card, tall=tall: greenery.tree(c, r, card, tall=tall), 1.5)
            z += rng.uniform(8, 16)
    for _ in range(rng.choice((0, 1, 1, 2))):
        z = side.kerb * 1.2 + rng.uniform(2.5, 14)
        guide = rng.random() < 0.16
        yield put(edge + 0.8 * guide, z, furniture.guide_sign if guide else furniture.traffic_sign)
    if rng.random() < 0.35:
        yield put(edge + 0.3, side.kerb * 1.3 + rng.uniform(3, 12), furniture.bin_or_box)
    if rng.random() < 0.22:
        z, wide = side.front * 1.2 + rng.uniform(3, 9), rng.uniform(0.6, 1.2)
        yield put(
            side.front - 0.3, z, lambda c, r, card: greenery.bush(c, r, card, wide=wide, tall=wide), wide
        )
    for _ in range(rng.choice((0, 1, 2, 3, 4))):
        out = rng.uniform(side.kerb + 0.5, side.front - 0.4)
        yield put(out, out * 1.2 + rng.triangular(2, 20, 4), people.person)


def _lights(rng: Random, street: Street) -> Iterator[Item]:
    """Lights at the stop line, where pedestrians cross; without a crossing road, at a lonely crossing."""
    z = street.crossing[0] - 1.0 if street.crossing else rng.uniform(9, 15)
    arm = rng.random() < 0.4
    for side in street.sides:
        x = side.sign * (side.kerb + 0.5)
        reach = -side.sign * (side.kerb * 0.6) if arm and side.sign > 0 else 0.0
        card = Card(x, z + (0.0 if side.sign > 0 else 0.3))
        yield _small(
            street, x, z, lambda canvas, c=card, a=reach: furniture.traffic_light(canvas, rng, c, arm=a)
        )
    for _ in range(rng.choice((0, 0, 1, 2))):
        x = rng.uniform(-street.left.kerb, street.right.kerb)
        walker = Card(x, z - 1.2 + rng.uniform(-0.6, 0.6))
        yield _small(street, x, walker.z, lambda canvas, c=walker: people.person(canvas, rng, c))
