# SPDX-License-Identifier: Apache-2.0
"""The low-light camera of :mod:`mlkd_ros.data.lowlight` at video rate.

The scene comes in root code (see :mod:`mlkd_ros.data.night_flight.town`). For each of its 256
values and of 256 levels of a unit noise, photon noise, read noise, gain, clipping and tone curve
are worked out once; a picture then costs one look-up per value. The unit noise, with its grain, is
drawn once and shifted at random from picture to picture.
"""

from __future__ import annotations

import cv2
import numpy as np

from mlkd_ros.data.lowlight import TONE_STEPS, NightConditions, tone_table, unit_noise

NOISE_LEVELS = 256
NOISE_REACH = 4.0  # levels span -4 to +4 standard deviations
TILE_MARGIN_PX = 160  # the noise tile is this much larger than the picture: room to shift it
STRIP_ROWS = 90  # rows worked on at once, so that they stay in the processor's cache


class NightSensor:
    """Turns root-code pictures of one size into noisy camera pictures.

    Args:
        conditions: noise, gain and tone curve; exposure, lamps and blur are the scene's business.
        size: width and height of the pictures, pixels.
        seed: chooses the noise tile.
    """

    def __init__(self, conditions: NightConditions, size: tuple[int, int], seed: int) -> None:
        self._width, self._height = size
        self._table = _sensor_table(conditions)
        shape = (self._height + TILE_MARGIN_PX, self._width + TILE_MARGIN_PX)
        noise = unit_noise(shape, conditions, np.random.default_rng(seed))
        level = (noise + NOISE_REACH) * ((NOISE_LEVELS - 1) / (2 * NOISE_REACH))
        # The level goes to the high byte of the index, the picture's value to the low one.
        self._tile = np.clip(np.round(level), 0, NOISE_LEVELS - 1).astype(np.uint16) << 8
        self._index = np.empty((STRIP_ROWS, self._width, 3), np.uint16)
        self._wide_lookup = _has_wide_lookup()

    def develop(self, root_code: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The camera's picture of a scene.

        Args:
            root_code: ``(height, width, 3)`` uint8 BGR in root code, of the sensor's size.
            rng: this picture's noise.

        Returns:
            A new ``(height, width, 3)`` uint8 BGR picture.
        """
        picture = np.empty((self._height, self._width, 3), np.uint8)
        left, top = (int(rng.integers(TILE_MARGIN_PX)) for _ in range(2))
        for first in range(0, self._height, STRIP_ROWS):
            last = min(first + STRIP_ROWS, self._height)
            index = self._index[: last - first]
            tile = self._tile[top + first : top + last, left : left + self._width]
            np.add(tile, root_code[first:last], out=index)
            if self._wide_lookup:
                cv2.LUT(index, self._table, dst=picture[first:last])
            else:
                np.take(self._table, index, out=picture[first:last], mode="clip")
        return picture


def _sensor_table(conditions: NightConditions) -> np.ndarray:
    """Camera code for every index ``level * 256 + root code``, ``(65536,)`` uint8."""
    signal = (np.arange(256) / 255.0) ** 2
    level = np.linspace(-NOISE_REACH, NOISE_REACH, NOISE_LEVELS)
    electrons_at_white = conditions.full_well / conditions.gain
    sigma = np.sqrt(signal * electrons_at_white + conditions.read_noise**2) / electrons_at_white
    seen = np.clip(signal[None, :] + sigma[None, :] * level[:, None], 0.0, 1.0)
    steps = np.round(seen * (TONE_STEPS - 1)).astype(np.uint16)
    return np.ascontiguousarray(tone_table(conditions.contrast)[steps].reshape(-1))


def _has_wide_lookup() -> bool:
    """Whether this OpenCV looks 16-bit values up: newer ones do, much faster than NumPy."""
    try:
        cv2.LUT(np.zeros((1, 1), np.uint16), np.zeros(65536, np.uint8))
    except cv2.error:
        return False
    return True
