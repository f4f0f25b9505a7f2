# SPDX-License-Identifier: Apache-2.0
"""What stands and moves in the night town, painted as a camera sees it.

Everything is painted in root code (see :mod:`mlkd_ros.data.night_flight.town`), from far to near.
The painter keeps a mask of every object whose box is wanted and takes away from it what later
covers it; so the visible fraction is counted in pixels, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mlkd_ros.data.night_flight.town import (
    BRIDGE_HEIGHT_M,
    BRIDGE_X_M,
    LED,
    PERIOD_M,
    SKY,
    WARM,
    Building,
    Lamp,
    Tree,
    root_code,
)

SUBPIXEL_BITS = 4
GLOW_STEP_PX = 3  # radii of glows are multiples of this, so that few have to be worked out
MIN_DEPTH_M = 1.0
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over the town.

    ``rotation`` has the camera's right, down and forward axes as rows (world frame). Pixel centres
    are at integer coordinates and the principal point is the centre of the picture.
    """

    position: np.ndarray
    rotation: np.ndarray
    focal_px: float
    width: int
    height: int

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates ``(N, 2)`` and depth ``(N,)`` in metres of world points ``(N, 3)``."""
        seen = (points - self.position) @ self.rotation.T
        depth = np.maximum(seen[:, 2], MIN_DEPTH_M)
        centre = ((self.width - 1) / 2, (self.height - 1) / 2)
        return seen[:, :2] * (self.focal_px / depth)[:, None] + centre, seen[:, 2]

    def ground_homography(self) -> np.ndarray:
        """``(3, 3)``: ground ``(x, y, 1)`` in metres to homogeneous pixel coordinates."""
        matrix = np.column_stack(
            (self.rotation[:, 0], self.rotation[:, 1], -self.rotation @ self.position)
        )
        intrinsic = np.array(
            [
                [self.focal_px, 0, (self.width - 1) / 2],
                [0, self.focal_px, (self.height - 1) / 2],
                [0, 0, 1],
            ]
        )
        projection: np.ndarray = intrinsic @ matrix
        return projection


@dataclass
class Trace:
    """Bookkeeping of one annotated object: its box and what of it is still in sight."""

    identity: str
    kind: str
    box: tuple[
        float, float, float, float
    ]  # x, y, w, h of the whole body, pixels, may leave the picture
    origin: tuple[int, int]
    mask: np.ndarray
    whole: int  # pixels of the body before anything covers it


class Painter:
    """Paints convex shapes into a picture and keeps account of what covers what."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture
        self.height, self.width = picture.shape[:2]
        self.traces: list[Trace] = []

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fill one convex polygon ``(N, 2)`` (pixels) with a root-code colour."""
        cv2.fillConvexPoly(self.picture, _fixed(points), colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def polygons(self, shapes: np.ndarray, colour: Colour) -> None:
        """Fill many polygons ``(M, N, 2)`` of one colour."""
        if len(shapes):
            cv2.fillPoly(self.picture, list(_fixed(shapes)), colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def stroke(self, start: np.ndarray, end: np.ndarray, width_px: float, colour: Colour) -> None:
        """Draw a straight stroke with round ends."""
        a, b = _fixed(np.array([start, end]))
        thickness = max(1, round(width_px))
        cv2.line(
            self.picture,
            tuple(map(int, a)),
            tuple(map(int, b)),
            colour,
            thickness,
            cv2.LINE_AA,
            SUBPIXEL_BITS,
        )

    def glow(self, centre: np.ndarray, radius_px: float, light: Colour) -> None:
        """Add the glow of a lamp; ``light`` is its linear BGR radiance in the middle."""
        radius = GLOW_STEP_PX * min(max(round(radius_px / GLOW_STEP_PX), 1), 30)
        x, y = round(float(centre[0])), round(float(centre[1]))
        left, right = max(0, x - radius), min(self.width, x + radius + 1)
        top, bottom = max(0, y - radius), min(self.height, y + radius + 1)
        if left >= right or top >= bottom:
            return
        halo = _halo(radius, light)
        halo = halo[top - y + radius : bottom - y + radius, left - x + radius : right - x + radius]
        region = self.picture[top:bottom, left:right]
        # Root codes add like the sides of a right angle: their squares are the light.
        squares = halo.copy()
        cv2.accumulateSquare(region, squares)
        cv2.convertScaleAbs(cv2.sqrt(squares), dst=region)

    def cover(self, shape: np.ndarray) -> None:
        """Take what a polygon ``(N, 2)`` covers away from everything painted before."""
        if not self.traces:
            return
        x, y, width, height = cv2.boundingRect(shape.astype(np.float32))
        for trace in self.traces:
            left, top = trace.origin
            rows, columns = trace.mask.shape
            if x < left + columns and x + width > left and y < top + rows and y + height > top:
                part = [_fixed(shape - trace.origin)]
                cv2.fillPoly(trace.mask, part, 0, cv2.LINE_8, SUBPIXEL_BITS)

    def annotate(self, identity: str, kind: str, outline: np.ndarray) -> None:
        """Start the account of an object with the given convex outline ``(N, 2)``, pixels."""
        low, high = outline.min(axis=0), outline.max(axis=0)
        origin = (int(math.floor(low[0])), int(math.floor(low[1])))
        size = (int(math.ceil(high[1])) - origin[1] + 1, int(math.ceil(high[0])) - origin[0] + 1)
        mask = np.zeros(size, np.uint8)
        cv2.fillPoly(mask, [_fixed(outline - origin)], 1, cv2.LINE_8, SUBPIXEL_BITS)
        whole = int(np.count_nonzero(mask))
        _clear_outside(mask, origin, self.width, self.height)
        # Half a pixel: polygons have pixel centres at integers, boxes have pixel edges there.
        (x, y), (width, height) = (low + 0.5).tolist(), (high - low).tolist()
        self.traces.append(Trace(identity, kind, (x, y, width, height), origin, mask, whole))


def _clear_outside(mask: np.ndarray, origin: tuple[int, int], width: int, height: int) -> None:
    left, top = max(0, -origin[0]), max(0, -origin[1])
    right, bottom = max(0, width - origin[0]), max(0, height - origin[1])
    mask[:, :left] = 0
    mask[:top] = 0
    mask[:, right:] = 0
    mask[bottom:] = 0


def _fixed(points: np.ndarray) -> np.ndarray:
    """OpenCV's fixed-point coordinates, int32."""
    return (points * (1 << SUBPIXEL_BITS) + 0.5).astype(np.int32)


