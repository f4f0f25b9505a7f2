# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the light, the noise and the sharpness of a camera's images. No ROS in here.

Measured on a grid of small patches, so that the cost does not depend on the image's size and the
frame is never converted as a whole. The limits were set on rendered night flights and on day images
under the named conditions of `mlkd_ros.data.lowlight`; `measured` comments give their values there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mlkd_ros.imaging.frame import Frame

__all__ = ["ImageHealth", "advice", "measure"]

#: Patches across and down, and their side in pixels.
_COLUMNS, _ROWS, _SIDE = 5, 3, 40
#: Pixels at a patch's border that a filter computes from its neighbour.
_MARGIN = 2

_SMALLEST = 8
#: A patch whose contrast is below so many times the noise (or so many grey levels) has no edge to
#: measure the sharpness of; fewer than so many patches say nothing about the image.
_EDGE_CONTRAST, _EDGE_PATCHES = 8.0, 3

#: 95th percentile of the luminance below which nearly everything is in the sensor's darkest steps.
#: Measured, medians: night flights 40 (low_light) to 115, street 54, dark 34, very_dark 19.
DARK = 24.0
#: Nothing at all: a cap, a closed shutter, no light.
BLACK = 3.0
#: Grey level that counts as saturated (compression and demosaicing keep white below 255), and the
#: share of such pixels beyond which a target has too much to vanish in. Measured: night flights up
#: to 0.005, day images 0.011 but for a bright sky.
_WHITE, SATURATED = 250, 0.05
#: Contrast of the image in standard deviations of the noise. Measured, medians: night flights 19
#: (low_light) to 114, street 38, dark 20, very_dark 17.
NOISY = 8.0
#: Pixels that an edge is wide. Measured: night flights 2.6 to 5.7, with a Gaussian blur of 4 pixels
#: 9 to 14, with a motion of 25 pixels 10 to 16 along it and 6 across.
BLURRED = 9.0
#: How much wider along one axis speaks for motion, rather than focus.
_MOTION_RATIO = 1.5

# Immerkaer's difference of two Laplacians: it sees noise, and neither slopes nor edges along an
# axis. White noise of deviation 1 gives 6.
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_NOISE_GAIN = 6.0
#: Median of the absolute value of normally distributed noise of deviation 1.
_NORMAL_MEDIAN = 0.6745
#: Luminance in 1/_SUM of a grey level after the 3x3 sum.
_SUM = 9.0


@dataclass(frozen=True)
class ImageHealth:
    """Measures of one image, in grey levels (0 to 255) where nothing else is said.

    dark, bright: 5th and 95th percentile of the luminance; noise: its standard deviation where the
    picture is smooth; saturated: share of pixels at white, 0 to 1; edge_x, edge_y: how many pixels
    wide edges are along each axis, NaN where there are none to measure.
    """

    mean: float
    dark: float
    median: float
    bright: float
    noise: float
    contrast: float
    saturated: float
    edge_x: float
    edge_y: float

    def values(self) -> dict[str, str]:
        """For diagnostics: name and value."""
        return {
            "luminance mean": f"{self.mean:.1f}",
            "luminance 5 / 50 / 95 %": f"{self.dark:.0f} / {self.median:.0f} / {self.bright:.0f}",
            "noise (grey levels)": f"{self.noise:.1f}",
            "contrast (grey levels)": f"{self.contrast:.0f}",
            "saturated (%)": f"{self.saturated * 100:.1f}",
            "edge width x / y (pixels)": f"{self.edge_x:.1f} / {self.edge_y:.1f}",
        }


