# SPDX-License-Identifier: Apache-2.0
"""A physical low-light camera: turns a well-lit picture into what it would have been at night.

The way of the light, in this order:

1. the day picture is brought to linear light (inverse sRGB), 1.0 being its white;
2. lamps replace the daylight: their colour, pools of light, lens fall-off, glare;
3. the scene moves while the shutter is open and the lens is not perfectly sharp;
4. ``exposure * full_well`` electrons are collected at white; they arrive with photon noise, are
   read out with read noise and with a bit of row and column noise;
5. the camera amplifies (``gain``), clips, applies its tone curve, quantises and perhaps compresses
   (JPEG).

The noise is specified as it leaves the camera's own demosaicing and denoising: ``noise_grain`` and
``chroma_grain`` say how far it is correlated in space, ``chroma_noise`` how far the colours are
independent. They change the look of the noise, never its variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

TONE_STEPS = 16384  # entries of the tone table; 0.2 grey levels a step in the darkest part
LIGHT_GRID = 24  # cells of the coarse illumination map, a side
NOISE_BANK = 1 << 22  # normal deviates kept; to draw them anew would take most of the time
MIN_BLUR_PX = 0.3  # blur below this sigma, or twice this length, does not show


@dataclass(frozen=True)
class NightConditions:
    """Light and camera of one sequence. Its captures share this and differ in their noise only.

    Lengths are in pixels of the picture given to :func:`capture`; positions are fractions of its
    width and height, so that the same conditions fit a crop and a full frame.
    """

    exposure: float = 1.0
    """Light on the sensor, relative to the well-exposed day picture (linear, 1 = day)."""
    gain: float = 1.0
    """Amplification after the read-out (linear). Brightness is ``exposure * gain``."""
    full_well: float = 10000.0
    """Electrons at day white. Large: a clean (large, binned or denoised) pixel."""
    read_noise: float = 2.0
    """Standard deviation of the read noise, electrons."""
    row_noise: float = 0.0
    """Standard deviation of the offset that each row gets in each capture, electrons."""
    column_pattern: float = 0.0
    """Standard deviation of the offset of each column, electrons; the same in every capture."""
    pattern_seed: int = 0
    """Chooses the column pattern of this camera."""
    noise_grain: float = 0.0
    """Sigma of the spatial correlation of the luminance noise, pixels (0: white noise)."""
    chroma_grain: float = 0.0
    """Sigma of the spatial correlation of the colour noise, pixels (0: white noise)."""
    chroma_noise: float = 1.0
    """Part of the noise variance that is independent between colours, 0 (grey noise) to 1."""
    lamp_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Linear gains of blue, green, red given by the light."""
    vignette: float = 0.0
    """Light lost in the corners, 0 to 1."""
    pools: tuple[tuple[float, float, float, float], ...] = ()
    """Pools of lamp light ``(x, y, radius, strength)``; radius as a fraction of the longer side,
    strength as a multiple of the surrounding light, added to it."""
    glares: tuple[tuple[float, float, float, float], ...] = ()
    """Lamps in view ``(x, y, radius, radiance)``, added to the picture; radiance relative to the
    camera's white after gain (above 1 it saturates)."""
    motion_blur: tuple[float, float] = (0.0, 0.0)
    """Length (pixels) and direction (degrees, 0 = along x) of the motion during the exposure."""
    softness: float = 0.0
    """Sigma of the blur by lens and denoising, pixels."""
    saturation: float = 1.0
    """Colour saturation of the camera's picture (1 = as the sensor saw it, 0 = grey)."""
    contrast: float = 1.0
    """Exponent on the sRGB-coded output: above 1 crushes the shadows, below 1 lifts them."""
    jpeg_quality: int | None = None
    """Quality of the final JPEG compression (1 to 100), or None for none."""

    def __post_init__(self) -> None:
        """Refuse values without a physical meaning, naming the field."""
        for name in ("exposure", "gain", "full_well", "contrast"):
            if not getattr(self, name) > 0 or not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)!r}")
        for name in (
            "read_noise",
            "row_noise",
            "column_pattern",
            "noise_grain",
            "chroma_grain",
            "softness",
            "saturation",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be zero or more, not {getattr(self, name)!r}")
        for name in ("chroma_noise", "vignette"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, not {getattr(self, name)!r}")
        if len(self.lamp_colour) != 3 or min(self.lamp_colour) <= 0:
            raise ValueError(
                f"lamp_colour must be three positive gains (blue, green, red), "
                f"not {self.lamp_colour!r}"
            )
        if self.motion_blur[0] < 0:
            raise ValueError(
                f"motion_blur length must be zero or more, not {self.motion_blur[0]!r}"
            )
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be None or 1..100, not {self.jpeg_quality!r}")


# Linear BGR gains of common lamps, green at about 1.
LAMP_COLOURS: dict[str, tuple[float, float, float]] = {
    "neutral": (0.95, 1.0, 1.0),
    "sodium": (0.38, 0.92, 1.45),
    "warm_led": (0.66, 0.98, 1.22),
    "white_led": (1.02, 1.02, 0.95),
    "bluish": (1.35, 1.02, 0.78),
    "greenish": (0.85, 1.12, 0.86),
}

# Fixed for good: published figures on darkened sequences depend on every digit.
NAMED_CONDITIONS: dict[str, NightConditions] = {
    "dusk": NightConditions(
        exposure=0.15,
        gain=1.6,
        full_well=12000.0,
        read_noise=2.5,
        row_noise=0.2,
        noise_grain=0.5,
        chroma_grain=0.8,
        chroma_noise=0.6,
        lamp_colour=(1.20, 1.0, 0.86),
        vignette=0.15,
        saturation=0.9,
    ),
    "street": NightConditions(
        exposure=0.02,
        gain=4.0,
        full_well=9000.0,
        read_noise=3.0,
        row_noise=0.4,
        noise_grain=0.5,
        chroma_grain=0.8,
        chroma_noise=0.6,
        lamp_colour=(0.62, 0.97, 1.25),
        vignette=0.25,
        softness=0.5,
        saturation=0.85,
    ),
    "dark": NightConditions(
        exposure=0.006,
        gain=6.0,
        full_well=9000.0,
        read_noise=3.0,
        row_noise=0.5,
        noise_grain=0.5,
        chroma_grain=0.9,
        chroma_noise=0.6,
        lamp_colour=(0.85, 1.0, 1.05),
        vignette=0.3,
        softness=0.6,
        motion_blur=(2.0, 20.0),
        saturation=0.8,
    ),
    "very_dark": NightConditions(
        exposure=0.0018,
        gain=7.0,
        full_well=9000.0,
        read_noise=2.5,
        row_noise=0.5,
        noise_grain=0.6,
        chroma_grain=1.0,
        chroma_noise=0.6,
        lamp_colour=(0.95, 1.0, 0.98),
        vignette=0.3,
        softness=0.7,
        motion_blur=(3.0, 20.0),
        saturation=0.7,
    ),
    # A small camera at high gain: 300 electrons fill a pixel's range, read noise is 2% of white.
    "high_gain": NightConditions(
        exposure=0.008,
        gain=30.0,
        full_well=9000.0,
        read_noise=6.0,
        row_noise=0.8,
        noise_grain=0.4,
        chroma_grain=0.6,
        chroma_noise=0.7,
        lamp_colour=(0.80, 1.0, 1.10),
        vignette=0.25,
        softness=0.5,
        saturation=0.9,
    ),
}


def capture(bgr: np.ndarray, conditions: NightConditions, rng: np.random.Generator) -> np.ndarray:
    """Take one picture of a scene under night conditions.

    Args:
        bgr: the scene as a well-exposed picture, ``(height, width, 3)`` uint8, sRGB, any strides.
        conditions: light and camera.
        rng: source of this capture's noise; the same state gives the same picture.

    Returns:
        A new ``(height, width, 3)`` uint8 BGR picture.

    Raises:
        ValueError: if ``bgr`` is not a non-empty ``(height, width, 3)`` array.
        TypeError: if ``bgr`` is not a uint8 ndarray.
    """
    _check_picture(bgr)
    light = _scene_light(bgr, conditions)
    light = _blur(light, conditions)
    electrons = _expose(light, conditions, rng)
    picture = _develop(electrons, conditions)
    return _compress(picture, conditions.jpeg_quality)


def sample_conditions(rng: np.random.Generator, severity: float = 1.0) -> NightConditions:
    """Draw conditions for training, from nearly day to very dark, clean as well as noisy.

    Args:
        rng: random source.
        severity: 0 stays near dusk with little noise, 1 is the full training range, up to 2 is
            darker and noisier than anything a camera still tracks in.

    Raises:
        ValueError: if severity is outside 0..2.
    """
    if not 0 <= severity <= 2:
        raise ValueError(f"severity must be in 0..2, not {severity!r}")
    # Brightness and noise are drawn apart: clean darkness and bright noise both exist.
    brightness = 10 ** rng.uniform(-0.5 - 1.6 * severity, -0.15)
    noise_per_white = 10 ** rng.uniform(-3.6, -3.4 + 1.2 * severity)  # noise in black, of white
    read_noise = float(rng.uniform(1.0, 4.0))
    # Amplified read noise plus the photon noise of a mid-grey that the lamps leave.
    full_well = 10 ** rng.uniform(3.6, 4.4)
    gain = max(noise_per_white * full_well / read_noise, 0.02)
    exposure = brightness / gain
    grain = float(rng.choice([0.0, rng.uniform(0.4, 1.2)]))
    return NightConditions(
        exposure=float(exposure),
        gain=float(gain),
        full_well=float(full_well),
        read_noise=read_noise,
        row_noise=read_noise * float(rng.choice([0.0, rng.uniform(0.05, 0.3)])),
        column_pattern=read_noise * float(rng.choice([0.0, 0.0, rng.uniform(0.05, 0.2)])),
        pattern_seed=int(rng.integers(1 << 31)),
        noise_grain=grain,
        chroma_grain=grain * float(rng.uniform(1.0, 2.0)),
        chroma_noise=float(rng.uniform(0.2, 1.0)),
        lamp_colour=_sample_lamp_colour(rng),
        vignette=float(rng.choice([0.0, rng.uniform(0.1, 0.6)])),
        pools=_sample_pools(rng),
        glares=_sample_glares(rng),
        motion_blur=_sample_motion_blur(rng, severity),
        softness=float(rng.choice([0.0, rng.uniform(0.4, 1.2)])),
        saturation=float(rng.uniform(0.4, 1.1)),
        contrast=float(rng.uniform(0.8, 1.25)),
        jpeg_quality=int(rng.integers(30, 95)) if rng.random() < 0.35 else None,
    )


def sample_high_gain(rng: np.random.Generator) -> NightConditions:
    """Draw conditions of a small camera at high gain, for training.

    The shot noise of white is that of 80 to 1,000 electrons, the range of the calibrations of
    phone and compact cameras in Brooks et al. (arXiv 1811.11127, section 3.1), and the read noise
    of half the draws follows from it by their fit: ``log v = 2.18 log s + 1.20``, deviation 0.26,
    variances in units of white. The other half has 0.5 to 3% of white, as small video cameras have.
    """
    electrons = 10 ** rng.uniform(1.9, 3.0)  # that fill the range at the used gain
    if rng.random() < 0.5:
        log_variance = 2.18 * math.log(1.0 / electrons) + 1.20 + 0.26 * rng.standard_normal()
        read_of_white = math.exp(log_variance / 2)
    else:
        read_of_white = 10 ** rng.uniform(-2.3, -1.52)
    brightness = 10 ** rng.uniform(-1.0, -0.1)
    gain = 10 ** rng.uniform(0.7, 1.6)
    grain = float(rng.choice([0.0, rng.uniform(0.3, 1.0)]))
    read_noise = read_of_white * electrons
    return NightConditions(
        exposure=float(brightness / gain),
        gain=float(gain),
        full_well=float(electrons * gain),
        read_noise=float(read_noise),
        row_noise=read_noise * float(rng.choice([0.0, rng.uniform(0.05, 0.3)])),
        column_pattern=read_noise * float(rng.choice([0.0, 0.0, rng.uniform(0.05, 0.2)])),
        pattern_seed=int(rng.integers(1 << 31)),
        noise_grain=grain,
        chroma_grain=grain * float(rng.uniform(1.0, 2.0)),
        chroma_noise=float(rng.uniform(0.3, 1.0)),
        lamp_colour=_sample_lamp_colour(rng),
        vignette=float(rng.choice([0.0, rng.uniform(0.1, 0.5)])),
        pools=_sample_pools(rng),
        motion_blur=_sample_motion_blur(rng, 0.7),
        softness=float(rng.choice([0.0, rng.uniform(0.4, 1.0)])),
        saturation=float(rng.uniform(0.5, 1.1)),
        contrast=float(rng.uniform(0.85, 1.2)),
        jpeg_quality=int(rng.integers(40, 95)) if rng.random() < 0.2 else None,
    )


def _sample_lamp_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    names = list(LAMP_COLOURS)
    first = np.array(LAMP_COLOURS[names[rng.integers(len(names))]])
    second = np.array(LAMP_COLOURS[names[rng.integers(len(names))]])
    mixed = first + rng.random() * (second - first)
    blue, green, red = mixed * rng.uniform(0.92, 1.08, size=3)
    return float(blue), float(green), float(red)


def _sample_pools(rng: np.random.Generator) -> tuple[tuple[float, float, float, float], ...]:
    if rng.random() < 0.6:
        return ()
    count = int(rng.integers(1, 4))
    return tuple(
        (
            float(rng.uniform(-0.1, 1.1)),
            float(rng.uniform(-0.1, 1.1)),
            float(rng.uniform(0.15, 0.6)),
            float(rng.uniform(0.5, 4.0)),
        )
        for _ in range(count)
    )


def _sample_glares(rng: np.random.Generator) -> tuple[tuple[float, float, float, float], ...]:
    if rng.random() < 0.8:
        return ()
    count = int(rng.integers(1, 5))
    return tuple(
        (
            float(rng.random()),
            float(rng.random()),
            float(rng.uniform(0.004, 0.015)),
            float(rng.uniform(0.1, 2.0)),
        )
        for _ in range(count)
    )


def _sample_motion_blur(rng: np.random.Generator, severity: float) -> tuple[float, float]:
    if rng.random() < 0.7:
        return 0.0, 0.0
    return float(rng.uniform(1.5, 3.0 + 8.0 * severity)), float(rng.uniform(0.0, 180.0))


def _check_picture(bgr: np.ndarray) -> None:
    if not isinstance(bgr, np.ndarray) or bgr.dtype != np.uint8:
        kind = f"dtype {bgr.dtype}" if isinstance(bgr, np.ndarray) else type(bgr).__name__
        raise TypeError(f"the picture must be a uint8 ndarray, not {kind}")
    if bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.size == 0:
        raise ValueError(f"the picture must have the shape (height, width, 3), not {bgr.shape}")


@lru_cache(maxsize=1)
def _linear_of_srgb() -> np.ndarray:
    code = np.arange(256) / 255.0
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


@lru_cache(maxsize=64)
def tone_table(contrast: float) -> np.ndarray:
    """Camera code (uint8) of linear light 0..1 in :data:`TONE_STEPS` equal steps, read-only."""
    linear = np.arange(TONE_STEPS) / (TONE_STEPS - 1)
    code = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255.0 * code**contrast).astype(np.uint8)


def _scene_light(bgr: np.ndarray, conditions: NightConditions) -> np.ndarray:
    """Electrons without noise, ``(h, w, 3)`` float32, before any blur."""
    white = conditions.exposure * conditions.full_well * np.array(conditions.lamp_colour)
    table = (_linear_of_srgb()[:, None] * white[None, :]).astype(np.float32)[None]
    light = cv2.LUT(bgr, table)
    if conditions.vignette or conditions.pools:
        height, width = bgr.shape[:2]
        coarse = _illumination(conditions, width / height)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        light = cv2.multiply(light, cv2.merge([fine, fine, fine]))
    for glare in conditions.glares:
        _add_glare(light, glare, conditions)
    return light


def _illumination(conditions: NightConditions, aspect: float) -> np.ndarray:
    """Coarse map of the light, ``(LIGHT_GRID, LIGHT_GRID)`` float32, mean about 1 with pools."""
    x, y = np.meshgrid(np.linspace(0, 1, LIGHT_GRID), np.linspace(0, 1, LIGHT_GRID))
    scale_x, scale_y = min(1.0, aspect), min(1.0, 1.0 / aspect)
    scale_x, scale_y = (1.0, scale_y) if aspect >= 1 else (scale_x, 1.0)
    light = np.ones((LIGHT_GRID, LIGHT_GRID))
    for pool_x, pool_y, radius, strength in conditions.pools:
        squared = ((x - pool_x) * scale_x) ** 2 + ((y - pool_y) * scale_y) ** 2
        light += strength / (1.0 + squared / radius**2) ** 2
    if conditions.pools:
        light /= light.mean()
    corner = 2.0 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    return (light * (1.0 - conditions.vignette * corner)).astype(np.float32)


def _add_glare(
    light: np.ndarray, glare: tuple[float, float, float, float], conditions: NightConditions
) -> None:
    """Add one lamp with its halo to ``light`` (electrons), in place."""
    height, width = light.shape[:2]
    centre_x, centre_y = glare[0] * width, glare[1] * height
    radius = max(glare[2] * max(width, height), 1.0)
    reach = math.ceil(5.0 * radius)
    left, right = max(0, int(centre_x) - reach), min(width, int(centre_x) + reach)
    top, bottom = max(0, int(centre_y) - reach), min(height, int(centre_y) + reach)
    if left >= right or top >= bottom:
        return
    column = (np.arange(left, right, dtype=np.float32) - centre_x) / radius
    row = (np.arange(top, bottom, dtype=np.float32) - centre_y) / radius
    squared = column[None, :] ** 2 + row[:, None] ** 2
    halo = np.exp(-squared) + 0.04 * np.clip(1.0 - squared / 25.0, 0.0, 1.0) ** 2
    white = glare[3] * conditions.full_well / conditions.gain * np.array(conditions.lamp_colour)
    light[top:bottom, left:right] += halo[:, :, None] * white.astype(np.float32)


def _blur(light: np.ndarray, conditions: NightConditions) -> np.ndarray:
    length, angle_deg = conditions.motion_blur
    if length > 2 * MIN_BLUR_PX:
        kernel = _line_kernel(length, angle_deg)
        light = cv2.filter2D(light, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        np.maximum(light, 0.0, out=light)  # long kernels are filtered by a DFT, which undershoots
    if conditions.softness > MIN_BLUR_PX:
        light = cv2.GaussianBlur(
            light, (0, 0), conditions.softness, borderType=cv2.BORDER_REPLICATE
        )
    return light


@lru_cache(maxsize=64)
def _line_kernel(length_px: float, angle_deg: float) -> np.ndarray:
    """Normalised line of the given length through the centre, anti-aliased by fine sampling."""
    half = math.ceil(length_px / 2)
    kernel = np.zeros((2 * half + 3, 2 * half + 3), np.float32)
    along = np.linspace(-length_px / 2, length_px / 2, 4 * half + 1)
    x = along * math.cos(math.radians(angle_deg)) + half + 1
    y = along * math.sin(math.radians(angle_deg)) + half + 1
    for px, py in zip(x, y, strict=True):
        column, row = int(px), int(py)
        fx, fy = px - column, py - row
        weights = np.outer([1 - fy, fy], [1 - fx, fx])
        kernel[row : row + 2, column : column + 2] += weights.astype(np.float32)
    # Without its empty margin the kernel stays below the size from which OpenCV takes the slow DFT.
    margin_y, margin_x = (int(np.flatnonzero(kernel.any(axis=side))[0]) for side in (1, 0))
    kernel = kernel[margin_y : len(kernel) - margin_y, margin_x : len(kernel) - margin_x]
    kernel /= kernel.sum()
    return kernel


def _expose(light: np.ndarray, conditions: NightConditions, rng: np.random.Generator) -> np.ndarray:
    """Electrons read out: ``light`` with photon, read, row and column noise."""
    height, width = light.shape[:2]
    # Poisson by its normal approximation: demosaicing has mixed single photons away.
    sigma = cv2.sqrt(light + np.float32(conditions.read_noise**2))
    noise = unit_noise((height, width), conditions, rng)
    electrons: np.ndarray = cv2.add(light, cv2.multiply(sigma, noise))
    if conditions.row_noise:
        rows = rng.standard_normal((height, 1, 1), np.float32)
        electrons += rows * np.float32(conditions.row_noise)
    if conditions.column_pattern:
        columns = np.random.default_rng(conditions.pattern_seed)
        pattern = columns.standard_normal((1, width, 1), np.float32)
        electrons += pattern * np.float32(conditions.column_pattern)
    return electrons


def unit_noise(
    size: tuple[int, int], conditions: NightConditions, rng: np.random.Generator
) -> np.ndarray:
    """Noise of unit variance with the grain of the conditions, ``(height, width, 3)`` float32."""
    colour_part = conditions.chroma_noise
    noise = _grain(_white_noise((*size, 3), rng), conditions.chroma_grain)
    if colour_part == 1.0:
        return noise
    grey = _grain(_white_noise(size, rng), conditions.noise_grain)
    return cv2.addWeighted(
        noise,
        math.sqrt(colour_part),
        cv2.merge([grey, grey, grey]),
        math.sqrt(1.0 - colour_part),
        0.0,
    )


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(20231207).standard_normal(NOISE_BANK, dtype=np.float32)


def _white_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """White noise of unit variance: a random stretch of the bank, read-only in effect (a view)."""
    count = math.prod(shape)
    if count > NOISE_BANK:
        return rng.standard_normal(shape, dtype=np.float32)
    start = int(rng.integers(NOISE_BANK - count + 1))
    return _noise_bank()[start : start + count].reshape(shape)


def _grain(white: np.ndarray, sigma_px: float) -> np.ndarray:
    """Correlate white noise in space and keep its variance."""
    if sigma_px < MIN_BLUR_PX:
        return white
    half = min(math.ceil(2.5 * sigma_px), 4)
    kernel = cv2.getGaussianKernel(2 * half + 1, sigma_px, cv2.CV_32F)
    # Filtered white noise has the kernel's energy as its variance; rows and columns each.
    unit = kernel / np.sqrt((kernel**2).sum())
    return cv2.sepFilter2D(white, -1, unit, unit)


def _develop(electrons: np.ndarray, conditions: NightConditions) -> np.ndarray:
    """Gain, saturation, clipping and tone curve: electrons to uint8."""
    scale = conditions.gain / conditions.full_well * (TONE_STEPS - 1)
    if conditions.saturation != 1.0:
        grey_part = 1.0 - conditions.saturation
        grey = np.array([0.114, 0.587, 0.299]) * grey_part
        matrix = (np.eye(3) * conditions.saturation + np.tile(grey, (3, 1))) * scale
        linear = cv2.transform(electrons, matrix.astype(np.float32))
    else:
        linear = electrons
        linear *= np.float32(scale)
    np.clip(linear, 0, TONE_STEPS - 1, out=linear)
    return tone_table(conditions.contrast).take(linear.astype(np.uint16))


def _compress(picture: np.ndarray, quality: int | None) -> np.ndarray:
    if quality is None:
        return picture
    done, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise RuntimeError(f"JPEG compression of a {picture.shape} picture failed")
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