@lru_cache(maxsize=200)
def _halo(radius: int, light: Colour) -> np.ndarray:
    """Squared root code of a glow, ``(2 * radius + 1, 2 * radius + 1, 3)`` float32."""
    axis = np.arange(-radius, radius + 1, dtype=np.float32) / radius
    distance = np.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
    core = np.exp(-((distance / 0.11) ** 2))
    skirt = 0.022 * np.maximum(1.0 - distance, 0) ** 2 / (0.08 + distance)
    return (core + skirt)[:, :, None] * (np.array(light, np.float32) * np.float32(255.0**2))


def code(linear: np.ndarray | Colour) -> Colour:
    """Root-code colour of a linear BGR radiance."""
    blue, green, red = linear[0], linear[1], linear[2]
    return _root(blue), _root(green), _root(red)


def _root(linear: float) -> float:
    return 255.0 * math.sqrt(min(max(float(linear), 0.0), 1.0))


def scaled(colour: Colour, factor: float) -> Colour:
    """A colour of so many times the light."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


# --------------------------------------------------------------------------- vehicles


@dataclass(frozen=True)
class VehicleModel:
    """Shape of a vehicle: a side profile (x forward, z up, metres) and a cabin on it."""

    kind: str
    width: float
    profile: tuple[tuple[float, float], ...]
    cabin: tuple[tuple[float, float], ...]  # rear base, front base, front roof, rear roof
    cabin_inset: tuple[float, float]  # how far base and roof stand in from the side
    wheels: tuple[float, float]

    @property
    def length(self) -> float:
        """Length in metres."""
        return self.profile[-1][0] - self.profile[0][0]


MODELS: dict[str, VehicleModel] = {
    "sedan": VehicleModel(
        "car",
        1.82,
        ((-2.25, 0.32), (-2.30, 0.72), (-2.10, 0.95), (0.95, 0.94), (2.10, 0.76), (2.28, 0.34)),
        ((-1.80, 0.95), (1.00, 0.94), (0.25, 1.43), (-1.05, 1.43)),
        (0.06, 0.26),
        (-1.35, 1.38),
    ),
    "hatchback": VehicleModel(
        "car",
        1.76,
        ((-1.95, 0.34), (-2.02, 0.75), (-1.95, 1.0), (0.95, 0.98), (1.85, 0.80), (2.02, 0.36)),
        ((-1.95, 1.0), (1.05, 0.98), (0.30, 1.50), (-1.65, 1.50)),
        (0.05, 0.22),
        (-1.2, 1.25),
    ),
    "suv": VehicleModel(
        "car",
        1.92,
        ((-2.30, 0.42), (-2.36, 0.9), (-2.28, 1.12), (1.00, 1.12), (2.15, 0.98), (2.32, 0.42)),
        ((-2.25, 1.12), (1.15, 1.12), (0.40, 1.72), (-2.05, 1.70)),
        (0.05, 0.22),
        (-1.4, 1.42),
    ),
    "van": VehicleModel(
        "van",
        2.0,
        ((-2.75, 0.45), (-2.80, 1.0), (-2.78, 1.35), (1.90, 1.25), (2.60, 1.05), (2.75, 0.42)),
        ((-2.78, 1.35), (1.95, 1.25), (1.10, 2.25), (-2.72, 2.30)),
        (0.02, 0.12),
        (-1.7, 1.75),
    ),
    "bus": VehicleModel(
        "bus",
        2.5,
        ((-5.6, 0.4), (-5.65, 0.9), (-5.65, 1.3), (5.55, 1.3), (5.65, 0.9), (5.6, 0.4)),
        ((-5.65, 1.3), (5.6, 1.3), (5.5, 3.0), (-5.6, 3.0)),
        (0.0, 0.08),
        (-3.4, 3.5),
    ),
}

PAINTS: dict[str, Colour] = {
    "white": (0.72, 0.74, 0.74),
    "silver": (0.44, 0.44, 0.43),
    "black": (0.028, 0.028, 0.028),
    "grey": (0.15, 0.15, 0.15),
    "red": (0.035, 0.04, 0.42),
    "blue": (0.40, 0.13, 0.05),
    "yellow": (0.05, 0.42, 0.62),
    "green": (0.12, 0.26, 0.10),
}
GLASS: Colour = (0.06, 0.05, 0.045)
RUBBER: Colour = (0.02, 0.02, 0.02)
HEADLIGHT: Colour = (3.0, 3.2, 3.1)
TAIL_LIGHT: Colour = (0.02, 0.03, 0.75)

BODY, WINDOW, TYRE, FRONT_LAMP, REAR_LAMP, GRILLE = range(6)
CORNERS = 8  # most corners a face has; shorter faces repeat their last one


@dataclass(frozen=True)
class _Mesh:
    vertices: np.ndarray  # (V, 3), metres, x forward, y left
    faces: np.ndarray  # (F, CORNERS) indices, counter-clockwise from outside, in painting order
    following: np.ndarray  # (F, CORNERS) the same, one corner on
    normals: np.ndarray  # (F, 3)
    upward: np.ndarray  # (F,) how far a face looks up, 0 to 1
    gloss: np.ndarray  # (F,) what it mirrors of the light above
    materials: np.ndarray  # (F,)
    lamps: tuple[int, ...]  # numbers of the faces that are lamps


@lru_cache(maxsize=16)
def _mesh(name: str) -> _Mesh:
    model = MODELS[name]
    faces: list[tuple[np.ndarray, int]] = []
    half = model.width / 2
    _add_extrusion(faces, np.array(model.profile), half, [BODY, BODY, None, BODY, GRILLE])
    _add_lamps(faces, model, half)
    _add_wheels(faces, model, half)
    _add_cabin(faces, model, half)
    return _assemble(faces)


def _add_extrusion(
    faces: list[tuple[np.ndarray, int]],
    profile: np.ndarray,
    half: float,
    materials: list[int | None],
) -> None:
    """Body: the two sides, then the strips along the profile (None: hidden below the cabin)."""
    side = np.array([(x, half, z) for x, z in profile])
    faces.append((side, BODY))
    faces.append((side * (1, -1, 1), BODY))
    for (x0, z0), (x1, z1), material in zip(profile[:-1], profile[1:], materials, strict=True):
        strip = np.array([(x0, -half, z0), (x0, half, z0), (x1, half, z1), (x1, -half, z1)])
        faces.append((strip, BODY if material is None else material))


def _add_lamps(faces: list[tuple[np.ndarray, int]], model: VehicleModel, half: float) -> None:
    (rear_x0, rear_z0), (rear_x1, rear_z1) = model.profile[0], model.profile[1]
    (front_x1, front_z1), (front_x0, front_z0) = model.profile[4], model.profile[5]
    for side in (-1, 1):
        outer, inner = side * half * 0.97, side * half * 0.55

        def patch(
            x0: float,
            z0: float,
            x1: float,
            z1: float,
            low: float,
            out: float,
            outer: float = outer,
            inner: float = inner,
        ) -> np.ndarray:
            ends = [(x0 + (x1 - x0) * f + out, z0 + (z1 - z0) * f) for f in (low, 1.0)]
            return np.array(
                [
                    (ends[0][0], outer, ends[0][1]),
                    (ends[0][0], inner, ends[0][1]),
                    (ends[1][0], inner, ends[1][1]),
                    (ends[1][0], outer, ends[1][1]),
                ]
            )

        faces.append((patch(front_x0, front_z0, front_x1, front_z1, 0.55, 0.01), FRONT_LAMP))
        faces.append((patch(rear_x0, rear_z0, rear_x1, rear_z1, 0.45, -0.01), REAR_LAMP))


def _add_wheels(faces: list[tuple[np.ndarray, int]], model: VehicleModel, half: float) -> None:
    radius = 0.33 if model.kind == "car" else 0.42
    angle = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    for x in model.wheels:
        for side in (-1, 1):
            rim = np.column_stack(
                (
                    x + radius * np.cos(angle),
                    np.full(CORNERS, side * (half + 0.01)),
                    radius + radius * np.sin(angle),
                )
            )
            faces.append((rim, TYRE))


def _add_cabin(faces: list[tuple[np.ndarray, int]], model: VehicleModel, half: float) -> None:
    rear, front, front_roof, rear_roof = model.cabin
    base, roof = half - model.cabin_inset[0], half - model.cabin_inset[1]

    def shelf(point: tuple[float, float], y: float) -> tuple[float, float, float]:
        return point[0], y, point[1]

    for side in (-1, 1):
        wall = np.array(
            [
                shelf(rear, side * base),
                shelf(front, side * base),
                shelf(front_roof, side * roof),
                shelf(rear_roof, side * roof),
            ]
        )
        faces.append((wall, BODY))
        faces.append((_inset(wall, 0.80), WINDOW))
    for low, high in ((front, front_roof), (rear, rear_roof)):
        pane = np.array(
            [shelf(low, -base), shelf(low, base), shelf(high, roof), shelf(high, -roof)]
        )
        faces.append((pane, BODY))
        faces.append((_inset(pane, 0.88), WINDOW))
    faces.append(
        (
            np.array(
                [
                    shelf(rear_roof, -roof),
                    shelf(rear_roof, roof),
                    shelf(front_roof, roof),
                    shelf(front_roof, -roof),
                ]
            ),
            BODY,
        )
    )


def _inset(corners: np.ndarray, scale: float) -> np.ndarray:
    centre: np.ndarray = corners.mean(axis=0)
    inset: np.ndarray = centre + (corners - centre) * scale
    return inset


def _assemble(faces: list[tuple[np.ndarray, int]]) -> _Mesh:
    vertices, indices, normals = [], [], []
    start = 0
    centre = np.array([0.0, 0.0, 0.6])
    for corners, _ in faces:
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        order = list(range(len(corners)))
        if normal @ (corners.mean(axis=0) - centre) < 0:
            order.reverse()
            normal = -normal
        vertices.append(corners)
        normals.append(normal / np.linalg.norm(normal))
        indices.append([start + i for i in order] + [start + order[-1]] * (CORNERS - len(order)))
        start += len(corners)
    direction = np.array(normals)
    upward = np.maximum(direction[:, 2], 0.0)
    materials = np.array([material for _, material in faces])
    return _Mesh(
        vertices=np.concatenate(vertices),
        faces=np.array(indices),
        following=np.roll(indices, -1, axis=1),
        normals=direction,
        upward=upward,
        gloss=0.02 * upward**8,
        materials=materials,
        lamps=tuple(np.flatnonzero((materials == FRONT_LAMP) | (materials == REAR_LAMP)).tolist()),
    )


def see_vehicle(camera: Camera, model: str, pose: tuple[float, float, float]) -> np.ndarray:
    """Pixel coordinates ``(V, 2)`` of a vehicle's vertices, standing at ``pose`` (x, y, yaw)."""
    return camera.project(_placed(_mesh(model).vertices, *pose))[0]


