"""Cars, trucks, buses and trams: extruded profiles with windows, doors, lights and markings."""

from random import Random

from streets.drawing.camera import Color, scaled, vary
from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Pose, extrude, rectangle
from streets.objects.vehicle_body import BLACK, GLASS, HEADLIGHT, PLATE, TAILLIGHT, Vehicle, mirrored

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

# Length, width, hood height and roof height in meters; the cabin's rear bottom, rear top, front top and front
# bottom as shares of the length.
_CARS = (
    (4.1, 1.75, 0.90, 1.50, (-0.49, -0.40, 0.14, 0.30)),  # hatchback
    (4.6, 1.80, 0.92, 1.46, (-0.36, -0.24, 0.10, 0.26)),  # sedan
    (4.6, 1.90, 1.05, 1.72, (-0.49, -0.43, 0.14, 0.28)),  # sport utility
    (4.7, 1.90, 1.10, 1.95, (-0.50, -0.48, 0.26, 0.42)),  # van
)


def car(rng: Random, pose: Pose) -> Vehicle:
    model, color = rng.randrange(len(_CARS)), vary(rng, rng.choice(CAR_COLORS))
    return Vehicle("car", pose, model, color, _CARS[model][0], _CARS[model][1], _car)


def truck(rng: Random, pose: Pose) -> Vehicle:
    model, color = rng.randrange(3), vary(rng, rng.choice(TRUCK_COLORS))
    return Vehicle("truck", pose, model, color, 7.6, 2.4, _truck)


def bus(rng: Random, pose: Pose) -> Vehicle:
    model, color = rng.randrange(2), vary(rng, rng.choice(BUS_COLORS))
    return Vehicle("bus", pose, model, color, 11.0, 2.5, _bus)


def tram(rng: Random, pose: Pose) -> Vehicle:
    model = rng.randrange(len(TRAM_COLORS))
    return Vehicle("train", pose, model, TRAM_COLORS[model][0], 17.0, 2.5, _tram)


def _car(canvas: Canvas, vehicle: Vehicle) -> None:
    length, width, hood, roof, shares = _CARS[vehicle.model]
    a, w = length / 2, width / 2
    r0, r1, f1, f0 = (s * length for s in shares)
    vehicle.add_tires(canvas, 0.33)
    extrude(
        canvas,
        vehicle.pose,
        ((-a, 0.28), (a, 0.28), (a, hood * 0.82), (f0, hood), (-a, hood)),
        w,
        vehicle.color,
    )
    cabin = ((r0, hood), (f0, hood), (f1, roof), (r1, roof))
    extrude(canvas, vehicle.pose, cabin, w * 0.9, vehicle.color, edges={1: GLASS, 3: GLASS})
    pillar, low, high = (f1 + r1) / 2, hood + 0.04, roof - 0.09
    panes = [
        (((r0 + 0.22, low), (pillar - 0.05, low), (pillar - 0.05, high), (r1 + 0.16, high)), GLASS),
        (((pillar + 0.05, low), (f0 - 0.25, low), (f1 - 0.02, high), (pillar + 0.05, high)), GLASS),
    ]
    vehicle.paint_side(canvas, panes, inset=w * 0.1)
    sill = (rectangle(-a, 0.28, a, 0.4), scaled(vehicle.color, 0.5))
    vehicle.paint_side(
        canvas, [sill, (rectangle(pillar - 0.02, 0.4, pillar + 0.02, hood), scaled(vehicle.color, 0.7))]
    )
    vehicle.add_wheels(canvas, (-0.31 * length, 0.31 * length), 0.33)
    bumper = [(rectangle(-w, 0.28, w, 0.45), BLACK), (rectangle(-0.26, 0.46, 0.26, 0.58), PLATE)]
    top = hood * 0.82
    front = [
        (rectangle(-w * 0.6, 0.45, w * 0.6, 0.62), BLACK),
        *bumper,
        *mirrored(w * 0.55, top - 0.2, w * 0.96, top - 0.03, HEADLIGHT),
    ]
    rear = [*bumper, *mirrored(w * 0.62, hood - 0.27, w * 0.98, hood - 0.03, TAILLIGHT)]
    if vehicle.model == 3:  # a van's rear is all tailgate
        rear.append((rectangle(-w * 0.8, hood + 0.06, w * 0.8, roof - 0.2), GLASS))
    vehicle.paint_end(canvas, front, rear)


