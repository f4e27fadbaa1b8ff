"""Which objects a scene has, and where: lots along the street, traffic, sidewalks, traffic lights."""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Plane
from streets.drawing_order import SceneItem, small_item
from streets.layout import FAR_M, Side, Street
from streets.objects import buildings, people, street_furniture, vegetation
from streets.traffic import parked_bikes, riders, vehicle_traffic

DrawObject = Callable[[Canvas, Random, Plane], None]

# Share of the scenes that feature each of the rarer objects. Some end up hidden, so fewer are visible.
RARE_OBJECTS = {
    "truck": 0.36, "bus": 0.36, "train": 0.36, "cyclist": 0.38, "motorcyclist": 0.3, "bicycle": 0.4,
    "motorcycle": 0.32, "wall": 0.46, "fence": 0.46, "traffic light": 0.4,
}  # fmt: skip

# The first lots begin beside the camera, out of view.
_START_M = 2.5


def place_objects(rng: Random, street: Street) -> list[SceneItem]:
    """All items of a scene, back to front."""
    featured = {name for name, share in RARE_OBJECTS.items() if rng.random() < share}
    items = [
        *_lots(rng, street, featured),
        *vehicle_traffic(rng, street, featured),
        *riders(rng, street, featured),
    ]
    for side in street.sides:
        items += _sidewalk(rng, street, side)
    items += parked_bikes(rng, street, featured)
    if street.cross_street or "traffic light" in featured:
        items += _traffic_lights(rng, street)
    return sorted(items, key=lambda item: item.order, reverse=True)


def _lots(rng: Random, street: Street, featured: set[str]) -> Iterator[SceneItem]:
    """Houses and gardens along both sides; a featured wall or fence is placed where it is well visible."""
    boundaries = [kind for kind in ("wall", "fence") if kind in featured]
    sides = list(street.sides)
    rng.shuffle(sides)
    for i, side in enumerate(sides):
        first = boundaries[i : i + 1] if len(boundaries) > 1 else (boundaries if i == 0 else [])
        z, hidden = _START_M, False
        tall = rng.uniform(7, 15)
        while z < FAR_M:
            end = z + rng.uniform(8, 15)
            kind = "house" if rng.random() < 0.68 else rng.choice(("hedge", "open", "wall", "fence"))
            if z == _START_M:  # the most visible lot
                end = side.house_line * 1.25 + rng.uniform(5, 11)
                kind = first[0] if first else kind
            if street.cross_street and z < street.cross_street[1] and end > street.cross_street[0] - 1:
                end = max(z + 1, street.cross_street[0] - rng.uniform(0.5, 2))
            tall = min(18, max(5.5, tall + rng.uniform(-3, 3)))
            yield SceneItem((street.block(z), 99.0, z), _lot(rng, side, kind, z, end, tall, hidden))
            hidden = kind == "house"
            z = end if rng.random() < 0.75 else end + rng.uniform(1, 3)
            if street.cross_street and street.cross_street[0] - 4 < z < street.cross_street[1]:
                z, hidden = street.cross_street[1] + rng.uniform(0.8, 2), False


def _lot(
    rng: Random, side: Side, kind: str, z0: float, z1: float, tall: float, hidden: bool
) -> Callable[[Canvas], None]:
    """A lot: a house (its gable `hidden` by the one in front) or a garden behind a wall, fence or hedge."""
    x = side.sign * side.house_line
    trees = [
        (rng.uniform(1.5, 9), rng.uniform(z0, z1), rng.uniform(4.5, 8.5)) for _ in range(rng.randint(1, 3))
    ]

    def draw(canvas: Canvas) -> None:
        if kind == "house":
            buildings.house(canvas, rng, x=x, z=(z0, z1), side=side.sign, tall=tall, open_gable=not hidden)
            return
        if rng.random() < 0.5:  # a house at the back of the garden
            back = side.house_line + rng.uniform(10, 14)
            buildings.house(
                canvas, rng, x=side.sign * back, z=(z0, z1), side=side.sign, tall=tall * 0.7, deep=20
            )
        for out, z, high in sorted(trees, key=lambda t: -t[1]):
            vegetation.tree(canvas, rng, Plane(x + side.sign * out, z), tall=high)
        if kind == "wall":
            buildings.freestanding_wall(canvas, rng, x=x, z0=z0, z1=z1, side=side.sign)
        elif kind == "fence":
            buildings.fence(canvas, rng, x=x, z0=z0, z1=z1, tall=rng.uniform(1.2, 1.9))
        elif kind == "hedge":
            vegetation.hedge(canvas, rng, x, z0, z1, tall=rng.uniform(0.9, 1.6))

    return draw


