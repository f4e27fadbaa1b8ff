"""The plan of a street: lanes, pavements, a crossing, and where one block of it ends."""

from dataclasses import dataclass
from random import Random

PARKING_M = 2.1
FAR_M = 78.0


@dataclass(frozen=True)
class Side:
    """One side of the street; distances in meters from our lane's middle, outwards."""

    sign: float
    kerb: float
    verge: float
    path: float
    parked: bool
    bay: bool

    @property
    def front(self) -> float:
        """Where the houses stand."""
        return self.kerb + self.verge + self.path

    @property
    def lane_edge(self) -> float:
        return self.kerb - (PARKING_M if self.parked else 0.0)


@dataclass(frozen=True)
class Street:
    """`lanes`: the middles of the lanes (ours is 0); `crossing`: near and far edge of a crossing road."""

    lane_m: float
    lanes: tuple[float, ...]
    left: Side
    right: Side
    crossing: tuple[float, float] | None
    rails: float | None  # the middle of a tram line

    @property
    def sides(self) -> tuple[Side, Side]:
        return (self.left, self.right)

    def block(self, z: float) -> int:
        """0 before the crossing, 1 on it, 2 beyond: what lies in a farther block is painted first."""
        if self.crossing is None or z < self.crossing[0]:
            return 0
        return 1 if z < self.crossing[1] else 2


def draw_street(rng: Random) -> Street:
    """A random street with traffic on the right."""
    lane = rng.uniform(3.0, 3.5)
    oncoming = rng.choices((1, 2), (0.7, 0.3))[0]
    beside = rng.random() < 0.2
    lanes = (0.0, *(-lane * (i + 1) for i in range(oncoming)), *((lane,) if beside else ()))
    left = _side(rng, -1.0, lane * (0.5 + oncoming))
    right = _side(rng, 1.0, lane * (1.5 if beside else 0.5))
    near = rng.uniform(12, 24)
    crossing = (near, near + rng.uniform(7, 10)) if rng.random() < 0.5 else None
    return Street(lane, lanes, left, right, crossing, rails=-lane if rng.random() < 0.38 else None)


def _side(rng: Random, sign: float, edge: float) -> Side:
    parked = rng.random() < 0.5
    verge = rng.uniform(0.9, 2.0) if rng.random() < 0.5 else 0.0
    kerb = edge + 0.25 + (PARKING_M if parked else 0.0)
    return Side(sign, kerb, verge, rng.uniform(2.0, 3.6), parked, bay=parked and rng.random() < 0.25)
