# SPDX-License-Identifier: Apache-2.0
"""The ground as the camera sees it, with the moving lights on it."""

from __future__ import annotations

import math

import cv2
import numpy as np

from mlkd_ros.data.night_flight import actors
from mlkd_ros.data.night_flight.actors import Camera
from mlkd_ros.data.night_flight.town import PERIOD_M, TEXELS_PER_M, Town
from mlkd_ros.data.night_flight.traffic import Placed

WARP_CELL_PX = 16  # the ground's perspective is exact at these steps and linear between
LIGHT_CELL_PX = 8  # headlights and shadows are worked out at this coarser grid
MAX_LIGHT_GAIN = 7.9  # of root code, by headlights
_NO_MAP = np.empty(0, np.float32)  # x and y come in one map


class GroundWarp:
    """Warps the ground map into the camera's picture, with the perspective worked out on a grid."""

    def __init__(self, size: tuple[int, int]) -> None:
        cell = WARP_CELL_PX
        columns, rows = (-(-side // cell) for side in size)
        self._size, self._grid = size, (columns + 2, rows + 2)
        # A cell of margin all around: enlarging is linear only inside the outer cells' centres.
        x = (np.arange(columns + 2) - 0.5) * cell - 0.5
        y = (np.arange(rows + 2) - 0.5) * cell - 0.5
        grid_x, grid_y = np.meshgrid(x, y)
        self._points = np.stack((grid_x.ravel(), grid_y.ravel(), np.ones(grid_x.size)))
        self._picture = np.empty((size[1], size[0], 3), np.uint8)

    def apply(self, ground: np.ndarray, camera: Camera) -> np.ndarray:
        """The ground as the camera sees it; the buffer is used again for the next frame."""
        x, y, w = np.linalg.inv(camera.ground_homography()) @ self._points
        place = np.stack((x / w, y / w))
        place -= PERIOD_M * np.floor(place.min(axis=1, keepdims=True) / PERIOD_M)
        texels = place * TEXELS_PER_M - 0.5
        columns, rows = self._grid
        grid = np.ascontiguousarray(texels.T.reshape(rows, columns, 2).astype(np.float32))
        cell = WARP_CELL_PX
        full = cv2.resize(grid, (columns * cell, rows * cell), interpolation=cv2.INTER_LINEAR)
        full = full[cell : cell + self._size[1], cell : cell + self._size[0]]
        # Nearest texels, smoothed later by the motion blur: half the time of interpolating.
        texel, _ = cv2.convertMaps(full, _NO_MAP, cv2.CV_16SC2, nninterpolation=True)
        cv2.remap(ground, texel, _NO_MAP, cv2.INTER_NEAREST, self._picture, cv2.BORDER_WRAP)
        return self._picture


def box_blur(picture: np.ndarray, motion: np.ndarray, least_px: int = 1) -> np.ndarray:
    """Motion blur as a box along the picture's axes; cheap, and close enough for short ways."""
    width, height = (max(int(min(abs(m), 31.0)) // 2 * 2 + 1, least_px) for m in motion)
    return picture if width == height == 1 else cv2.blur(picture, (width, height))


def relight_ground(scene: np.ndarray, camera: Camera, town: Town, movers: list[Placed]) -> None:
    """Headlights brighten the ground, vehicles shade it; in place."""
    vehicles = [placed for placed in movers if placed.mover.kind != "person"]
    if not vehicles:
        return
    cell = LIGHT_CELL_PX
    columns, rows = (-(-side // cell) for side in (camera.width, camera.height))
    shrink = np.array([[1 / cell, 0, 0.5 / cell - 0.5], [0, 1 / cell, 0.5 / cell - 0.5], [0, 0, 1]])
    to_grid = shrink @ camera.ground_homography()
    added = np.zeros((rows, columns), np.float32)
    shadow = np.zeros((rows, columns), np.uint8)
    for placed in vehicles:
        if placed.mover.lamps_on:
            _add_beam(added, to_grid, placed)
        _add_shadow(shadow, to_grid, placed)
    gain = _light_gain(added, shadow, to_grid, town)
    changed = np.argwhere(np.abs(gain - 1.0).max(axis=2) > 0.03)
    if len(changed) == 0:
        return
    (top, left), (bottom, right) = np.maximum(changed.min(axis=0) - 1, 0), changed.max(axis=0) + 2
    part = np.ascontiguousarray(gain[top:bottom, left:right])
    coded = np.round(part * (255.0 / 8.0)).astype(np.uint8)
    full = cv2.resize(
        coded, (part.shape[1] * cell, part.shape[0] * cell), interpolation=cv2.INTER_LINEAR
    )
    region = scene[top * cell : bottom * cell, left * cell : right * cell]
    cv2.multiply(region, full[: region.shape[0], : region.shape[1]], dst=region, scale=8.0 / 255.0)


def _light_gain(
    added: np.ndarray, shadow: np.ndarray, to_grid: np.ndarray, town: Town
) -> np.ndarray:
    """Factor on the ground's root code, ``(rows, columns, 3)`` float32."""
    rows, columns = added.shape
    ambient = cv2.warpPerspective(
        town.light,
        to_grid @ np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]]),
        (columns, rows),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    ambient = np.maximum(ambient, 1e-4)
    gain = np.sqrt(1.0 + added[:, :, None] * np.array(HEADLIGHT_COLOUR, np.float32) / ambient)
    gain *= 1.0 - 0.55 * (shadow[:, :, None] / np.float32(255.0))
    return np.minimum(gain, MAX_LIGHT_GAIN)


BEAM_TEXELS_PER_M = 2.0
BEAM_LENGTH_M, BEAM_WIDTH_M = 24.0, 13.0
HEADLIGHT_COLOUR = (0.72, 0.93, 1.0)


def _beam_texture() -> np.ndarray:
    """Light of a pair of headlamps on the road; column = way ahead, row = side. Linear, float32."""
    ahead = (np.arange(int(BEAM_LENGTH_M * BEAM_TEXELS_PER_M)) + 0.5) / BEAM_TEXELS_PER_M
    side = (
        np.arange(int(BEAM_WIDTH_M * BEAM_TEXELS_PER_M)) + 0.5
    ) / BEAM_TEXELS_PER_M - BEAM_WIDTH_M / 2
    total = np.zeros((len(side), len(ahead)))
    for lamp in (-0.65, 0.65):
        spread = 0.45 + 0.11 * ahead
        across = np.exp(-(((side[:, None] - lamp) / spread) ** 2))
        total += across * (ahead * np.exp(-ahead / 4.5) / 1.65)
    fade = np.clip((BEAM_LENGTH_M - ahead) / 6.0, 0, 1)
    light: np.ndarray = (0.34 * total * fade).astype(np.float32)
    return light


_BEAM = _beam_texture()


def _add_beam(added: np.ndarray, to_grid: np.ndarray, placed: Placed) -> None:
    x, y, yaw = placed.pose
    nose = actors.MODELS[placed.mover.model].length / 2
    cos, sin = math.cos(yaw), math.sin(yaw)
    to_world = np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])
    scale = 1 / BEAM_TEXELS_PER_M
    to_vehicle = np.array(
        [[scale, 0, nose + scale / 2], [0, scale, -BEAM_WIDTH_M / 2 + scale / 2], [0, 0, 1]]
    )
    matrix = to_grid @ to_world @ to_vehicle
    height, width = _BEAM.shape
    corners = matrix @ np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1]], float)
    if corners[2].min() <= actors.MIN_DEPTH_M:
        return
    low = np.maximum(np.floor((corners[:2] / corners[2]).min(axis=1)).astype(int), 0)
    high = np.minimum(
        np.ceil((corners[:2] / corners[2]).max(axis=1)).astype(int) + 1, added.shape[::-1]
    )
    if (high <= low).any():
        return
    shift = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1.0]])
    beam = cv2.warpPerspective(_BEAM, shift @ matrix, tuple(int(v) for v in high - low))
    added[low[1] : high[1], low[0] : high[0]] += beam


def _add_shadow(shadow: np.ndarray, to_grid: np.ndarray, placed: Placed) -> None:
    x, y, yaw = placed.pose
    model = actors.MODELS[placed.mover.model]
    a, b = model.length / 2 + 0.25, model.width / 2 + 0.35
    local = np.array([(a, b), (a, -b), (-a, -b), (-a, b)])
    cos, sin = math.cos(yaw), math.sin(yaw)
    world = local @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    seen = to_grid @ np.column_stack((world, np.ones(4))).T
    if seen[2].min() > actors.MIN_DEPTH_M:
        points = np.round(np.clip((seen[:2] / seen[2]).T, -500, 2000) * 16).astype(np.int32)
        cv2.fillConvexPoly(shadow, points, 255, cv2.LINE_AA, 4)