def _sidewalk(rng: Random, street: Street, side: Side) -> Iterator[SceneItem]:
    """Lamps, trees, signs, static objects and people on one side."""

    def put(out: float, z: float, draw: DrawObject, radius_m: float = 0.3) -> SceneItem:
        plane = Plane(side.sign * out, z)
        return small_item(street, plane.x, z, lambda canvas: draw(canvas, rng, plane), radius_m=radius_m)

    def clear(z: float) -> bool:
        road = street.cross_street
        return road is None or not road[0] - 0.5 < z < road[1] + 0.5

    edge = side.curb + 0.45
    spots = [rng.uniform(6, 14) + i * rng.uniform(15, 22) for i in range(3)]
    if rng.random() < 0.75:
        lamp = partial(street_furniture.street_lamp, toward=-side.sign)
        yield from (put(edge, z, lamp) for z in spots if clear(z))
    if side.grass_strip or rng.random() < 0.4:
        out, z = side.curb + max(0.7, side.grass_strip * 0.6), rng.uniform(7, 18)
        while z < 45:
            tall = rng.uniform(4.5, 8)
            if clear(z):
                yield put(out, z, partial(vegetation.tree, tall=tall), 1.5)
            z += rng.uniform(8, 16)
    for _ in range(rng.choice((0, 1, 1, 2))):
        z = side.curb * 1.2 + rng.uniform(2.5, 14)
        guide = rng.random() < 0.16
        yield put(
            edge + 0.8 * guide, z, street_furniture.guide_sign if guide else street_furniture.traffic_sign
        )
    if rng.random() < 0.35:
        yield put(edge + 0.3, side.curb * 1.3 + rng.uniform(3, 12), street_furniture.static_object)
    if rng.random() < 0.22:
        z, wide = side.house_line * 1.2 + rng.uniform(3, 9), rng.uniform(0.6, 1.2)
        yield put(side.house_line - 0.3, z, partial(vegetation.bush, wide=wide, tall=wide), wide)
    for _ in range(rng.choice((0, 1, 2, 3, 4))):
        out = rng.uniform(side.curb + 0.5, side.house_line - 0.4)
        yield put(out, out * 1.2 + rng.triangular(2, 20, 4), people.person)


def _traffic_lights(rng: Random, street: Street) -> Iterator[SceneItem]:
    """Traffic lights and crossing pedestrians, at the cross street or, if there is none, at a crosswalk."""
    z = street.cross_street[0] - 1.0 if street.cross_street else rng.uniform(9, 15)
    overhead = rng.random() < 0.4
    for side in street.sides:
        x = side.sign * (side.curb + 0.5)
        arm = -side.curb * 0.6 if overhead and side.sign > 0 else 0.0
        plane = Plane(x, z if side.sign > 0 else z + 0.3)
        yield small_item(street, x, z, partial(street_furniture.traffic_light, rng=rng, plane=plane, arm=arm))
    for _ in range(rng.choice((0, 0, 1, 2))):
        x = rng.uniform(-street.left.curb, street.right.curb)
        walker = Plane(x, z - 1.2 + rng.uniform(-0.6, 0.6))
        yield small_item(street, x, walker.z, partial(people.person, rng=rng, plane=walker))
