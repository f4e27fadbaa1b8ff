"""Who and what is in the street, back to front: frontage, traffic, pavements, lights."""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from streets import buildings, furniture, greenery, people
from streets.canvas import Canvas
from streets.order import Item, small
from streets.plan import FAR_M, Side, Street
from streets.shapes import Card
from streets.traffic import parked_bikes, riders, traffic

Drawing = Callable[[Canvas, Random, Card], None]

# How often a scene invites each of the rarer guests; some end up hidden, so more are asked than are seen.
GUESTS = {
    "truck": 0.36, "bus": 0.36, "train": 0.36, "cyclist": 0.38, "biker": 0.3, "bicycle": 0.4,
    "motorcycle": 0.32, "wall": 0.46, "fence": 0.46, "traffic light": 0.4,
}  # fmt: skip

# Plots begin beside the camera, out of its sight.
_START_M = 2.5


def populate(rng: Random, street: Street) -> list[Item]:
    """All items of a scene, back to front."""
    guests = {name for name, share in GUESTS.items() if rng.random() < share}
    items = [*_frontage(rng, street, guests), *traffic(rng, street, guests), *riders(rng, street, guests)]
    for side in street.sides:
        items += _pavement(rng, street, side)
    items += parked_bikes(rng, street, guests)
    if street.crossing or "traffic light" in guests:
        items += _lights(rng, street)
    return sorted(items, key=lambda item: item.order, reverse=True)


def _frontage(rng: Random, street: Street, guests: set[str]) -> Iterator[Item]:
    """Houses and gardens along both sides; the guests wall and fence stand where one sees them."""
    wanted = [kind for kind in ("wall", "fence") if kind in guests]
    sides = list(street.sides)
    rng.shuffle(sides)
    for i, side in enumerate(sides):
        first = wanted[i : i + 1] if len(wanted) > 1 else (wanted if i == 0 else [])
        z, hidden = _START_M, False
        tall = rng.uniform(7, 15)
        while z < FAR_M:
            end = z + rng.uniform(8, 15)
            kind = "house" if rng.random() < 0.68 else rng.choice(("hedge", "open", "wall", "fence"))
            if z == _START_M:  # the plot that one sees most of
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
        (rng.uniform(1.5, 9), rng.uniform(z0, z1), rng.uniform(4.5, 8.5)) for _ in range(rng.randint(1, 3))
    ]

    def draw(canvas: Canvas) -> None:
        if kind == "house":
            buildings.house(canvas, rng, x=x, z=(z0, z1), side=side.sign, tall=tall, open_gable=not hidden)
            return
        if rng.random() < 0.5:  # a house at the back of the garden
            back = side.front + rng.uniform(10, 14)
            buildings.house(
                canvas, rng, x=side.sign * back, z=(z0, z1), side=side.sign, tall=tall * 0.7, deep=20
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


def _pavement(rng: Random, street: Street, side: Side) -> Iterator[Item]:
    """Lamps, trees, signs, boxes and people on one side."""

    def put(out: float, z: float, draw: Drawing, round_m: float = 0.3) -> Item:
        card = Card(side.sign * out, z)
        return small(street, card.x, z, lambda canvas: draw(canvas, rng, card), round_m=round_m)

    def clear(z: float) -> bool:
        return street.crossing is None or not street.crossing[0] - 0.5 < z < street.crossing[1] + 0.5

    edge = side.kerb + 0.45
    spots = [rng.uniform(6, 14) + i * rng.uniform(15, 22) for i in range(3)]
    if rng.random() < 0.75:
        lamp = partial(furniture.lamp, towards=-side.sign)
        yield from (put(edge, z, lamp) for z in spots if clear(z))
    if side.verge or rng.random() < 0.4:
        out, z = side.kerb + max(0.7, side.verge * 0.6), rng.uniform(7, 18)
        while z < 45:
            tall = rng.uniform(4.5, 8)
            if clear(z):
                yield put(out, z, partial(greenery.tree, tall=tall), 1.5)
            z += rng.uniform(8, 16)
    for _ in range(rng.choice((0, 1, 1, 2))):
        z = side.kerb * 1.2 + rng.uniform(2.5, 14)
        guide = rng.random() < 0.16
        yield put(edge + 0.8 * guide, z, furniture.guide_sign if guide else furniture.traffic_sign)
    if rng.random() < 0.35:
        yield put(edge + 0.3, side.kerb * 1.3 + rng.uniform(3, 12), furniture.bin_or_box)
    if rng.random() < 0.22:
        z, wide = side.front * 1.2 + rng.uniform(3, 9), rng.uniform(0.6, 1.2)
        yield put(side.front - 0.3, z, partial(greenery.bush, wide=wide, tall=wide), wide)
    for _ in range(rng.choice((0, 1, 2, 3, 4))):
        out = rng.uniform(side.kerb + 0.5, side.front - 0.4)
        yield put(out, out * 1.2 + rng.triangular(2, 20, 4), people.person)


def _lights(rng: Random, street: Street) -> Iterator[Item]:
    """Lights at the stop line, where pedestrians cross; without a crossing road, at a lonely crossing."""
    z = street.crossing[0] - 1.0 if street.crossing else rng.uniform(9, 15)
    overhead = rng.random() < 0.4
    for side in street.sides:
        x = side.sign * (side.kerb + 0.5)
        arm = -side.kerb * 0.6 if overhead and side.sign > 0 else 0.0
        card = Card(x, z if side.sign > 0 else z + 0.3)
        yield small(street, x, z, partial(furniture.traffic_light, rng=rng, card=card, arm=arm))
    for _ in range(rng.choice((0, 0, 1, 2))):
        x = rng.uniform(-street.left.kerb, street.right.kerb)
        walker = Card(x, z - 1.2 + rng.uniform(-0.6, 0.6))
        yield small(street, x, walker.z, partial(people.person, rng=rng, card=walker))
