# SPDX-License-Identifier: Apache-2.0
"""Everything above the ground, painted in the right order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mlkd_ros.data.night_flight import actors
from mlkd_ros.data.night_flight.actors import Camera, Painter, PersonLook
from mlkd_ros.data.night_flight.scenarios import Scenario
from mlkd_ros.data.night_flight.town import (
    BRIDGE_HEIGHT_M,
    BRIDGE_X_M,
    PERIOD_M,
    Building,
    Lamp,
    Town,
    Tree,
)
from mlkd_ros.data.night_flight.traffic import Placed

VIEW_MARGIN_PX = 120  # objects this far outside the picture are still painted


def paint_scene(
    painter: Painter,
    camera: Camera,
    town: Town,
    settings: Scenario,
    movers: list[Placed],
) -> None:
    """Paint everything above the ground, what is hidden before what hides it."""
    walls = _walls_in_view(camera, town)
    bridge = _bridge_in_view(camera) if settings.bridge else None
    things = _small_things(camera, town, movers)
    slots: list[list[_Thing]] = [[] for _ in range(len(walls) + 2)]
    for thing, slot in zip(things, _slots(things, camera, walls, bridge is not None), strict=True):
        slots[slot].append(thing)
    for number, members in enumerate(slots):
        for thing in sorted(members, key=lambda t: -t.distance):
            thing.paint(painter)
        if number < len(walls):
            building, shift = walls[number]
            actors.paint_building(
                painter,
                camera,
                building,
                shift,
                settings.light.windows,
                town.light_at,
                settings.light.sky,
            )
        elif number == len(walls) and bridge is not None:
            actors.paint_bridge(
                painter, camera, bridge[0], bridge[1], settings.light.sky, settings.light.lamps
            )


def _walls_in_view(camera: Camera, town: Town) -> list[tuple[Building, tuple[float, float]]]:
    """Buildings in the picture with the shift of their nearest copy, from far to near."""
    plans = np.array([(b.x0, b.y0, b.x1, b.y1, b.height) for b in town.buildings])
    centre = (plans[:, :2] + plans[:, 2:4]) / 2
    shift = PERIOD_M * np.round((_look_point(camera) - centre) / PERIOD_M)
    corners = np.empty((len(plans), 8, 3))
    for number in range(8):
        corners[:, number, 0] = plans[:, 2 * (number & 1)] + shift[:, 0]
        corners[:, number, 1] = plans[:, 1 + (number & 2)] + shift[:, 1]
        corners[:, number, 2] = plans[:, 4] * (number >> 2)
    seen, depth = camera.project(corners.reshape(-1, 3))
    seen, depth = seen.reshape(-1, 8, 2), depth.reshape(-1, 8)
    inside = (
        (depth.min(axis=1) > actors.MIN_DEPTH_M)
        & (seen.max(axis=1) > 0).all(axis=1)
        & (seen.min(axis=1) < (camera.width, camera.height)).all(axis=1)
    )
    away = np.hypot(*(centre + shift - camera.position[:2]).T)
    order = sorted(np.flatnonzero(inside), key=lambda i: -away[i])
    return [(town.buildings[i], (float(shift[i, 0]), float(shift[i, 1]))) for i in order]


def _look_point(camera: Camera) -> np.ndarray:
    """Where the optical axis meets the ground (x, y)."""
    forward = camera.rotation[2]
    point: np.ndarray = camera.position[:2] - forward[:2] * (camera.position[2] / forward[2])
    return point


def _bridge_in_view(camera: Camera) -> tuple[float, tuple[float, float]] | None:
    """Shift of the bridge's nearest copy and the stretch (y, metres) to paint, if in view."""
    aim = _look_point(camera)
    middle = sum(BRIDGE_X_M) / 2
    shift = PERIOD_M * round((aim[0] - middle) / PERIOD_M)
    y = np.arange(aim[1] - 120.0, aim[1] + 120.0, 8.0)
    line = np.column_stack((np.full_like(y, middle + shift), y, np.full_like(y, BRIDGE_HEIGHT_M)))
    seen, depth = camera.project(line)
    wide = 12.0 * camera.focal_px / np.maximum(depth, 1.0)
    inside = (
        (depth > 3 * actors.MIN_DEPTH_M)
        & (seen[:, 0] > -wide)
        & (seen[:, 0] < camera.width + wide)
        & (seen[:, 1] > -wide)
        & (seen[:, 1] < camera.height + wide)
    )
    if not inside.any():
        return None
    return shift, (float(y[inside].min()) - 8.0, float(y[inside].max()) + 16.0)