def _truck(canvas: Canvas, vehicle: Vehicle) -> None:
    a, w = vehicle.length / 2, vehicle.width / 2
    cab = CAR_COLORS[(0, 1, 10)[vehicle.model]]
    vehicle.add_tires(canvas, 0.55)
    extrude(canvas, vehicle.pose, rectangle(-a, 0.55, a, 1.0), w * 0.92, BLACK)
    approaches = vehicle.pose.direction(1, 0, 0)[2] < 0
    # Back to front: the nearer end is drawn last.
    if not approaches:
        _truck_cab(canvas, vehicle, cab)
    _truck_box(canvas, vehicle)
    if approaches:
        _truck_cab(canvas, vehicle, cab)
    vehicle.add_wheels(canvas, (-a + 0.9, -a + 2.05, a - 1.0), 0.52)
    rear = [(rectangle(-w, 0.55, w, 0.85), BLACK), *mirrored(w * 0.6, 0.62, w * 0.96, 0.84, TAILLIGHT)]
    rear += [
        (rectangle(-0.3, 0.62, 0.3, 0.8), PLATE),
        (rectangle(-0.05, 1.1, 0.05, 3.3), scaled(vehicle.color, 0.45)),
    ]
    rear += mirrored(w * 0.4, 1.1, w * 0.46, 3.3, scaled(vehicle.color, 0.6)) + mirrored(
        w * 0.9, 1.0, w, 3.45, scaled(vehicle.color, 0.75)
    )
    front = [
        (rectangle(-w * 0.88, 1.65, w * 0.88, 2.5), GLASS),
        (rectangle(-w * 0.7, 0.95, w * 0.7, 1.45), BLACK),
    ]
    front += [(rectangle(-w, 0.5, w, 0.8), BLACK), *mirrored(w * 0.6, 0.82, w * 0.95, 1.1, HEADLIGHT)]
    vehicle.paint_end(canvas, front, rear)


def _truck_box(canvas: Canvas, vehicle: Vehicle) -> None:
    a = vehicle.length / 2
    extrude(canvas, vehicle.pose, rectangle(-a, 1.0, a - 2.2, 3.45), vehicle.width / 2, vehicle.color)
    ribs = [
        (rectangle(u, 1.05, u + 0.07, 3.4), scaled(vehicle.color, 0.78))
        for u in (-a + 0.6 + 0.9 * i for i in range(5))
    ]
    vehicle.paint_side(
        canvas,
        [
            *ribs,
            (rectangle(-a, 1.0, a - 2.2, 1.18), BLACK),
            (rectangle(-a, 2.2, a - 2.2, 2.5), scaled(vehicle.color, 0.6)),
        ],
    )


def _truck_cab(canvas: Canvas, vehicle: Vehicle, color: Color) -> None:
    a = vehicle.length / 2
    extrude(
        canvas,
        vehicle.pose,
        ((a - 2.0, 0.5), (a, 0.5), (a, 1.6), (a - 0.15, 2.75), (a - 2.0, 2.75)),
        vehicle.width / 2,
        color,
    )
    vehicle.paint_side(canvas, [(((a - 1.4, 1.6), (a - 0.15, 1.6), (a - 0.3, 2.45), (a - 1.4, 2.45)), GLASS)])


