# SPDX-License-Identifier: Apache-2.0
"""Who moves through the night town, and on which way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlkd_ros.data.night_flight import actors
from mlkd_ros.data.night_flight.actors import PersonLook
from mlkd_ros.data.night_flight.scenarios import Scenario
from mlkd_ros.data.night_flight.town import PERIOD_M


@dataclass(frozen=True)
class Clock:
    """Number of frames of a flight and their rate in Hz."""

    frames: int
    rate: float

    @property
    def times(self) -> np.ndarray:
        """Time of every frame, seconds."""
        return np.arange(self.frames) / self.rate


@dataclass(frozen=True)
class Mover:
    """A vehicle or person and its way, sampled once per frame."""

    identity: str
    kind: str
    model: str
    paint: str
    look: PersonLook | None
    pose: np.ndarray  # (frames, 3): x, y (metres, not wrapped), yaw (rad)
    walked: np.ndarray  # (frames,) metres
    lamps_on: bool


# Driving lanes: axis, offset across (metres), direction, speed (m/s), share of the traffic.
LANES: tuple[tuple[str, float, int, float, float], ...] = (
    ("x", 62.25, 1, 8.0, 0.2),
    ("x", 58.75, 1, 9.5, 0.2),
    ("x", 65.75, -1, 8.5, 0.2),
    ("x", 69.25, -1, 10.0, 0.2),
    ("y", 81.75, 1, 8.0, 0.08),
    ("y", 78.25, -1, 8.5, 0.08),
    ("x", 191.9, -1, 7.0, 0.04),
)
# Footways: axis and offset.
FOOTWAYS: tuple[tuple[str, float], ...] = (
    ("x", 53.9),
    ("x", 54.7),
    ("x", 74.1),
    ("x", 73.3),
    ("y", 70.9),
    ("y", 89.1),
    ("x", 155.0),
)
CAR_GAP_M = 1.8  # least distance between bumpers
LANE_GAP_M = 2.8  # between the middles of vehicles side by side
WALKER_CLEARANCE_M = 2.2
START_X_M = 8.0  # where the target starts along the avenue


def traffic(settings: Scenario, clock: Clock, rng: np.random.Generator) -> list[Mover]:
    """The target first, then everybody else who gets through without running into another."""
    target = _target(settings, clock, rng)
    movers = [target]
    for _ in range(settings.traffic * 3):
        if len(movers) > settings.traffic:
            break
        candidate = _random_vehicle(f"vehicle_{len(movers)}", settings, clock, rng)
        if _keeps_clear(candidate, movers, clock):
            movers.append(candidate)
    people = 0
    for _ in range(settings.people * 2):
        if people >= settings.people:
            break
        candidate = _random_walker(f"person_{people + 1}", clock, rng)
        if _keeps_clear(candidate, movers, clock):
            movers.append(candidate)
            people += 1
    return movers


def _target(settings: Scenario, clock: Clock, rng: np.random.Generator) -> Mover:
    model, paint = settings.target
    way, slow_at = _way(settings.path)
    travelled = _distance(settings.speed, slow_at, clock, rng)
    pose = way.at(travelled)
    if model == "person":
        look = PersonLook(1.8, (0.30, 0.32, 0.60), (0.10, 0.07, 0.06))
        return Mover("target", "person", model, paint, look, pose, travelled, False)
    kind = actors.MODELS[model].kind
    return Mover("target", kind, model, paint, None, pose, travelled, settings.lamps_of_target)


class _Way:
    """A line on the ground, given by corners; sampled by the distance travelled along it."""

    def __init__(self, points: np.ndarray) -> None:
        steps = np.diff(points, axis=0)
        self._points = points
        self._along = np.concatenate(([0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))))
        self._yaw = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))

    def at(self, distance: np.ndarray) -> np.ndarray:
        """Poses ``(N, 3)``: x, y, yaw."""
        x, y = (np.interp(distance, self._along, self._points[:, k]) for k in range(2))
        middle = (self._along[1:] + self._along[:-1]) / 2
        return np.column_stack((x, y, np.interp(distance, middle, self._yaw)))


def _way(name: str) -> tuple[_Way, tuple[float, ...]]:
    """The named way and the distances along it at which its traveller slows down."""
    far = 40 * PERIOD_M
    if name == "turn":
        arc = np.linspace(-math.pi / 2, 0.0, 24)
        corner = np.column_stack((72.75 + 9.0 * np.cos(arc), 71.25 + 9.0 * np.sin(arc)))
        points = np.concatenate(([(START_X_M, 62.25)], corner, [(81.75, far)]))
        return _Way(points), (72.75 - START_X_M + 7.0,)
    ways = {
        "straight": [(START_X_M, 62.25), (far, 62.25)],
        "outer": [(110.0, 58.75), (far, 58.75)],
        "walk": [(96.0, 73.3), (far, 73.3)],
        "park": [(222.0, 155.0), (far, 155.0)],
    }
    return _Way(np.array(ways[name])), ()


def _distance(
    speed: float, slow_at: tuple[float, ...], clock: Clock, rng: np.random.Generator
) -> np.ndarray:
    """Distance travelled at every frame, metres: an uneven speed, slower in bends."""
    phase = rng.uniform(0, 2 * math.pi, 2)
    travelled = np.empty(clock.frames)
    way = 0.0
    for index, time in enumerate(clock.times):
        travelled[index] = way
        factor = 1 + 0.14 * math.sin(0.5 * time + phase[0]) + 0.06 * math.sin(1.3 * time + phase[1])
        for bend in slow_at:
            factor *= 1 - 0.5 * math.exp(-(((way - bend) / 14.0) ** 2))
        way += speed * factor / clock.rate
    return travelled


def _random_vehicle(
    identity: str, settings: Scenario, clock: Clock, rng: np.random.Generator
) -> Mover:
    share = np.array([lane[4] for lane in LANES])
    axis, offset, direction, speed, _ = LANES[rng.choice(len(LANES), p=share / share.sum())]
    if rng.random() < settings.lookalikes and settings.target[0] != "person":
        model, paint = settings.target
    else:
        model = str(
            rng.choice(["sedan", "hatchback", "suv", "van", "bus"], p=[0.36, 0.28, 0.22, 0.1, 0.04])
        )
        paint = str(rng.choice(list(actors.PAINTS)))
    along = rng.uniform(0, PERIOD_M) + direction * speed * clock.times
    yaw = (0.0 if axis == "x" else math.pi / 2) + (0.0 if direction > 0 else math.pi)
    return Mover(
        identity,
        actors.MODELS[model].kind,
        model,
        paint,
        None,
        _straight(axis, offset, along, yaw),
        along,
        True,
    )


def _random_walker(identity: str, clock: Clock, rng: np.random.Generator) -> Mover:
    axis, offset = FOOTWAYS[rng.integers(len(FOOTWAYS))]
    direction = 1 if rng.random() < 0.5 else -1
    walked = float(rng.uniform(0.9, 1.7)) * clock.times + float(rng.uniform(0, 2))
    along = rng.uniform(0, PERIOD_M) + direction * walked
    yaw = (0.0 if axis == "x" else math.pi / 2) + (0.0 if direction > 0 else math.pi)
    clothes = rng.uniform(0.02, 0.45, (2, 1)) * rng.uniform(0.75, 1.25, (2, 3))
    top, trousers = ((float(b), float(g), float(r)) for b, g, r in clothes)
    look = PersonLook(float(rng.uniform(1.6, 1.9)), top, trousers)
    offset += float(rng.uniform(-0.4, 0.4))
    return Mover(
        identity, "person", "person", "", look, _straight(axis, offset, along, yaw), walked, False
    )


def _straight(axis: str, offset: float, along: np.ndarray, yaw: float) -> np.ndarray:
    across = np.full_like(along, offset)
    x, y = (along, across) if axis == "x" else (across, along)
    return np.column_stack((x, y, np.full_like(along, yaw)))


def _keeps_clear(candidate: Mover, others: list[Mover], clock: Clock) -> bool:
    """Whether a mover never comes too near to any of the others."""
    step = max(1, int(clock.rate / 4))
    mine = candidate.pose[::step]
    theirs = np.array([mover.pose[::step] for mover in others])
    gap = (theirs - mine)[..., :2]
    gap = (gap + PERIOD_M / 2) % PERIOD_M - PERIOD_M / 2
    if candidate.look is not None:
        return bool((np.hypot(gap[..., 0], gap[..., 1]) > WALKER_CLEARANCE_M).all())
    cos, sin = np.cos(mine[:, 2]), np.sin(mine[:, 2])
    along = np.abs(gap[..., 0] * cos + gap[..., 1] * sin)
    across = np.abs(gap[..., 1] * cos - gap[..., 0] * sin)
    parallel = np.abs(np.sin(theirs[..., 2] - mine[:, 2])) < 0.2
    room = np.array([(_length(mover) + _length(candidate)) / 2 + CAR_GAP_M for mover in others])
    clear = (along > room[:, None]) | (across > np.where(parallel, LANE_GAP_M, room[:, None]))
    return bool(clear.all())


def _length(mover: Mover) -> float:
    return 1.0 if mover.look is not None else actors.MODELS[mover.model].length


@dataclass(frozen=True)
class Placed:
    """A mover in one frame: pose (x, y, yaw), metres walked or driven, light where it is."""

    mover: Mover
    pose: tuple[float, float, float]
    walked: float
    light: np.ndarray