@dataclass(frozen=True)
class _Thing:
    """Something small enough to be painted in one go: mover, parked car, tree or lamp."""

    extent: np.ndarray  # (8, 3) world points that tell where it is
    distance: float  # from the camera, over the ground
    paint: Callable[[Painter], None]


def _slots(
    things: list[_Thing],
    camera: Camera,
    walls: list[tuple[Building, tuple[float, float]]],
    bridge: bool,
) -> list[int]:
    """The number of what each thing is painted before.

    That is the first building that hides some of it, the bridge (after the buildings), or nothing.
    """
    if not things:
        return []
    points = np.array([thing.extent for thing in things])
    slots = np.full(len(things), len(walls) + 1)
    if bridge:
        low = points[:, :, 2].max(axis=1) < BRIDGE_HEIGHT_M - 1.0
        slots[low & actors.bridge_hides(camera, points)] = len(walls)
    for number in reversed(range(len(walls))):
        slots[_building_hides(*walls[number], camera.position, points)] = number
    return [int(slot) for slot in slots]


def _building_hides(
    building: Building, shift: tuple[float, float], eye: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Whether a line of sight to each thing ``(T, 8, 3)`` goes through the building; ``(T,)``."""
    low = np.array([building.x0 + shift[0], building.y0 + shift[1]])
    high = np.array([building.x1 + shift[0], building.y1 + shift[1]])
    way = points[:, :, :2] - eye[:2]
    way[np.abs(way) < 1e-9] = 1e-9
    first, second = (low - eye[:2]) / way, (high - eye[:2]) / way
    near, far = np.minimum(first, second), np.maximum(first, second)
    enter, leave = np.maximum(near[..., 0], near[..., 1]), np.minimum(far[..., 0], far[..., 1])
    # Lines of sight go down: they are lowest where they leave the building's ground plan.
    lowest = eye[2] + (points[:, :, 2] - eye[2]) * np.minimum(leave, 1.0)
    through = (enter < leave) & (leave > 0) & (enter < 1) & (lowest < building.height)
    hidden: np.ndarray = through.any(axis=1)
    return hidden


def _small_things(camera: Camera, town: Town, movers: list[Placed]) -> list[_Thing]:
    aim = _look_point(camera)
    things = [_mover_thing(camera, placed) for placed in movers]
    things += [
        _parked_thing(camera, town, number, place)
        for number, place in _nearest_in_view(camera, town.parked, aim)
    ]
    upright: list[tuple[Tree | Lamp, float, float]] = []
    upright += [
        (town.trees[number], x, y)
        for number, (x, y) in _nearest_in_view(camera, [(t.x, t.y) for t in town.trees], aim)
    ]
    upright += [
        (town.lamps[number], x, y)
        for number, (x, y) in _nearest_in_view(camera, [(a.x, a.y) for a in town.lamps], aim)
    ]
    return things + _upright_things(camera, town, upright)


def _upright_things(
    camera: Camera, town: Town, upright: list[tuple[Tree | Lamp, float, float]]
) -> list[_Thing]:
    """Trees and lamps, projected all at once."""
    if not upright:
        return []
    points = [
        actors.tree_points(thing, x, y)
        if isinstance(thing, Tree)
        else actors.lamp_points(thing, x, y)
        for thing, x, y in upright
    ]
    seen, depth = camera.project(np.array([point for group in points for point in group]))
    things, first = [], 0
    for (thing, x, y), group in zip(upright, points, strict=True):
        last = first + len(group)
        metre = camera.focal_px / max(float(depth[first + 1]), actors.MIN_DEPTH_M)
        place = (seen[first:last], metre, town.light_at(x, y))
        paint = partial(_paint_upright, thing, place)
        extent = np.array([(x, y, 0.0), (x, y, thing.height)] * 4)
        things.append(_Thing(extent, _over_ground(camera, x, y), paint))
        first = last
    return things


def _paint_upright(
    thing: Tree | Lamp, place: tuple[np.ndarray, float, np.ndarray], painter: Painter
) -> None:
    if isinstance(thing, Tree):
        actors.paint_tree(painter, thing, *place)
    else:
        actors.paint_lamp(painter, thing, *place)


def _over_ground(camera: Camera, x: float, y: float) -> float:
    return math.hypot(x - camera.position[0], y - camera.position[1])


def _nearest_in_view(
    camera: Camera, places: Sequence[tuple[float, ...]], aim: np.ndarray
) -> list[tuple[int, tuple[float, ...]]]:
    """Number and place (nearest copy) of those that are in the picture or just outside it."""
    if not places:
        return []
    where = np.array(places, float)
    where[:, :2] += PERIOD_M * np.round((aim - where[:, :2]) / PERIOD_M)
    seen, depth = camera.project(np.column_stack((where[:, :2], np.full(len(where), 3.0))))
    inside = in_view(seen, depth, (camera.width, camera.height))
    return [(int(i), tuple(map(float, where[i]))) for i in np.flatnonzero(inside)]


def _mover_thing(camera: Camera, placed: Placed) -> _Thing:
    x, y, yaw = placed.pose
    distance = _over_ground(camera, x, y)
    if placed.mover.look is not None:
        extent = np.array([(x, y, 0.0), (x, y, placed.mover.look.height)] * 4)
        return _Thing(extent, distance, partial(_paint_walker, camera, placed, placed.mover.look))
    extent = _footprint(placed.mover.model, x, y, yaw)
    return _Thing(extent, distance, partial(_paint_driver, camera, placed))


def _paint_walker(camera: Camera, placed: Placed, look: PersonLook, painter: Painter) -> None:
    outline = actors.person_outline(camera, look, *placed.pose, placed.walked)
    painter.cover(outline)
    actors.paint_person(painter, camera, look, placed.pose, placed.walked, placed.light)
    painter.annotate(placed.mover.identity, placed.mover.kind, outline)


def _paint_driver(camera: Camera, placed: Placed, painter: Painter) -> None:
    mover = placed.mover
    points = actors.see_vehicle(camera, mover.model, placed.pose)
    outline = actors.outline(points)
    painter.cover(outline)
    actors.paint_vehicle(
        painter, camera, mover.model, mover.paint, points, placed.pose, placed.light, mover.lamps_on
    )
    painter.annotate(mover.identity, mover.kind, outline)


def _footprint(model: str, x: float, y: float, yaw: float) -> np.ndarray:
    """Corners of a vehicle at the ground and at the height of its windows, ``(8, 3)``."""
    shape = actors.MODELS[model]
    a, b = shape.length / 2, shape.width / 2
    cos, sin = math.cos(yaw), math.sin(yaw)
    ring = [
        (x + cos * u - sin * v, y + sin * u + cos * v)
        for u, v in ((a, b), (a, -b), (-a, -b), (-a, b))
    ]
    return np.array([(u, v, z) for z in (0.1, 1.3) for u, v in ring])


def _parked_thing(camera: Camera, town: Town, number: int, place: tuple[float, ...]) -> _Thing:
    model = ("sedan", "hatchback", "suv", "sedan", "van")[number * 7 % 5]
    paint = list(actors.PAINTS)[number * 5 % len(actors.PAINTS)]
    pose = (place[0], place[1], place[2])
    light = town.light_at(pose[0], pose[1])

    def paint_parked(painter: Painter) -> None:
        points = actors.see_vehicle(camera, model, pose)
        painter.cover(actors.outline(points))
        actors.paint_vehicle(painter, camera, model, paint, points, pose, light, False)

    return _Thing(_footprint(model, *pose), _over_ground(camera, pose[0], pose[1]), paint_parked)


def in_view(seen: np.ndarray, depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which points (pixels ``(N, 2)``, depth ``(N,)`` in metres) are in or just off the picture."""
    margin = VIEW_MARGIN_PX
    return (
        (depth > actors.MIN_DEPTH_M)
        & (seen[:, 0] > -margin)
        & (seen[:, 0] < size[0] + margin)
        & (seen[:, 1] > -margin)
        & (seen[:, 1] < size[1] + margin)
    )
