# SPDX-License-Identifier: Apache-2.0
"""A small town at night: streets, houses, trees, lamps, and the light they throw on the ground.

World frame: metres, x east, y north, z up, the ground at z = 0. The town repeats every
:data:`PERIOD_M` metres in x and y, so that a flight never reaches its end.

Light is in units of the camera's white. Pictures of light hold its square root, scaled to 0..255
("root code"): that keeps dark tones apart in 8 bits, and a product of two codes is the code of the
product, so a texture is lit by one multiplication.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

PERIOD_M = 256.0
TEXELS_PER_M = 8
APRON_M = 128.0  # the ground map goes on this far after its period, so that a view never wraps
LIGHT_CELL_M = 1.0

# Street plan (metres): name -> (axis it runs along, centre line, half width, sidewalk width).
STREETS: dict[str, tuple[str, float, float, float]] = {
    "avenue": ("x", 64.0, 7.6, 4.0),
    "cross": ("y", 80.0, 7.0, 4.0),
    "lane": ("x", 190.0, 4.0, 2.5),
}
BRIDGE_X_M = (202.0, 213.0)  # an elevated road, running along y above everything else
BRIDGE_HEIGHT_M = 7.0
LANE_WIDTH_M = 3.5

# Linear BGR light of the lamps (white about 1).
SODIUM = (0.22, 0.62, 1.0)
WARM = (0.48, 0.80, 1.0)
LED = (0.98, 1.0, 0.92)
SKY = (1.0, 0.86, 0.72)


@dataclass(frozen=True)
class TownLight:
    """How much light there is."""

    lamps: float = 0.62
    """Scale of the street lamps' power (1: the asphalt below a lamp is a mid-grey)."""
    sky: float = 0.008
    """Sky glow, relative to the light below a lamp of power 1."""
    lamp_fraction: float = 1.0
    """Fraction of the lamps that burn."""
    windows: float = 0.3
    """Fraction of the windows that are lit."""


@dataclass(frozen=True)
class Building:
    """A box with windows. ``x0 <= x < x1`` and so on, metres; colours are albedos (BGR, linear)."""

    x0: float
    y0: float
    x1: float
    y1: float
    height: float
    wall: tuple[float, float, float]
    seed: int
    shop: bool


@dataclass(frozen=True)
class Lamp:
    """A street lamp: foot, height (metres), colour of its light and power (1: a main street's)."""

    x: float
    y: float
    height: float
    colour: tuple[float, float, float]
    power: float
    arm: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Tree:
    """A tree: foot, height and radius of the crown (metres)."""

    x: float
    y: float
    height: float
    radius: float
    seed: int