def outline(points: np.ndarray) -> np.ndarray:
    """Convex outline ``(N, 2)`` of points in the picture."""
    return cv2.convexHull(points.astype(np.float32))[:, 0, :].astype(float)


def _placed(vertices: np.ndarray, x: float, y: float, yaw: float) -> np.ndarray:
    cos, sin = math.cos(yaw), math.sin(yaw)
    turned: np.ndarray = vertices @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return turned + (x, y, 0.0)


def paint_vehicle(
    painter: Painter,
    camera: Camera,
    model: str,
    paint: str,
    points: np.ndarray,
    pose: tuple[float, float, float],
    light: np.ndarray,
    lamps_on: bool,
) -> None:
    """Paint a vehicle at ``pose``, seen at ``points`` (see :func:`see_vehicle`), in that light."""
    mesh = _mesh(model)
    corners = points[mesh.faces]
    following = points[mesh.following]
    area = (corners[..., 0] * following[..., 1] - corners[..., 1] * following[..., 0]).sum(axis=1)
    colours = _face_colours(mesh, paint, pose[2], light, lamps_on)
    fixed = _fixed(corners)
    for face in np.flatnonzero(
        area < 0
    ):  # image y points down, so outside faces turn the other way
        cv2.fillConvexPoly(painter.picture, fixed[face], colours[face], cv2.LINE_AA, SUBPIXEL_BITS)
    if lamps_on:
        _paint_lamp_glow(painter, camera, mesh, points, area < 0, pose)


