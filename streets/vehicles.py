"""Cars, trucks, buses and trams: extruded profiles and what one recognizes them by."""

from random import Random

from streets.camera import Color, scaled, vary
from streets.canvas import Canvas
from streets.coachwork import BLACK, GLASS, HEAD, PLATE, TAIL, Vehicle, pair
from streets.shapes import Pose, box, extrude

CAR_COLORS: tuple[Color, ...] = (
    (196, 30, 36), (30, 68, 150), (228, 230, 232), (40, 42, 48), (150, 156, 164), (92, 98, 108),
    (232, 180, 40), (34, 104, 92), (120, 24, 44), (88, 140, 190), (226, 226, 214), (206, 92, 34),
)  # fmt: skip
TRUCK_COLORS: tuple[Color, ...] = (
    (238, 236, 230),
    (230, 118, 30),
    (36, 92, 168),
    (52, 132, 70),
    (240, 204, 60),
)
BUS_COLORS: tuple[Color, ...] = ((206, 30, 40), (246, 196, 30), (232, 108, 30), (170, 28, 90))
TRAM_COLORS: tuple[tuple[Color, Color], ...] = (
    ((244, 240, 226), (22, 122, 84)), ((246, 244, 238), (28, 92, 180)), ((240, 232, 206), (126, 28, 48)),
)  # fmt: skip

# length, width, bonnet height, roof height; cabin: rear foot, rear top, front top, front foot in lengths
_CARS = (
    (4.1, 1.75, 0.90, 1.50, (-0.49, -0.40, 0.14, 0.30)),  # hatchback
    (4.6, 1.80, 0.92, 1.46, (-0.36, -0.24, 0.10, 0.26)),  # saloon
    (4.6, 1.90, 1.05, 1.72, (-0.49, -0.43, 0.14, 0.28)),  # sport utility
    (4.7, 1.90, 1.10, 1.95, (-0.50, -0.48, 0.26, 0.42)),  # van
)


def car(rng: Random, pose: Pose) -> Vehicle:
    kind, color = rng.randrange(len(_CARS)), vary(rng, rng.choice(CAR_COLORS))
    return Vehicle("car", pose, kind, color, _CARS[kind][0], _CARS[kind][1], _car)


def truck(rng: Random, pose: Pose) -> Vehicle:
    kind, color = rng.randrange(3), vary(rng, rng.choice(TRUCK_COLORS))
    return Vehicle("truck", pose, kind, color, 7.6, 2.4, _truck)


def bus(rng: Random, pose: Pose) -> Vehicle:
    kind, color = rng.randrange(2), vary(rng, rng.choice(BUS_COLORS))
    return Vehicle("bus", pose, kind, color, 11.0, 2.5, _bus)


def tram(rng: Random, pose: Pose) -> Vehicle:
    kind = rng.randrange(len(TRAM_COLORS))
    return Vehicle("train", pose, kind, TRAM_COLORS[kind][0], 17.0, 2.5, _tram)


def _car(canvas: Canvas, v: Vehicle) -> None:
    length, width, bonnet, roof, shares = _CARS[v.kind]
    a, w = length / 2, width / 2
    r0, r1, f1, f0 = (s * length for s in shares)
    v.tyres(canvas, 0.33)
    extrude(
        canvas, v.pose, ((-a, 0.28), (a, 0.28), (a, bonnet * 0.82), (f0, bonnet), (-a, bonnet)), w, v.color
    )
    cabin = ((r0, bonnet), (f0, bonnet), (f1, roof), (r1, roof))
    extrude(canvas, v.pose, cabin, w * 0.9, v.color, edges={1: GLASS, 3: GLASS})
    pillar, low, high = (f1 + r1) / 2, bonnet + 0.04, roof - 0.09
    panes = [
        (((r0 + 0.22, low), (pillar - 0.05, low), (pillar - 0.05, high), (r1 + 0.16, high)), GLASS),
        (((pillar + 0.05, low), (f0 - 0.25, low), (f1 - 0.02, high), (pillar + 0.05, high)), GLASS),
    ]
    v.sides(canvas, panes, inset=w * 0.1)
    sill = (box(-a, 0.28, a, 0.4), scaled(v.color, 0.5))
    v.sides(canvas, [sill, (box(pillar - 0.02, 0.4, pillar + 0.02, bonnet), scaled(v.color, 0.7))])
    v.wheels(canvas, (-0.31 * length, 0.31 * length), 0.33)
    bumper = [(box(-w, 0.28, w, 0.45), BLACK), (box(-0.26, 0.46, 0.26, 0.58), PLATE)]
    top = bonnet * 0.82
    front = [
        (box(-w * 0.6, 0.45, w * 0.6, 0.62), BLACK),
        *bumper,
        *pair(w * 0.55, top - 0.2, w * 0.96, top - 0.03, HEAD),
    ]
    rear = [*bumper, *pair(w * 0.62, bonnet - 0.27, w * 0.98, bonnet - 0.03, TAIL)]
    if v.kind == 3:  # a van's rear is all tailgate
        rear.append((box(-w * 0.8, bonnet + 0.06, w * 0.8, roof - 0.2), GLASS))
    v.ends(canvas, front, rear)


