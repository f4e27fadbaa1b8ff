"""Cars, trucks, buses and trams: extruded profiles with details on the faces that the camera sees."""

import math
from random import Random

from streets.camera import Colour, scaled, vary
from streets.canvas import Canvas
from streets.shapes import Flat, Pose, box, disc, extrude

GLASS: Colour = (52, 66, 82)
RUBBER: Colour = (26, 26, 28)
RIM: Colour = (150, 152, 156)
BLACK: Colour = (34, 35, 38)
PLATE: Colour = (236, 236, 226)
TAIL: Colour = (214, 26, 28)
HEAD: Colour = (255, 250, 226)

CAR_COLOURS: tuple[Colour, ...] = (
    (196, 30, 36), (30, 68, 150), (228, 230, 232), (40, 42, 48), (150, 156, 164), (92, 98, 108),
    (232, 180, 40), (34, 104, 92), (120, 24, 44), (88, 140, 190), (226, 226, 214), (206, 92, 34),
)  # fmt: skip
TRUCK_COLOURS: tuple[Colour, ...] = (
    (238, 236, 230),
    (230, 118, 30),
    (36, 92, 168),
    (52, 132, 70),
    (240, 204, 60),
)
BUS_COLOURS: tuple[Colour, ...] = ((206, 30, 40), (246, 196, 30), (232, 108, 30), (170, 28, 90))
TRAM_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((244, 240, 226), (22, 122, 84)), ((246, 244, 238), (28, 92, 180)), ((240, 232, 206), (126, 28, 48)),
)  # fmt: skip

# length, width, bonnet height, roof height, cabin: rear foot, rear top, front top, front foot (shares of the length)
_CARS = (
    (4.1, 1.75, 0.90, 1.50, (-0.49, -0.40, 0.14, 0.30)),  # hatchback
    (4.6, 1.80, 0.92, 1.46, (-0.36, -0.24, 0.10, 0.26)),  # saloon
    (4.6, 1.90, 1.05, 1.72, (-0.49, -0.43, 0.14, 0.28)),  # sport utility
    (4.7, 1.90, 1.10, 1.95, (-0.50, -0.48, 0.26, 0.42)),  # van
)


def car(rng: Random, pose: Pose) -> "Vehicle":
    return Vehicle("car", pose, rng.randrange(len(_CARS)), vary(rng, rng.choice(CAR_COLOURS)))


def truck(rng: Random, pose: Pose) -> "Vehicle":
    return Vehicle("truck", pose, rng.randrange(3), vary(rng, rng.choice(TRUCK_COLOURS)))


def bus(rng: Random, pose: Pose) -> "Vehicle":
    return Vehicle("bus", pose, rng.randrange(2), vary(rng, rng.choice(BUS_COLOURS)))


def tram(rng: Random, pose: Pose) -> "Vehicle":
    kind = rng.randrange(len(TRAM_COLOURS))
    return Vehicle("train", pose, kind, TRAM_COLOURS[kind][0])


_LENGTHS = {"truck": 7.6, "bus": 11.0, "train": 17.0}
_WIDTHS = {"truck": 2.4, "bus": 2.5, "train": 2.5}


class Vehicle:
    """One vehicle in its place; `draw` paints it, `footprint` is what its shadow needs."""

    def __init__(self, label: str, pose: Pose, kind: int, colour: Colour) -> None:
        self.label, self.pose, self.kind, self.colour = label, pose, kind, colour
        self.length = _LENGTHS.get(label) or _CARS[kind][0]
        self.width = _WIDTHS.get(label) or _CARS[kind][1]

    @property
    def footprint(self):
        return self.pose.footprint(self.length, self.width)

    def draw(self, canvas: Canvas) -> None:
        with canvas.object(self.label):
            {"car": _car, "truck": _truck, "bus": _bus, "train": _tram}[self.label](canvas, self)


def _sides(canvas: Canvas, v: Vehicle, details: list[tuple[Flat, Colour]], inset: float = 0.0) -> None:
    """Paint (along, up) details on the side that the camera sees."""
    for sign in (-1.0, 1.0):
        across = sign * (v.width / 2 - inset)
        if v.pose.sees(0.0, across, (0.0, sign)):
            shade = canvas.light.shade(v.pose.turn(0, sign, 0))
            for flat, colour in details:
                canvas.paint(v.pose.side(across, flat), colour, shade=shade)


def _wheels(canvas: Canvas, v: Vehicle, alongs: tuple[float, ...], radius: float) -> None:
    for sign in (-1.0, 1.0):
        across = sign * v.width / 2
        if v.pose.sees(0.0, across, (0.0, sign)):
            for along in alongs:
                canvas.fill(v.pose.side(across, disc(along, radius, radius)), RUBBER)
                canvas.paint(v.pose.side(across, disc(along, radius, radius * 0.55)), RIM, shade=0.9)


def _tyres(canvas: Canvas, v: Vehicle, radius: float) -> None:
    """The tyres below the near end, which stand out under the body."""
    along = v.length / 2 * (-0.72 if v.pose.sees(-v.length / 2, 0, (-1, 0)) else 0.72)
    inner, outer = v.width * 0.32, v.width * 0.48
    for flat in (box(-outer, 0, -inner, radius), box(inner, 0, outer, radius)):
        canvas.fill(v.pose.end(along, flat), RUBBER)