def _face_colours(
    mesh: _Mesh, paint: str, yaw: float, light: np.ndarray, lamps_on: bool
) -> list[Colour]:
    albedo = np.array(
        [PAINTS[paint], GLASS, RUBBER, (0.5, 0.5, 0.5), (0.03, 0.03, 0.3), (0.1, 0.1, 0.1)]
    )
    cos, sin = math.cos(yaw), math.sin(yaw)
    east = mesh.normals[:, 0] * cos - mesh.normals[:, 1] * sin
    # Lamps stand above: tops get all the light, sides less, one side more than the other.
    shade = 0.34 + 0.66 * mesh.upward + 0.12 * east
    radiance = albedo[mesh.materials] * shade[:, None] + mesh.gloss[:, None]
    radiance *= light
    if lamps_on:
        radiance[mesh.materials == FRONT_LAMP] = HEADLIGHT
        radiance[mesh.materials == REAR_LAMP] = TAIL_LIGHT
    return [tuple(row) for row in root_code(radiance).tolist()]


def _paint_lamp_glow(
    painter: Painter,
    camera: Camera,
    mesh: _Mesh,
    points: np.ndarray,
    visible: np.ndarray,
    pose: tuple[float, float, float],
) -> None:
    x, y, z = camera.position.tolist()
    away = math.hypot(x - pose[0], y - pose[1])
    facing = (x - pose[0]) * math.cos(pose[2]) + (y - pose[1]) * math.sin(pose[2])
    facing = max(facing / max(away, 1e-6), 0.0)
    scale = camera.focal_px / math.hypot(away, z)
    for face in mesh.lamps:
        if not visible[face]:
            continue
        middle = points[mesh.faces[face, :4]].sum(axis=0) / 4
        if mesh.materials[face] == FRONT_LAMP:
            strength = round(2.0 * (0.35 + 1.6 * facing**2), 0) / 2.0
            painter.glow(middle, scale * (1.0 + 1.8 * facing), scaled(LED, strength))
        else:
            painter.glow(middle, scale * 0.7, (0.01, 0.015, 0.30))