def _truck(canvas: Canvas, v: Vehicle) -> None:
    a, w = v.length / 2, v.width / 2
    cab = CAR_COLORS[(0, 1, 10)[v.kind]]
    v.tyres(canvas, 0.55)
    extrude(canvas, v.pose, box(-a, 0.55, a, 1.0), w * 0.92, BLACK)
    drives_at_us = v.pose.turn(1, 0, 0)[2] < 0
    # back to front: whichever end is nearer comes last
    if not drives_at_us:
        _cab(canvas, v, cab)
    _load(canvas, v)
    if drives_at_us:
        _cab(canvas, v, cab)
    v.wheels(canvas, (-a + 0.9, -a + 2.05, a - 1.0), 0.52)
    rear = [(box(-w, 0.55, w, 0.85), BLACK), *pair(w * 0.6, 0.62, w * 0.96, 0.84, TAIL)]
    rear += [(box(-0.3, 0.62, 0.3, 0.8), PLATE), (box(-0.05, 1.1, 0.05, 3.3), scaled(v.color, 0.45))]
    rear += pair(w * 0.4, 1.1, w * 0.46, 3.3, scaled(v.color, 0.6)) + pair(
        w * 0.9, 1.0, w, 3.45, scaled(v.color, 0.75)
    )
    front = [(box(-w * 0.88, 1.65, w * 0.88, 2.5), GLASS), (box(-w * 0.7, 0.95, w * 0.7, 1.45), BLACK)]
    front += [(box(-w, 0.5, w, 0.8), BLACK), *pair(w * 0.6, 0.82, w * 0.95, 1.1, HEAD)]
    v.ends(canvas, front, rear)


def _load(canvas: Canvas, v: Vehicle) -> None:
    a = v.length / 2
    extrude(canvas, v.pose, box(-a, 1.0, a - 2.2, 3.45), v.width / 2, v.color)
    ribs = [
        (box(u, 1.05, u + 0.07, 3.4), scaled(v.color, 0.78)) for u in (-a + 0.6 + 0.9 * i for i in range(5))
    ]
    v.sides(
        canvas,
        [*ribs, (box(-a, 1.0, a - 2.2, 1.18), BLACK), (box(-a, 2.2, a - 2.2, 2.5), scaled(v.color, 0.6))],
    )


def _cab(canvas: Canvas, v: Vehicle, color: Color) -> None:
    a = v.length / 2
    extrude(
        canvas,
        v.pose,
        ((a - 2.0, 0.5), (a, 0.5), (a, 1.6), (a - 0.15, 2.75), (a - 2.0, 2.75)),
        v.width / 2,
        color,
    )
    v.sides(canvas, [(((a - 1.4, 1.6), (a - 0.15, 1.6), (a - 0.3, 2.45), (a - 1.4, 2.45)), GLASS)])


def _bus(canvas: Canvas, v: Vehicle) -> None:
    a, w = v.length / 2, v.width / 2
    v.tyres(canvas, 0.4)
    extrude(canvas, v.pose, box(-a, 0.35, a, 3.1), w, v.color)
    step = (v.length - 1.0) / 6
    panes = [(box(-a + 0.4 + i * step, 1.35, -a + 0.28 + (i + 1) * step, 2.55), GLASS) for i in range(6)]
    doors = [
        (box(-a + 0.5 + i * step, 0.45, -a + 0.1 + (i + 1) * step, 2.5), scaled(GLASS, 0.8)) for i in (2, 5)
    ]
    band = (box(-a, 0.85, a, 1.1), (244, 240, 232) if v.kind else scaled(v.color, 0.6))
    v.sides(canvas, [band, *panes, *doors, (box(-a, 0.35, a, 0.5), BLACK)])
    v.wheels(canvas, (-a + 2.6, a - 2.4), 0.48)
    sign = [(box(-w * 0.8, 2.62, w * 0.8, 3.0), BLACK), (box(-w * 0.6, 2.7, w * 0.6, 2.92), (255, 170, 40))]
    low = [(box(-w, 0.35, w, 0.6), BLACK), (box(-0.3, 0.62, 0.3, 0.8), PLATE)]
    front = [
        (box(-w * 0.94, 1.1, w * 0.94, 2.58), GLASS),
        *sign,
        *low,
        *pair(w * 0.6, 0.66, w * 0.95, 0.9, HEAD),
    ]
    rear = [
        (box(-w * 0.8, 1.5, w * 0.8, 2.55), GLASS),
        *sign,
        *low,
        (box(-w * 0.6, 0.85, w * 0.6, 1.3), scaled(v.color, 0.6)),
    ]
    rear += pair(w * 0.76, 0.8, w * 0.97, 1.4, TAIL)
    v.ends(canvas, front, rear)


def _tram(canvas: Canvas, v: Vehicle) -> None:
    a, w = v.length / 2, v.width / 2
    body, stripe = TRAM_COLORS[v.kind]
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
    v.sides(canvas, [skirt, (box(-a + 0.6, 2.9, a - 0.6, 3.3), stripe), *panes, *doors, *bellows])
    nose = [
        (box(-w, 0.2, w, 0.75), stripe),
        (box(-w, 0.75, w, 0.86), BLACK),
        (box(-0.16, 0.95, 0.16, 1.15), HEAD),
    ]
    v.ends(
        canvas,
        [*nose, *pair(w * 0.6, 0.92, w * 0.9, 1.15, HEAD)],
        [*nose, *pair(w * 0.6, 0.92, w * 0.9, 1.15, TAIL)],
    )
    for along in (-0.5, 0.5):
        canvas.fill(
            v.pose.side(0.0, ((along - 0.5, 3.3), (along + 0.5, 3.3), (0.05, 4.2), (-0.05, 4.2))), BLACK
        )