def _ends(
    canvas: Canvas, v: Vehicle, front: list[tuple[Flat, Colour]], rear: list[tuple[Flat, Colour]]
) -> None:
    """Paint (across, up) details on the end that the camera sees."""
    for along, details in ((v.length / 2, front), (-v.length / 2, rear)):
        normal = math.copysign(1.0, along)
        if v.pose.sees(along, 0.0, (normal, 0.0)):
            shade = canvas.light.shade(v.pose.turn(normal, 0, 0))
            for flat, colour in details:
                lamp = colour in (HEAD, TAIL)
                canvas.paint(v.pose.end(along, flat), colour, shade=max(shade, 0.95) if lamp else shade)


def _pair(u0: float, v0: float, u1: float, v1: float, colour: Colour) -> list[tuple[Flat, Colour]]:
    return [(box(u0, v0, u1, v1), colour), (box(-u1, v0, -u0, v1), colour)]


def _car(canvas: Canvas, v: Vehicle) -> None:
    length, width, bonnet, roof, shares = _CARS[v.kind]
    a, w = length / 2, width / 2
    r0, r1, f1, f0 = (s * length for s in shares)
    _tyres(canvas, v, 0.33)
    extrude(
        canvas, v.pose, ((-a, 0.28), (a, 0.28), (a, bonnet * 0.82), (f0, bonnet), (-a, bonnet)), w, v.colour
    )
    cabin = ((r0, bonnet), (f0, bonnet), (f1, roof), (r1, roof))
    extrude(canvas, v.pose, cabin, w * 0.9, v.colour, edges={1: GLASS, 3: GLASS})
    pillar, low, high = (f1 + r1) / 2, bonnet + 0.04, roof - 0.09
    panes = [
        (((r0 + 0.22, low), (pillar - 0.05, low), (pillar - 0.05, high), (r1 + 0.16, high)), GLASS),
        (((pillar + 0.05, low), (f0 - 0.25, low), (f1 - 0.02, high), (pillar + 0.05, high)), GLASS),
    ]
    _sides(canvas, v, panes, inset=w * 0.1)
    sill = (box(-a, 0.28, a, 0.4), scaled(v.colour, 0.5))
    _sides(canvas, v, [sill, (box(pillar - 0.02, 0.4, pillar + 0.02, bonnet), scaled(v.colour, 0.7))])
    _wheels(canvas, v, (-0.31 * length, 0.31 * length), 0.33)
    bumper = [(box(-w, 0.28, w, 0.45), BLACK), (box(-0.26, 0.46, 0.26, 0.58), PLATE)]
    top = bonnet * 0.82
    front = [
        (box(-w * 0.6, 0.45, w * 0.6, 0.62), BLACK),
        *bumper,
        *_pair(w * 0.55, top - 0.2, w * 0.96, top - 0.03, HEAD),
    ]
    rear = [*bumper, *_pair(w * 0.62, bonnet - 0.27, w * 0.98, bonnet - 0.03, TAIL)]
    if v.kind == 3:  # a van's rear is all tailgate
        rear.append((box(-w * 0.8, bonnet + 0.06, w * 0.8, roof - 0.2), GLASS))
    _ends(canvas, v, front, rear)


def _truck(canvas: Canvas, v: Vehicle) -> None:
    a, w = v.length / 2, v.width / 2
    cab = scaled(CAR_COLOURS[(0, 1, 10)[v.kind]], 1.0)
    _tyres(canvas, v, 0.55)
    extrude(canvas, v.pose, box(-a, 0.55, a, 1.0), w * 0.92, BLACK)
    load = lambda: _load(canvas, v)  # noqa: E731
    tractor = lambda: _cab(canvas, v, cab)  # noqa: E731
    # back to front: whichever end is nearer comes last
    parts = (load, tractor) if v.pose.turn(1, 0, 0)[2] < 0 else (tractor, load)
    for part in parts:
        part()
    _wheels(canvas, v, (-a + 0.9, -a + 2.05, a - 1.0), 0.52)
    rear = [(box(-w, 0.55, w, 0.85), BLACK), *_pair(w * 0.6, 0.62, w * 0.96, 0.84, TAIL)]
    rear += [(box(-0.3, 0.62, 0.3, 0.8), PLATE), (box(-0.05, 1.1, 0.05, 3.3), scaled(v.colour, 0.45))]
    rear += _pair(w * 0.4, 1.1, w * 0.46, 3.3, scaled(v.colour, 0.6)) + _pair(
        w * 0.9, 1.0, w, 3.45, scaled(v.colour, 0.75)
    )
    front = [(box(-w * 0.88, 1.65, w * 0.88, 2.5), GLASS), (box(-w * 0.7, 0.95, w * 0.7, 1.45), BLACK)]
    front += [(box(-w, 0.5, w, 0.8), BLACK), *_pair(w * 0.6, 0.82, w * 0.95, 1.1, HEAD)]
    _ends(canvas, v, front, rear)