def measure(frame: Frame) -> ImageHealth:
    """The health of an image; looks at 3% of a 1280x720 one.

    Raises ValueError if it is unusable, or smaller than 8x8.
    """
    if min(frame.width, frame.height) < _SMALLEST:
        raise ValueError(
            f"an image to judge is at least {_SMALLEST}x{_SMALLEST}, not "
            f"{frame.width}x{frame.height}"
        )
    patches = _patches(frame)
    count, height, width = patches.shape
    luminance = _sorted(patches.reshape(1, -1))[0]
    strip = patches.reshape(-1, width)
    inner = np.s_[:, _MARGIN : height - _MARGIN, _MARGIN : width - _MARGIN]
    noise = cv2.convertScaleAbs(cv2.filter2D(strip, cv2.CV_16S, _NOISE_KERNEL))
    noise = _sorted(noise.reshape(patches.shape)[inner].reshape(count, -1))
    # Texture only adds to it: the smoother patches tell.
    sigma = _at(np.sort(_at(noise, 0.5)), 0.25) / _NORMAL_MEDIAN / _NOISE_GAIN
    smooth = cv2.boxFilter(strip, cv2.CV_16S, (3, 3), normalize=False).reshape(patches.shape)[inner]
    spread = _sorted(smooth.reshape(count, -1))
    contrasts = (_at(spread, 0.98).astype(float) - _at(spread, 0.02)) / _SUM
    clear = contrasts > _EDGE_CONTRAST * max(float(sigma), 1.0)
    edge_x, edge_y = (_edge_width(smooth[clear], contrasts[clear], axis) for axis in (2, 1))
    return ImageHealth(
        mean=float(luminance.mean()),
        dark=float(_at(luminance, 0.05)),
        median=float(_at(luminance, 0.5)),
        bright=float(_at(luminance, 0.95)),
        noise=float(sigma),
        contrast=float(_at(spread, 0.98).max() - float(_at(spread, 0.02).min())) / _SUM,
        saturated=1.0 - float(np.searchsorted(luminance, _WHITE)) / luminance.size,
        edge_x=edge_x,
        edge_y=edge_y,
    )


def _patches(frame: Frame) -> np.ndarray:
    """Luminance of patches spread over the image, `(N, h, w)` uint8."""
    width, height = min(_SIDE, frame.width), min(_SIDE, frame.height)
    lefts = np.linspace(0, frame.width - width, _COLUMNS + 2)[1:-1].astype(int).tolist()
    tops = np.linspace(0, frame.height - height, _ROWS + 2)[1:-1].astype(int).tolist()
    windows = [frame.window(x, y, x + width, y + height) for y in tops for x in lefts]
    return np.stack([cv2.cvtColor(window, cv2.COLOR_BGR2GRAY) for window in windows])


def _sorted(values: np.ndarray) -> np.ndarray:
    # "stable" is a radix sort for small integers, twenty times as fast as anything else.
    return np.sort(values, axis=-1, kind="stable")


def _at(ordered: np.ndarray, share: float) -> np.ndarray:
    """The percentile of sorted values along their last axis."""
    return ordered[..., round((ordered.shape[-1] - 1) * share)]


def _edge_width(smooth: np.ndarray, contrasts: np.ndarray, axis: int) -> float:
    """Median over patches of contrast divided by the steepest slopes, in pixels; else NaN."""
    if len(smooth) < _EDGE_PATCHES:
        return math.nan
    first, last = [slice(None)] * 3, [slice(None)] * 3
    first[axis], last[axis] = slice(None, -1), slice(1, None)
    slopes = smooth[tuple(last)] - smooth[tuple(first)]
    steepest = np.maximum(slopes.max((1, 2)), -slopes.min((1, 2))) / _SUM
    return float(np.median(contrasts / np.maximum(steepest, 0.1)))


def advice(health: ImageHealth) -> list[str]:
    """What is wrong and what to do about it, the most important first; empty for a good image."""
    if health.bright <= BLACK:
        return [
            "the image is black: take the lens cap off, open the shutter, or raise exposure and "
            "gain"
        ]
    found = []
    if health.bright < DARK:
        found.append(
            f"the image is too dark (95% of it below {health.bright:.0f} of 255): raise exposure "
            "or gain, or light the scene"
        )
    if health.contrast < NOISY * health.noise:
        found.append(
            f"noise of {health.noise:.1f} grey levels drowns a contrast of {health.contrast:.0f}: "
            "lengthen the exposure or open the aperture instead of raising gain, or bin pixels"
        )
    if health.saturated > SATURATED:
        found.append(
            f"{health.saturated:.0%} of the image is saturated: lower gain or exposure, or keep "
            "lamps out of the view"
        )
    return found + _blur_advice(health.edge_x, health.edge_y)


def _blur_advice(x: float, y: float) -> list[str]:
    widest, other = max(x, y), min(x, y)
    if math.isnan(widest) or widest < BLURRED:
        return []
    if widest > _MOTION_RATIO * other:
        axis = "sideways" if x > y else "up and down"
        return [
            f"the image is blurred by motion {axis} (edges {widest:.0f} pixels wide): shorten the "
            "exposure and raise gain for it, or steady the camera"
        ]
    return [
        f"the image is blurred (edges {widest:.0f} pixels wide): focus or clean the lens, or "
        "shorten the exposure"
    ]
