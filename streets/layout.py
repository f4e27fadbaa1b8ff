"""The layout of a street: lanes, sidewalks, parking, a cross street and a tram line."""

from dataclasses import dataclass
from random import Random

PARKING_M = 2.1  # width of a parking lane
FAR_M = 78.0  # where the houses along the street end


@dataclass(frozen=True)
class Side:
    """One side of the street.

    `sign` is -1 on the left and 1 on the right; `curb` is its distance from the middle of the camera's lane,
    `grass_strip` and `walkway` are widths, all in meters.
    """

    sign: float
    curb: float
    grass_strip: float
    walkway: float
    has_parked_cars: bool
    parking_bay: bool

    @property
    def house_line(self) -> float:
        """Distance of the houses from the middle of the camera's lane."""
        return self.curb + self.grass_strip + self.walkway

    @property
    def lane_edge(self) -> float:
        return self.curb - (PARKING_M if self.has_parked_cars else 0.0)


@dataclass(frozen=True)
class Street:
    """A street along z, in meters.

    `lane_m` is the width of a lane, `lanes` are the middles of the lanes (0: the camera's), `cross_street` is
    the near and far edge of an intersecting street, `rails` the middle of a tram line.
    """

    lane_m: float
    lanes: tuple[float, ...]
    left: Side
    right: Side
    cross_street: tuple[float, float] | None
    rails: float | None

    @property
    def sides(self) -> tuple[Side, Side]:
        return (self.left, self.right)

    def block(self, z: float) -> int:
        """0 before the cross street, 1 on it, 2 beyond it: farther blocks are painted first."""
        if self.cross_street is None or z < self.cross_street[0]:
            return 0
        return 1 if z < self.cross_street[1] else 2


def random_street(rng: Random) -> Street:
    """A street with traffic on the right."""
    lane = rng.uniform(3.0, 3.5)
    oncoming = rng.choices((1, 2), (0.7, 0.3))[0]
    beside = rng.random() < 0.2
    lanes = (0.0, *(-lane * (i + 1) for i in range(oncoming)), *((lane,) if beside else ()))
    left = _side(rng, -1.0, lane * (0.5 + oncoming))
    right = _side(rng, 1.0, lane * (1.5 if beside else 0.5))
    near = rng.uniform(12, 24)
    cross_street = (near, near + rng.uniform(7, 10)) if rng.random() < 0.5 else None
    return Street(lane, lanes, left, right, cross_street, rails=-lane if rng.random() < 0.38 else None)


def _side(rng: Random, sign: float, edge: float) -> Side:
    has_parked_cars = rng.random() < 0.5
    grass_strip = rng.uniform(0.9, 2.0) if rng.random() < 0.5 else 0.0
    curb = edge + 0.25 + (PARKING_M if has_parked_cars else 0.0)
    walkway = rng.uniform(2.0, 3.6)
    parking_bay = has_parked_cars and rng.random() < 0.25
    return Side(sign, curb, grass_strip, walkway, has_parked_cars, parking_bay)