@dataclass
class Town:
    """Everything that does not move."""

    buildings: list[Building] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    parked: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, yaw (rad)
    light: np.ndarray = field(default_factory=lambda: np.zeros((1, 1, 3), np.float32))
    """Light on the ground, linear BGR float32, a cell of LIGHT_CELL_M a pixel, one period."""
    ground: np.ndarray = field(default_factory=lambda: np.zeros((1, 1, 3), np.uint8))
    """Radiance of the ground in root code, uint8 BGR, row = y, one period and the apron."""

    def light_at(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Linear BGR light at ground positions (metres, anywhere), ``(..., 3)`` float32."""
        column = np.floor(np.mod(x, PERIOD_M) / LIGHT_CELL_M).astype(int)
        row = np.floor(np.mod(y, PERIOD_M) / LIGHT_CELL_M).astype(int)
        last = len(self.light) - 1
        light: np.ndarray = self.light[np.minimum(row, last), np.minimum(column, last)]
        return light


@lru_cache(maxsize=2)
def build_town(seed: int, light: TownLight, dense_trees: bool = False) -> Town:
    """Lay out and light a town. The result is shared between callers: do not change it.

    Args:
        seed: chooses houses, trees, windows and textures.
        light: how many lamps burn, and how brightly.
        dense_trees: rows of large trees along the avenue that hide parts of it.
    """
    rng = np.random.default_rng(seed)
    town = Town()
    _place_buildings(town, rng)
    _place_lamps(town, light, rng)
    _place_trees(town, dense_trees, rng)
    _place_parked(town, rng)
    town.light = _light_map(town, light)
    town.ground = _ground_map(town, rng)
    return town


# --------------------------------------------------------------------------- lay-out


def _place_buildings(town: Town, rng: np.random.Generator) -> None:
    walls = [
        (0.20, 0.22, 0.26),
        (0.16, 0.20, 0.30),
        (0.28, 0.28, 0.28),
        (0.14, 0.16, 0.19),
        (0.22, 0.28, 0.34),
        (0.30, 0.30, 0.26),
    ]

    def add(x0: float, y0: float, x1: float, y1: float, height: float, shop: bool = False) -> None:
        wall = walls[rng.integers(len(walls))]
        town.buildings.append(
            Building(x0, y0, x1, y1, height, wall, int(rng.integers(1 << 30)), shop)
        )

    # Shops and flats along the avenue, on both sides.
    for y0, y1 in ((84.0, 99.0), (29.0, 44.0)):
        x = 100.0
        while x < 186.0:
            width = float(rng.uniform(14, 26))
            if rng.random() < 0.85:
                add(x, y0, min(x + width, 194.0), y1, float(rng.uniform(6, 15)), shop=True)
            x += width + float(rng.uniform(4, 10))
    # A block of flats and a hall by the park, houses along the lane.
    add(224.0, 88.0, 240.0, 124.0, 18.0)
    add(20.0, 88.0, 52.0, 112.0, 9.0, shop=True)
    for x in np.arange(98.0, 190.0, 19.0):
        add(x, 203.0, x + 10.0, 212.0, float(rng.uniform(4, 7)))
        add(x + 3, 168.0, x + 13.0, 178.0, float(rng.uniform(4, 8)))
    add(8.0, 204.0, 50.0, 230.0, 8.0)


def _place_lamps(town: Town, light: TownLight, rng: np.random.Generator) -> None:
    def add(
        x: float,
        y: float,
        height: float,
        colour: tuple[float, float, float],
        power: float,
        arm: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        below_bridge = BRIDGE_X_M[0] - 3 < x % PERIOD_M < BRIDGE_X_M[1] + 3
        if rng.random() < light.lamp_fraction and not below_bridge:
            power *= light.lamps * float(rng.uniform(0.8, 1.15))
            town.lamps.append(Lamp(x % PERIOD_M, y % PERIOD_M, height, colour, power, arm))

    for index, x in enumerate(np.arange(6.0, PERIOD_M, 25.0)):
        side = 1 if index % 2 else -1
        add(x, 64.0 + side * 8.6, 8.5, SODIUM if x < 190 else WARM, 1.0, (0.0, -side * 2.0))
    for index, y in enumerate(np.arange(12.0, PERIOD_M, 27.0)):
        side = 1 if index % 2 else -1
        if abs(y - 64) > 12:
            add(80.0 + side * 8.2, y, 9.0, LED, 0.65, (-side * 2.0, 0.0))
    for x in np.arange(18.0, PERIOD_M, 42.0):
        add(x, 195.2, 6.5, WARM, 0.55, (0.0, -1.2))
    for x, y in ((232, 150), (18, 150), (40, 132), (240, 172), (10, 178), (52, 168)):
        add(float(x), float(y), 4.0, LED, 0.45)
    for x, y in ((112, 126), (146, 126), (178, 126), (112, 150), (146, 150), (178, 150)):
        add(float(x), float(y), 7.0, LED, 0.5)
    for x, y in ((24, 122), (52, 122)):
        add(float(x), float(y), 9.0, LED, 1.1)


def _place_trees(town: Town, dense: bool, rng: np.random.Generator) -> None:
    def add(x: float, y: float, low: float, high: float) -> None:
        height = float(rng.uniform(low, high))
        town.trees.append(
            Tree(
                x % PERIOD_M,
                y % PERIOD_M,
                height,
                height * float(rng.uniform(0.3, 0.4)),
                int(rng.integers(1 << 30)),
            )
        )

    spacing = 9.0 if dense else 25.0
    for x in np.arange(17.0, PERIOD_M, spacing):
        if 66 < x % PERIOD_M < 96 or BRIDGE_X_M[0] - 4 < x < BRIDGE_X_M[1] + 4:
            continue
        size = (8.0, 11.0) if dense else (4.5, 7.0)
        for y in (53.5, 74.5):
            if dense or rng.random() < 0.8:
                add(x + rng.uniform(-1, 1), y, *size)
    for _ in range(46):  # the park
        x, y = rng.uniform(220, 322), rng.uniform(130, 180)
        if abs((y - 130) - (x - 220) * 0.45) > 5 and abs(y - 155) > 4:
            add(x, y, 5.0, 11.0)
    for _ in range(30):  # gardens
        add(float(rng.uniform(94, 196)), float(rng.uniform(216, 300)), 4.0, 9.0)
    for _ in range(14):
        add(float(rng.uniform(94, 196)), float(rng.uniform(2, 24)), 5.0, 9.0)


def _place_parked(town: Town, rng: np.random.Generator) -> None:
    for y in (113.0, 119.0, 137.0, 143.0):  # the car park's bays
        for x in np.arange(104.0, 188.0, 2.8):
            if rng.random() < 0.35:
                yaw = math.pi / 2 if rng.random() < 0.5 else -math.pi / 2
                town.parked.append((float(x) + 1.4, y, yaw + float(rng.normal(0, 0.02))))
    for x in np.arange(98.0, 190.0, 7.0):
        if rng.random() < 0.4:
            town.parked.append((float(x), 187.2, float(rng.normal(0, 0.02))))
    for y in np.arange(100.0, 180.0, 6.5):
        if rng.random() < 0.4:
            town.parked.append((85.8, float(y), math.pi / 2 + float(rng.normal(0, 0.02))))


# --------------------------------------------------------------------------- light


def _light_map(town: Town, light: TownLight) -> np.ndarray:
    """Light on the ground by lamps, shop fronts and sky; ``(cells, cells, 3)`` float32, linear."""
    cells = int(PERIOD_M / LIGHT_CELL_M)
    axis = (np.arange(cells) + 0.5) * LIGHT_CELL_M
    total = np.tile(np.array(SKY, np.float32) * np.float32(light.sky), (cells, cells, 1))
    for lamp in town.lamps:
        _add_pool(
            total,
            axis,
            lamp.x + lamp.arm[0],
            lamp.y + lamp.arm[1],
            lamp.height,
            np.array(lamp.colour) * lamp.power,
        )
    for building in town.buildings:
        if building.shop and light.windows > 0:
            for x in np.arange(building.x0 + 2, building.x1 - 1, 4.0):
                front = building.y0 - 1.0 if building.y0 > 64 else building.y1 + 1.0
                _add_pool(total, axis, x, front, 2.5, np.array(WARM) * 0.5 * light.windows)
    for tree in town.trees:
        _shade(total, axis, tree)
    return total


def _wrapped(axis: np.ndarray, centre: float) -> np.ndarray:
    """Signed distance along one axis to the nearest copy of ``centre``."""
    return (axis - centre + PERIOD_M / 2) % PERIOD_M - PERIOD_M / 2


def _add_pool(
    total: np.ndarray, axis: np.ndarray, x: float, y: float, height: float, colour: np.ndarray
) -> None:
    reach = 7.0 * height
    columns = np.flatnonzero(np.abs(_wrapped(axis, x)) < reach)
    rows = np.flatnonzero(np.abs(_wrapped(axis, y)) < reach)
    squared = _wrapped(axis[columns], x)[None] ** 2 + _wrapped(axis[rows], y)[:, None] ** 2
    pool = (height**2 / (height**2 + squared)) ** 1.5
    total[np.ix_(rows, columns)] += (pool[:, :, None] * colour).astype(np.float32)


def _shade(total: np.ndarray, axis: np.ndarray, tree: Tree) -> None:
    columns = np.flatnonzero(np.abs(_wrapped(axis, tree.x)) < 2 * tree.radius)
    rows = np.flatnonzero(np.abs(_wrapped(axis, tree.y)) < 2 * tree.radius)
    squared = (
        _wrapped(axis[columns], tree.x)[None] ** 2 + _wrapped(axis[rows], tree.y)[:, None] ** 2
    ) / tree.radius**2
    total[np.ix_(rows, columns)] *= (1.0 - 0.6 * np.exp(-squared))[:, :, None].astype(np.float32)


def root_code(linear: np.ndarray) -> np.ndarray:
    """Root code (float, 0..255) of linear light (1.0: the camera's white)."""
    code: np.ndarray = 255.0 * np.sqrt(np.minimum(np.maximum(linear, 0.0), 1.0))
    return code


# --------------------------------------------------------------------------- ground texture


class _Canvas:
    """Albedo of one period in root code, drawn with world coordinates; shapes wrap around."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.side = int(PERIOD_M * TEXELS_PER_M)
        self.rng = rng
        self.pixels = np.zeros((self.side, self.side, 3), np.uint8)

    def _copies(self, points: np.ndarray) -> list[np.ndarray]:
        low, high = points.min(axis=0), points.max(axis=0)
        shifts = [np.array([dx, dy]) * PERIOD_M for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        seen = [s for s in shifts if (low + s < PERIOD_M + 1).all() and (high + s > -1).all()]
        return [np.round((points + s) * TEXELS_PER_M * 16).astype(np.int32) for s in seen]

    def polygon(
        self, points: list[tuple[float, float]], albedo: tuple[float, float, float]
    ) -> None:
        """Fill a polygon (metres) with a linear BGR albedo."""
        code = tuple(float(c) for c in root_code(np.array(albedo)))
        for copy in self._copies(np.array(points, float)):
            cv2.fillPoly(self.pixels, [copy], code, cv2.LINE_AA, 4)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, albedo: tuple[float, float, float]
    ) -> None:
        """Fill an axis-aligned rectangle (metres)."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], albedo)

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        width: float,
        albedo: tuple[float, float, float],
    ) -> None:
        """Draw a straight stroke of a width in metres."""
        a, b = np.array(start, float), np.array(end, float)
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
        across = np.array([-along[1], along[0]]) * width / 2
        self.polygon(
            [tuple(a + across), tuple(b + across), tuple(b - across), tuple(a - across)], albedo
        )

    def disc(self, x: float, y: float, radius: float, albedo: tuple[float, float, float]) -> None:
        """Fill a slightly irregular disc (a stain, a bush)."""
        angle = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        r = radius * self.rng.uniform(0.75, 1.15, len(angle))
        self.polygon(
            [(x + a, y + b) for a, b in zip(r * np.cos(angle), r * np.sin(angle), strict=True)],
            albedo,
        )

    def texture(self, strength: float, grain_m: float) -> np.ndarray:
        """Periodic noise of the canvas size around 1, for multiplication; float32."""
        cells = max(int(PERIOD_M / grain_m), 4)
        small = self.rng.normal(1.0, strength, (cells, cells)).astype(np.float32)
        small = np.pad(small, 2, mode="wrap")
        scale = self.side / cells
        size = int(round((cells + 4) * scale))
        margin = int(round(2 * scale))
        big = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
        return big[margin : margin + self.side, margin : margin + self.side]


GRASS = (0.038, 0.066, 0.052)
SOIL = (0.075, 0.095, 0.12)
ASPHALT = (0.105, 0.105, 0.105)
OLD_ASPHALT = (0.13, 0.13, 0.13)
CONCRETE = (0.26, 0.28, 0.30)
PAINT = (0.62, 0.64, 0.64)
YELLOW = (0.12, 0.45, 0.60)


def _ground_map(town: Town, rng: np.random.Generator) -> np.ndarray:
    canvas = _Canvas(rng)
    canvas.box(0, 0, PERIOD_M, PERIOD_M, GRASS)
    _draw_fields(canvas)
    _draw_park(canvas)
    _draw_car_park(canvas)
    _draw_gardens(canvas)
    for building in town.buildings:
        canvas.box(
            building.x0 - 1.5, building.y0 - 1.5, building.x1 + 1.5, building.y1 + 1.5, CONCRETE
        )
    _draw_streets(canvas)
    _draw_wear(canvas)
    _roughen(canvas)
    return _light_up(canvas.pixels, town.light)


def _draw_fields(canvas: _Canvas) -> None:
    canvas.box(220, 236, 318, 306, SOIL)
    for y in np.arange(236.5, 306, 1.6):
        canvas.line((220, y), (318, y + 2.0), 0.7, (0.045, 0.085, 0.07))
    canvas.box(96, 2, 196, 25, (0.045, 0.075, 0.065))
    canvas.box(92, 25.5, 250, 27.5, (0.16, 0.18, 0.20))
    for _ in range(160):
        x, y = canvas.rng.uniform(0, PERIOD_M, 2)
        canvas.disc(x, y, canvas.rng.uniform(0.4, 2.2), (0.03, 0.07, 0.045))


def _draw_park(canvas: _Canvas) -> None:
    path = (0.20, 0.23, 0.26)
    canvas.line((218, 129), (330, 180), 2.6, path)
    canvas.line((218, 155), (330, 155), 3.0, path)
    canvas.line((275, 128), (275, 183), 2.4, path)
    canvas.disc(275, 155, 9, path)
    canvas.disc(275, 155, 4, (0.05, 0.06, 0.04))
    canvas.box(272, 112, 314, 128, (0.30, 0.16, 0.09))  # a blue court with a red border
    canvas.box(274, 114, 312, 126, (0.09, 0.12, 0.32))
    for x in (276, 293, 310):
        canvas.line((x, 115), (x, 125), 0.12, PAINT)
    for y in (115, 125):
        canvas.line((276, y), (310, y), 0.12, PAINT)


def _draw_car_park(canvas: _Canvas) -> None:
    canvas.box(98, 106, 194, 160, OLD_ASPHALT)
    for y0, y1 in ((110.5, 115.8), (116.4, 121.6), (134.4, 139.6), (140.4, 145.6)):
        for x in np.arange(104.0, 190.0, 2.8):
            canvas.line((x, y0), (x, y1), 0.12, PAINT)
    canvas.box(104, 115.8, 188, 116.4, CONCRETE)
    canvas.box(104, 139.7, 188, 140.3, CONCRETE)
    canvas.box(91, 127, 98, 133, OLD_ASPHALT)


def _draw_gardens(canvas: _Canvas) -> None:
    for x in np.arange(95.0, 195.0, 19.0):
        canvas.box(x + 1, 197, x + 2.2, 204, CONCRETE)
        canvas.box(x, 214, x + 16, 232, (0.04, 0.075, 0.055))
        canvas.line((x, 197), (x, 250), 0.3, (0.10, 0.12, 0.14))
        canvas.box(x + 5, 218, x + 9, 222, (0.16, 0.17, 0.19))


def _draw_streets(canvas: _Canvas) -> None:
    for axis, centre, half, walk in STREETS.values():
        _draw_band(canvas, axis, centre - half - walk, centre + half + walk, CONCRETE)
    for axis, centre, half, _ in STREETS.values():
        _draw_band(canvas, axis, centre - half - 0.25, centre + half + 0.25, (0.36, 0.37, 0.38))
        _draw_band(canvas, axis, centre - half, centre + half, ASPHALT)
    _draw_slabs(canvas)
    for name, (axis, centre, half, _) in STREETS.items():
        _draw_markings(canvas, axis, centre, half, yellow=name == "avenue")
    for name in ("avenue", "lane"):
        _draw_junction(canvas, 80.0, STREETS["cross"][2], STREETS[name][1], STREETS[name][2])


def _draw_band(
    canvas: _Canvas, axis: str, low: float, high: float, albedo: tuple[float, float, float]
) -> None:
    if axis == "x":
        canvas.box(0, low, PERIOD_M, high, albedo)
    else:
        canvas.box(low, 0, high, PERIOD_M, albedo)


def _draw_slabs(canvas: _Canvas) -> None:
    joint = (0.20, 0.21, 0.22)
    for side in (53.9, 74.1):
        for x in np.arange(0, PERIOD_M, 2.0):
            if not 71 < x < 89:
                canvas.line((x, side - 1.9), (x, side + 1.9), 0.08, joint)
    for side in (70.9, 89.1):
        for y in np.arange(0, PERIOD_M, 2.0):
            if not 54 < y < 74 and not 184 < y < 196:
                canvas.line((side - 1.9, y), (side + 1.9, y), 0.08, joint)


def _draw_markings(canvas: _Canvas, axis: str, centre: float, half: float, yellow: bool) -> None:
    def stroke(
        a: float, b: float, offset: float, width: float, albedo: tuple[float, float, float]
    ) -> None:
        if axis == "x":
            canvas.line((a, centre + offset), (b, centre + offset), width, albedo)
        else:
            canvas.line((centre + offset, a), (centre + offset, b), width, albedo)

    middle = YELLOW if yellow else PAINT
    if half > 5:
        stroke(0, PERIOD_M, -0.15, 0.14, middle)
        stroke(0, PERIOD_M, 0.15, 0.14, middle)
        for offset in (-half + 0.3, half - 0.3):
            stroke(0, PERIOD_M, offset, 0.14, PAINT)
    for start in np.arange(0.0, PERIOD_M, 8.0):
        for offset in (-LANE_WIDTH_M, LANE_WIDTH_M) if half > 5 else (0.0,):
            stroke(start, start + 3.5, offset, 0.14, PAINT)


def _draw_junction(canvas: _Canvas, x: float, half_x: float, y: float, half_y: float) -> None:
    """A crossing of a street along y (at ``x``) with one along x (at ``y``), with zebra stripes."""
    canvas.box(x - half_x - 5, y - half_y, x + half_x + 5, y + half_y, ASPHALT)
    canvas.box(x - half_x, y - half_y - 5, x + half_x, y + half_y + 5, ASPHALT)
    for offset in np.arange(-half_y + 0.5, half_y - 0.3, 1.0):
        for side in (x - half_x - 3.6, x + half_x + 0.6):
            canvas.box(side, y + offset, side + 3.0, y + offset + 0.5, PAINT)
    for offset in np.arange(-half_x + 0.5, half_x - 0.3, 1.0):
        for side in (y - half_y - 3.6, y + half_y + 0.6):
            canvas.box(x + offset, side, x + offset + 0.5, side + 3.0, PAINT)
    canvas.box(x - half_x - 4.6, y - half_y, x - half_x - 4.2, y, PAINT)
    canvas.box(x + half_x + 4.2, y, x + half_x + 4.6, y + half_y, PAINT)
    canvas.box(x, y - half_y - 4.6, x + half_x, y - half_y - 4.2, PAINT)
    canvas.box(x - half_x, y + half_y + 4.2, x, y + half_y + 4.6, PAINT)


def _draw_wear(canvas: _Canvas) -> None:
    """Patches, cracks, manholes and oil."""
    rng = canvas.rng
    for axis, centre, half, _ in STREETS.values():
        for _ in range(44):
            along, across = rng.uniform(0, PERIOD_M), centre + rng.uniform(-half + 1, half - 1)
            length, width = rng.uniform(1.0, 7.0), rng.uniform(0.5, 2.2)
            tone = float(rng.choice([0.075, 0.09, 0.13]))
            x, y = (along, across) if axis == "x" else (across, along)
            dx, dy = (length, width) if axis == "x" else (width, length)
            if rng.random() < 0.5:
                canvas.box(x, y, x + dx, y + dy, (tone, tone, tone))
            else:
                canvas.disc(x, y, width * 0.35, (0.06, 0.06, 0.06))
        for _ in range(30):
            along, across = rng.uniform(0, PERIOD_M), centre + rng.uniform(-half, half)
            x, y = (along, across) if axis == "x" else (across, along)
            for _ in range(4):
                nx, ny = x + rng.normal(0, 0.9), y + rng.normal(0, 0.9)
                canvas.line((x, y), (nx, ny), 0.05, (0.085, 0.085, 0.085))
                x, y = nx, ny


def _roughen(canvas: _Canvas) -> None:
    """Texture at several scales, everywhere; strips keep the memory small."""
    fine_tile: np.ndarray = canvas.rng.normal(1.0, 0.075, (512, 512)).astype(np.float32)
    fine_tile = cv2.GaussianBlur(fine_tile, (0, 0), 0.7)
    repeat = canvas.side // 512
    coarse = canvas.texture(0.10, 0.5) * canvas.texture(0.06, 3.0) * canvas.texture(0.07, 11.0)
    for top in range(0, canvas.side, 512):
        factor = coarse[top : top + 512] * np.tile(fine_tile, (1, repeat))
        strip = canvas.pixels[top : top + 512]
        np.clip(strip * factor[:, :, None], 0, 255, out=strip, casting="unsafe")


def _light_up(albedo_code: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Radiance of the ground in root code, with its apron."""
    side = len(albedo_code)
    cells = len(light)
    scale = side // cells
    root: np.ndarray = np.pad(np.sqrt(light), ((1, 1), (1, 1), (0, 0)), mode="wrap")
    padded = side + int(APRON_M * TEXELS_PER_M)
    ground = np.empty((padded, padded, 3), np.uint8)
    for top in range(0, side, 16 * scale):
        first = top // scale
        fine = cv2.resize(root[first : first + 18], ((cells + 2) * scale, 18 * scale))
        lit: np.ndarray = albedo_code[top : top + 16 * scale] * fine[scale:-scale, scale:-scale]
        ground[top : top + 16 * scale, :side] = np.clip(lit + 0.5, 0, 255).astype(np.uint8)
    ground[:side, side:] = ground[:side, : padded - side]
    ground[side:] = ground[: padded - side]
    return ground