# --------------------------------------------------------------------------- people


@dataclass(frozen=True)
class PersonLook:
    """Size (metres) and clothes (linear BGR albedo) of a person."""

    height: float
    top: Colour
    trousers: Colour


FOLIAGE_KINDS = 12
FOLIAGE_PX = 192
CLUMPS = 420  # of leaves in a crown
FOLIAGE_OPAQUE = 110  # opacity from which a leaf hides what is behind it
BRIDGE_LAMPS_M = 32.0  # spacing of the lamps on the bridge
_TONES = np.linspace(0.0, 1.0, 256)[:, None] ** 2
SKIN: Colour = (0.22, 0.30, 0.45)
STRIDE_M = 1.4  # way covered in one full cycle of both legs


def _person_joints(look: PersonLook, x: float, y: float, yaw: float, walked: float) -> np.ndarray:
    """World points: two feet, hip, neck, head, two hands."""
    scale = look.height / 1.75
    swing = math.sin(2 * math.pi * walked / STRIDE_M)
    local = (
        np.array(
            [
                (0.34 * swing, 0.10, 0.05),
                (-0.34 * swing, -0.10, 0.05),
                (0.0, 0.0, 0.90),
                (0.03, 0.0, 1.46),
                (0.05, 0.0, 1.63),
                (-0.28 * swing, 0.27, 0.88),
                (0.28 * swing, -0.27, 0.88),
            ]
        )
        * scale
    )
    return _placed(local, x, y, yaw)


def person_outline(
    camera: Camera, look: PersonLook, x: float, y: float, yaw: float, walked: float
) -> np.ndarray:
    """Convex outline ``(N, 2)`` in pixels of a walking person."""
    joints, depth = camera.project(_person_joints(look, x, y, yaw, walked))
    metre = camera.focal_px / depth
    radius = np.array([0.07, 0.07, 0.19, 0.22, 0.13, 0.05, 0.05]) * metre
    angle = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    ring = np.column_stack((np.cos(angle), np.sin(angle)))
    around = (joints[:, None, :] + ring[None] * radius[:, None, None]).reshape(-1, 2)
    return outline(around)


def paint_person(
    painter: Painter,
    camera: Camera,
    look: PersonLook,
    pose: tuple[float, float, float],
    walked: float,
    light: np.ndarray,
) -> None:
    """Paint a person at ``pose`` (x, y, yaw) who has walked so many metres, in linear BGR light."""
    joints, depth = camera.project(_person_joints(look, *pose, walked))
    metre = camera.focal_px / float(depth[2])
    trousers, top = (code(np.array(c) * light * 0.7) for c in (look.trousers, look.top))
    skin = code(np.array(SKIN) * light * 0.8)
    shoulder = (joints[3] - joints[2]) * 0.82 + joints[2]
    for foot in (joints[0], joints[1]):
        painter.stroke(joints[2], foot, 0.15 * metre, trousers)
    for hand in (joints[5], joints[6]):
        painter.stroke(shoulder, hand, 0.10 * metre, top)
    painter.stroke(joints[2], shoulder, 0.38 * metre, top)
    painter.stroke(joints[4], joints[4], 0.24 * metre, skin)


# --------------------------------------------------------------------------- trees, lamps


def tree_points(tree: Tree, x: float, y: float) -> list[tuple[float, float, float]]:
    """Foot and middle of the crown of a tree whose copy stands at ``x, y``."""
    return [(x, y, 0.0), (x, y, tree.height - tree.radius)]


def paint_tree(
    painter: Painter, tree: Tree, points: np.ndarray, metre: float, light: np.ndarray
) -> None:
    """Paint a tree, with its :func:`tree_points` in the picture; ``metre`` is in pixels."""
    foot, crown = points
    painter.stroke(foot, crown, 0.3 * metre, code(np.array((0.05, 0.07, 0.09)) * light * 0.4))
    leaf = np.array((0.10, 0.21, 0.17)) * light
    kind = tree.seed % FOLIAGE_KINDS
    _paint_foliage(painter, crown, tree.radius * metre, kind, leaf)
    painter.cover(crown + _foliage_outline(kind) * (tree.radius * metre))


def _paint_foliage(
    painter: Painter, centre: np.ndarray, radius_px: float, kind: int, leaf: np.ndarray
) -> None:
    radius = min(max(2 * round(radius_px / 2), 2), 400)  # even: more pictures share a scaled crown
    x, y = (int(v) for v in np.round(centre))
    left, right = max(0, x - radius), min(painter.width, x + radius + 1)
    top, bottom = max(0, y - radius), min(painter.height, y + radius + 1)
    if left >= right or top >= bottom:
        return
    tone, mask = _foliage_at(kind, radius)
    part = (
        slice(top - y + radius, bottom - y + radius),
        slice(left - x + radius, right - x + radius),
    )
    ramp = root_code(leaf[None, :] * _TONES).astype(np.uint8)
    painted = cv2.applyColorMap(np.ascontiguousarray(tone[part]), ramp[:, None, :])
    cv2.copyTo(painted, np.ascontiguousarray(mask[part]), painter.picture[top:bottom, left:right])