def _bus(canvas: Canvas, vehicle: Vehicle) -> None:
    a, w = vehicle.length / 2, vehicle.width / 2
    vehicle.add_tires(canvas, 0.4)
    extrude(canvas, vehicle.pose, rectangle(-a, 0.35, a, 3.1), w, vehicle.color)
    step = (vehicle.length - 1.0) / 6
    panes = [
        (rectangle(-a + 0.4 + i * step, 1.35, -a + 0.28 + (i + 1) * step, 2.55), GLASS) for i in range(6)
    ]
    doors = [
        (rectangle(-a + 0.5 + i * step, 0.45, -a + 0.1 + (i + 1) * step, 2.5), scaled(GLASS, 0.8))
        for i in (2, 5)
    ]
    band = (rectangle(-a, 0.85, a, 1.1), (244, 240, 232) if vehicle.model else scaled(vehicle.color, 0.6))
    vehicle.paint_side(canvas, [band, *panes, *doors, (rectangle(-a, 0.35, a, 0.5), BLACK)])
    vehicle.add_wheels(canvas, (-a + 2.6, a - 2.4), 0.48)
    sign = [
        (rectangle(-w * 0.8, 2.62, w * 0.8, 3.0), BLACK),
        (rectangle(-w * 0.6, 2.7, w * 0.6, 2.92), (255, 170, 40)),
    ]
    low = [(rectangle(-w, 0.35, w, 0.6), BLACK), (rectangle(-0.3, 0.62, 0.3, 0.8), PLATE)]
    front = [
        (rectangle(-w * 0.94, 1.1, w * 0.94, 2.58), GLASS),
        *sign,
        *low,
        *mirrored(w * 0.6, 0.66, w * 0.95, 0.9, HEADLIGHT),
    ]
    rear = [
        (rectangle(-w * 0.8, 1.5, w * 0.8, 2.55), GLASS),
        *sign,
        *low,
        (rectangle(-w * 0.6, 0.85, w * 0.6, 1.3), scaled(vehicle.color, 0.6)),
    ]
    rear += mirrored(w * 0.76, 0.8, w * 0.97, 1.4, TAILLIGHT)
    vehicle.paint_end(canvas, front, rear)


def _tram(canvas: Canvas, vehicle: Vehicle) -> None:
    a, w = vehicle.length / 2, vehicle.width / 2
    body, stripe = TRAM_COLORS[vehicle.model]
    hull = ((-a, 0.2), (a, 0.2), (a, 1.3), (a - 0.6, 3.3), (-a + 0.6, 3.3), (-a, 1.3))
    extrude(canvas, vehicle.pose, hull, w, body, edges={2: GLASS, 4: GLASS})
    step = (vehicle.length - 2.4) / 8
    panes = [(rectangle(-a + 1.3 + i * step, 1.35, -a + 1.1 + (i + 1) * step, 2.65), GLASS) for i in range(8)]
    doors = [
        (rectangle(-a + 1.5 + i * step, 0.3, -a + 0.9 + (i + 1) * step, 2.6), scaled(GLASS, 0.75))
        for i in (1, 4, 6)
    ]
    bellows = [
        (rectangle(u - 0.2, 0.2, u + 0.2, 3.2), BLACK) for u in (-vehicle.length / 6, vehicle.length / 6)
    ]
    skirt = (rectangle(-a, 0.2, a, 0.95), stripe)
    vehicle.paint_side(
        canvas, [skirt, (rectangle(-a + 0.6, 2.9, a - 0.6, 3.3), stripe), *panes, *doors, *bellows]
    )
    nose = [
        (rectangle(-w, 0.2, w, 0.75), stripe),
        (rectangle(-w, 0.75, w, 0.86), BLACK),
        (rectangle(-0.16, 0.95, 0.16, 1.15), HEADLIGHT),
    ]
    vehicle.paint_end(
        canvas,
        [*nose, *mirrored(w * 0.6, 0.92, w * 0.9, 1.15, HEADLIGHT)],
        [*nose, *mirrored(w * 0.6, 0.92, w * 0.9, 1.15, TAILLIGHT)],
    )
    for along in (-0.5, 0.5):
        canvas.paint_part(
            vehicle.pose.on_side(0.0, ((along - 0.5, 3.3), (along + 0.5, 3.3), (0.05, 4.2), (-0.05, 4.2))),
            BLACK,
        )