def _load(canvas: Canvas, v: Vehicle) -> None:
    a = v.length / 2
    extrude(canvas, v.pose, box(-a, 1.0, a - 2.2, 3.45), v.width / 2, v.colour)
    ribs = [
        (box(u, 1.05, u + 0.07, 3.4), scaled(v.colour, 0.78)) for u in (-a + 0.6 + 0.9 * i for i in range(5))
    ]
    _sides(
        canvas,
        v,
        [*ribs, (box(-a, 1.0, a - 2.2, 1.18), BLACK), (box(-a, 2.2, a - 2.2, 2.5), scaled(v.colour, 0.6))],
    )


def _cab(canvas: Canvas, v: Vehicle, colour: Colour) -> None:
    a = v.length / 2
    extrude(
        canvas,
        v.pose,
        ((a - 2.0, 0.5), (a, 0.5), (a, 1.6), (a - 0.15, 2.75), (a - 2.0, 2.75)),
        v.width / 2,
        colour,
    )
    _sides(canvas, v, [(((a - 1.4, 1.6), (a - 0.15, 1.6), (a - 0.3, 2.45), (a - 1.4, 2.45)), GLASS)])


def _bus(canvas: Canvas, v: Vehicle) -> None:
    a, w = v.length / 2, v.width / 2
    _tyres(canvas, v, 0.4)
    extrude(canvas, v.pose, box(-a, 0.35, a, 3.1), w, v.colour)
    step = (v.length - 1.0) / 6
    panes = [(box(-a + 0.4 + i * step, 1.35, -a + 0.28 + (i + 1) * step, 2.55), GLASS) for i in range(6)]
    doors = [
        (box(-a + 0.5 + i * step, 0.45, -a + 0.1 + (i + 1) * step, 2.5), scaled(GLASS, 0.8)) for i in (2, 5)
    ]
    band = (box(-a, 0.85, a, 1.1), (244, 240, 232) if v.kind else scaled(v.colour, 0.6))
    _sides(canvas, v, [band, *panes, *doors, (box(-a, 0.35, a, 0.5), BLACK)])
    _wheels(canvas, v, (-a + 2.6, a - 2.4), 0.48)
    sign = [(box(-w * 0.8, 2.62, w * 0.8, 3.0), BLACK), (box(-w * 0.6, 2.7, w * 0.6, 2.92), (255, 170, 40))]
    low = [(box(-w, 0.35, w, 0.6), BLACK), (box(-0.3, 0.62, 0.3, 0.8), PLATE)]
    front = [
        (box(-w * 0.94, 1.1, w * 0.94, 2.58), GLASS),
        *sign,
        *low,
        *_pair(w * 0.6, 0.66, w * 0.95, 0.9, HEAD),
    ]
    rear = [
        (box(-w * 0.8, 1.5, w * 0.8, 2.55), GLASS),
        *sign,
        *low,
        (box(-w * 0.6, 0.85, w * 0.6, 1.3), scaled(v.colour, 0.6)),
    ]
    rear += _pair(w * 0.76, 0.8, w * 0.97, 1.4, TAIL)
    _ends(canvas, v, front, rear)


def _tram(canvas: Canvas, v: Vehicle) -> None:
    a, w = v.length / 2, v.width / 2
    body, stripe = TRAM_COLOURS[v.kind]
    hull = ((-a, 0.2), (a, 0.2), (a, 1.3), (a - 0.6, 3.3), (-a + 0.6, 3.3), (-a, 1.3))
    extrude(canvas, v.pose, hull, w, body, edges={2: GLASS, 4: GLASS})
    step = (v.length - 2.4) / 8
    panes = [(box(-a + 1.3 + i * step, 1.35, -a + 1.1 + (i + 1) * step, 2.65), GLASS) for i in range(8)]
    doors = [
        (box(-a + 1.5 + i * step, 0.3, -a + 0.9 + (i + 1) * step, 2.6), scaled(GLASS, 0.75))
        for i in (1, 4, 6)
    ]
    bellows = [(box(u - 0.2, 0.2, u + 0.2, 3.2), BLACK) for u in (-v.length / 6, v.length / 6)]
    skirt = (box(-a, 0.2, a, 0.95), stripe)
    _sides(canvas, v, [skirt, (box(-a + 0.6, 2.9, a - 0.6, 3.3), stripe), *panes, *doors, *bellows])
    nose = [
        (box(-w, 0.2, w, 0.75), stripe),
        (box(-w, 0.75, w, 0.86), BLACK),
        (box(-0.16, 0.95, 0.16, 1.15), HEAD),
    ]
    _ends(
        canvas,
        v,
        [*nose, *_pair(w * 0.6, 0.92, w * 0.9, 1.15, HEAD)],
        [*nose, *_pair(w * 0.6, 0.92, w * 0.9, 1.15, TAIL)],
    )
    for along in (-0.5, 0.5):
        canvas.fill(
            v.pose.side(0.0, ((along - 0.5, 3.3), (along + 0.5, 3.3), (0.05, 4.2), (-0.05, 4.2))), BLACK
        )