@lru_cache(maxsize=FOLIAGE_KINDS)
def _foliage(kind: int) -> tuple[np.ndarray, np.ndarray]:
    """A crown seen from above and aside: tone and opacity, ``(FOLIAGE_PX, FOLIAGE_PX)`` uint8."""
    rng = np.random.default_rng(kind)
    half = FOLIAGE_PX / 2
    tone = np.full((FOLIAGE_PX, FOLIAGE_PX), 40, np.uint8)
    alpha = np.zeros_like(tone)
    height = np.sort(rng.random(CLUMPS))  # from the dark inside and below to the bright top
    angle = rng.uniform(0, 2 * math.pi, CLUMPS)
    lobes = rng.uniform(0.72, 1.0, 8)
    lobe = np.interp(angle, np.linspace(0, 2 * math.pi, 9), np.append(lobes, lobes[0]))
    distance = 0.92 * np.sqrt(rng.random(CLUMPS)) * lobe * (1.0 - 0.30 * height)
    x = half * (1 + distance * np.cos(angle))
    y = half * (1 + distance * np.sin(angle) - 0.10 * height)
    bright = 60 + 120 * height * rng.uniform(0.5, 1.2, CLUMPS) - 45 * (y / half - 1)
    radius = half * rng.uniform(0.05, 0.13, (CLUMPS, 1)) * rng.uniform(0.5, 1.2, (CLUMPS, 8))
    corner = np.linspace(0, 2 * math.pi, 8, endpoint=False)
    shapes = np.stack(
        (x[:, None] + radius * np.cos(corner), y[:, None] + radius * np.sin(corner)), 2
    )
    shapes = np.round(shapes).astype(np.int32)
    for shape, brightness in zip(shapes, bright.clip(25, 255).tolist(), strict=True):
        cv2.fillPoly(tone, [shape], brightness)
        cv2.fillPoly(alpha, [shape], 255)
    return tone, cv2.GaussianBlur(alpha, (0, 0), 1.5)


@lru_cache(maxsize=400)
def _foliage_at(kind: int, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Tone and mask of a crown of that radius in pixels."""
    side = (2 * radius + 1, 2 * radius + 1)
    tone, alpha = (
        cv2.resize(layer, side, interpolation=cv2.INTER_AREA) for layer in _foliage(kind)
    )
    return tone, cv2.threshold(alpha, FOLIAGE_OPAQUE, 255, cv2.THRESH_BINARY)[1]


@lru_cache(maxsize=FOLIAGE_KINDS)
def _foliage_outline(kind: int) -> np.ndarray:
    """Outline of a crown, ``(N, 2)``, in units of its radius around its centre."""
    mask = (_foliage(kind)[1] > FOLIAGE_OPAQUE).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(contours, key=cv2.contourArea)[:, 0, :]
    return (outline + 0.5) / (FOLIAGE_PX / 2) - 1.0


def prepare() -> None:
    """Work out what would otherwise hold up the first frames."""
    for kind in range(FOLIAGE_KINDS):
        _foliage_outline(kind)


def lamp_points(lamp: Lamp, x: float, y: float) -> list[tuple[float, float, float]]:
    """Foot, elbow and head of a street lamp whose copy stands at ``x, y``."""
    return [(x, y, 0.0), (x, y, lamp.height), (x + lamp.arm[0], y + lamp.arm[1], lamp.height)]


def paint_lamp(
    painter: Painter, lamp: Lamp, points: np.ndarray, metre: float, light: np.ndarray
) -> None:
    """Paint a street lamp; ``points`` are its :func:`lamp_points` in the picture."""
    foot, elbow, tip = points
    steel = code(np.array((0.15, 0.15, 0.15)) * light * 0.35)
    painter.stroke(foot, elbow, 0.14 * metre, steel)
    painter.stroke(elbow, tip, 0.11 * metre, steel)
    strength = 1.1 * min(1.0, 0.5 + lamp.power)
    painter.glow(tip, 3.4 * metre, scaled(lamp.colour, strength))
    painter.stroke(tip, tip, max(0.32 * metre, 2.0), code(np.array(lamp.colour) * 1.5 + 0.12))


# --------------------------------------------------------------------------- buildings, bridge

WINDOW_KINDS: tuple[Colour, ...] = (
    (0.10, 0.28, 0.42),
    (0.22, 0.38, 0.46),
    (0.34, 0.38, 0.36),
    (0.30, 0.20, 0.12),
)
SIGN_KINDS: tuple[Colour, ...] = (
    (0.75, 0.25, 0.15),
    (0.10, 0.12, 0.80),
    (0.25, 0.75, 0.25),
    (0.55, 0.15, 0.70),
    (0.45, 0.72, 0.85),
)


@dataclass(frozen=True)
class _Wall:
    quads: np.ndarray  # (1 + M, 4, 3): the wall itself, then windows and signs
    groups: tuple[tuple[int, int, Colour | None], ...]  # quads from, to, radiance (None: unlit)
    spot: np.ndarray  # (2,): on the pavement before it


@lru_cache(maxsize=256)
def _walls(building: Building, lit_fraction: float) -> tuple[_Wall, ...]:
    b = building
    ring = [(b.x0, b.y0), (b.x1, b.y0), (b.x1, b.y1), (b.x0, b.y1)]
    rng = np.random.default_rng(b.seed)
    walls = []
    for side in range(4):
        start, end = np.array(ring[side]), np.array(ring[(side + 1) % 4])
        to_avenue = side == (0 if b.y0 > 64 else 2)
        walls.append(_wall(start, end, b.height, lit_fraction, b.shop and to_avenue, rng))
    return tuple(walls)


def _wall(
    start: np.ndarray,
    end: np.ndarray,
    height: float,
    lit_fraction: float,
    shop: bool,
    rng: np.random.Generator,
) -> _Wall:
    length = float(np.hypot(*(end - start)))
    along = (end - start) / length

    def quad(s0: float, s1: float, z0: float, z1: float) -> list[tuple[float, float, float]]:
        (ax, ay), (bx, by) = start + along * s0, start + along * s1
        return [(ax, ay, z0), (bx, by, z0), (bx, by, z1), (ax, ay, z1)]

    floors = np.arange(3.6 if shop else 0.9, height - 2.0, 3.0)
    bays = np.arange(1.2, length - 2.0, 2.9)
    kinds: list[Colour | None] = [None, *WINDOW_KINDS]
    windows: list[list[list[tuple[float, float, float]]]] = [[] for _ in kinds]
    for z in floors:
        for s in bays:
            lit = rng.random() < lit_fraction
            number = int(rng.integers(1, len(kinds))) if lit else 0
            sill = z + (0.6 if lit and rng.random() < 0.3 else 0.0)
            windows[number].append(quad(s, s + 1.3, sill, z + 1.5))
    shapes = [quad(0, length, 0, height)]
    groups: list[tuple[int, int, Colour | None]] = []
    for kind, members in zip(kinds, windows, strict=True):
        groups.append((len(shapes), len(shapes) + len(members), kind))
        shapes += members
    for s in np.arange(0.8, length - 4.0, 5.5) if shop and lit_fraction > 0 else ():
        if rng.random() < 0.75:
            glass, sign = (
                WINDOW_KINDS[rng.integers(1, 3)],
                SIGN_KINDS[rng.integers(len(SIGN_KINDS))],
            )
            groups += [
                (len(shapes), len(shapes) + 1, glass),
                (len(shapes) + 1, len(shapes) + 2, sign),
            ]
            shapes += [quad(s, s + 4.2, 0.4, 2.5), quad(s + 0.3, s + 3.9, 2.75, 3.4)]
    outward = np.array([along[1], -along[0]])
    return _Wall(np.array(shapes), tuple(groups), (start + end) / 2 + outward * 2.5)


LightAt = Callable[[float, float], np.ndarray]


def paint_building(
    painter: Painter,
    camera: Camera,
    building: Building,
    shift: tuple[float, float],
    lit_fraction: float,
    light_at: LightAt,
    sky: float,
) -> None:
    """Paint the copy of a building that is ``shift`` metres away from the original."""
    move = np.array([shift[0], shift[1], 0.0])
    for wall in _walls(building, lit_fraction):
        facing = (camera.position[:2] - wall.quads[0, 0, :2] - shift) @ (
            wall.spot - wall.quads[0, :2, :2].mean(axis=0)
        )
        if facing > 0:
            _paint_wall(
                painter, camera, wall, move, np.array(building.wall), light_at(*wall.spot), sky
            )
    _paint_roof(painter, camera, building, move, light_at, sky)


WALL_BANDS = 5


def _paint_wall(
    painter: Painter,
    camera: Camera,
    wall: _Wall,
    move: np.ndarray,
    albedo: np.ndarray,
    light: np.ndarray,
    sky: float,
) -> None:
    points, depth = camera.project((wall.quads + move).reshape(-1, 3))
    if depth.min() < MIN_DEPTH_M:
        return
    shapes = points.reshape(-1, 4, 2)
    whole = shapes[0]
    near, glow = light * 0.45, np.array(SKY) * sky
    up = np.array([whole[3] - whole[0], whole[2] - whole[1]])
    for band in range(WALL_BANDS):  # the street's light fades with the height
        foot = whole[:2] + up * (band / WALL_BANDS)
        tone = albedo * (near * (1.0 - 0.8 * (band + 0.5) / WALL_BANDS) + glow)
        painter.polygon(np.concatenate((foot, whole[2:])), code(tone))
    painter.cover(whole)
    unlit = np.array(GLASS) * (near * 0.4 + glow)
    for first, last, radiance in wall.groups:
        tone = unlit if radiance is None else 0.6 * np.array(radiance)
        painter.polygons(shapes[first:last], code(tone))


def _paint_roof(
    painter: Painter,
    camera: Camera,
    building: Building,
    move: np.ndarray,
    light_at: LightAt,
    sky: float,
) -> None:
    b = building
    corners = np.array([(b.x0, b.y0), (b.x1, b.y0), (b.x1, b.y1), (b.x0, b.y1)])
    centre = corners.mean(axis=0)
    light = np.array(SKY) * sky * 1.2 + light_at(centre[0], centre[1]) * 0.06
    inner = centre + (corners - centre) * 0.94
    rng = np.random.default_rng(b.seed)
    shapes, tones = [(corners, 0.0), (inner, 0.0)], [0.30, 0.14]
    for _ in range(4):  # vents and cooling units: a shadowed foot and a lid
        spot = inner[0] + (inner[2] - inner[0]) * rng.uniform(0.12, 0.78, 2)
        unit = spot + np.array([(0, 0), (1.8, 0), (1.8, 1.2), (0, 1.2)])
        shapes += [(unit, 0.0), (unit, 0.9)]
        tones += [0.04, 0.34]
    corners_3d = [np.column_stack((shape, np.full(4, b.height + rise))) for shape, rise in shapes]
    points = camera.project(np.concatenate(corners_3d) + move)[0].reshape(-1, 4, 2)
    for shape, tone in zip(points, tones, strict=True):
        painter.polygon(shape, code(light * tone))
    painter.cover(points[0])


def bridge_hides(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Whether the deck hides any point of each thing ``(T, N, 3)``; answers ``(T,)``."""
    rise = (BRIDGE_HEIGHT_M - points[..., 2]) / (camera.position[2] - points[..., 2])
    x = points[..., 0] + (camera.position[0] - points[..., 0]) * rise
    wrapped = np.mod(x, PERIOD_M)
    hidden: np.ndarray = ((wrapped > BRIDGE_X_M[0]) & (wrapped < BRIDGE_X_M[1])).any(axis=-1)
    return hidden


def paint_bridge(
    painter: Painter,
    camera: Camera,
    x_shift: float,
    y_range: tuple[float, float],
    sky: float,
    lamps: float,
) -> None:
    """Paint the elevated road between two y (metres), with its parapets, markings and piers."""
    x = (BRIDGE_X_M[0] + x_shift, BRIDGE_X_M[1] + x_shift)
    base = np.array(SKY) * sky
    step = 4.0
    for start in np.arange(math.floor(y_range[0] / step) * step, y_range[1], step):
        to_lamp = (start + step / 2) % BRIDGE_LAMPS_M - BRIDGE_LAMPS_M / 2
        pool = (1.0 + (to_lamp / 8.0) ** 2) ** -1.5
        light = base + np.array(WARM) * (0.04 + 0.62 * pool) * lamps
        _paint_span(painter, camera, x, (start, start + step), light)
    for y in np.arange(math.floor(y_range[0] / BRIDGE_LAMPS_M) + 0.5, y_range[1] / BRIDGE_LAMPS_M):
        if lamps > 0:
            _paint_bridge_lamp(painter, camera, sum(x) / 2, y * BRIDGE_LAMPS_M, lamps)


def _paint_bridge_lamp(painter: Painter, camera: Camera, x: float, y: float, lamps: float) -> None:
    ends = np.array([(x, y, BRIDGE_HEIGHT_M), (x, y, BRIDGE_HEIGHT_M + 8.0)])
    (foot, head), depth = camera.project(ends)
    if depth.min() < 2 * MIN_DEPTH_M:
        return
    metre = camera.focal_px / float(depth[1])
    painter.stroke(foot, head, 0.14 * metre, code(np.array((0.1, 0.1, 0.1)) * lamps * 0.3))
    painter.glow(head, 3.4 * metre, scaled(WARM, 1.1 * min(1.0, 0.4 + lamps)))
    painter.stroke(head, head, max(0.3 * metre, 2.0), code(np.array(WARM) * 1.5))


def _paint_span(
    painter: Painter,
    camera: Camera,
    x: tuple[float, float],
    y: tuple[float, float],
    light: np.ndarray,
) -> None:
    top, under, rail = BRIDGE_HEIGHT_M, BRIDGE_HEIGHT_M - 1.4, BRIDGE_HEIGHT_M + 0.9
    middle = (x[0] + x[1]) / 2

    def flat(x0: float, x1: float, z: float, y1: float = y[1]) -> list[tuple[float, float, float]]:
        return [(x0, y[0], z), (x1, y[0], z), (x1, y1, z), (x0, y1, z)]

    def side(edge: float) -> list[tuple[float, float, float]]:
        return [(edge, y[0], under), (edge, y[1], under), (edge, y[1], rail), (edge, y[0], rail)]

    shapes = [side(x[0]), side(x[1]), flat(*x, top), flat(middle - 0.3, middle + 0.3, top)]
    albedos = [0.08, 0.08, 0.11, 0.28]
    if y[0] % 8.0 == 0:
        for lane in (middle - 2.7, middle + 2.7):
            shapes.append(flat(lane - 0.07, lane + 0.07, top, y[0] + 3.5))
            albedos.append(0.6)
    shapes += [flat(x[0], x[0] + 0.35, rail), flat(x[1] - 0.35, x[1], rail)]
    albedos += [0.32, 0.32]
    points, depth = camera.project(np.array(shapes).reshape(-1, 3))
    if depth.min() < MIN_DEPTH_M:
        return
    for number, (shape, albedo) in enumerate(zip(points.reshape(-1, 4, 2), albedos, strict=True)):
        painter.polygon(shape, code(albedo * light))
        if number < 3:
            painter.cover(shape)
