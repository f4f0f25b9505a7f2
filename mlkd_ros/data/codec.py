# SPDX-License-Identifier: Apache-2.0
"""What a camera makes of its noisy frames before they are seen: denoising, sharpening, H.264.

A stream, not a picture: the temporal denoising and the codec look back, so frames must come in
their order. Needs PyAV for the codec (``pip install mlkd_ros[train]``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from mlkd_ros.data.lowlight import NAMED_CONDITIONS, NightConditions, capture

#: Pixels of the picture that bit rates are named for.
AREA_720P = 1280 * 720


@dataclass(frozen=True)
class CameraProcessing:
    """The part of a camera behind the sensor. Zero leaves a stage out.

    Attributes:
        temporal: Weight of the past in a still part of the picture, 0 to below 1 (motion-adaptive
            recursive filter, as in the 3D noise reduction of cameras).
        spatial: Sigma of the luminance filter in pixels; the chrominance gets three times as much.
        edge: Deviation in grey levels from which on the temporal filter takes a difference for
            motion, and the spatial one a gradient for an edge.
        sharpen: Amount of unsharp masking (1: the detail is doubled).
        bit_rate: Of H.264 in bit/s at 1280 x 720, scaled by the area of the picture; 0: no codec.
        key_every: Frames from key frame to key frame.
        preset: Of x264. Hardware encoders do about what ``veryfast`` does.
    """

    temporal: float = 0.0
    spatial: float = 0.0
    edge: float = 12.0
    sharpen: float = 0.0
    bit_rate: float = 0.0
    key_every: int = 60
    preset: str = "veryfast"

    def __post_init__(self) -> None:
        """Refuse values without a meaning, naming the field."""
        if not 0 <= self.temporal < 1:
            raise ValueError(f"temporal must be 0 to below 1, not {self.temporal!r}")
        for name in ("spatial", "sharpen", "bit_rate"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be zero or more, not {getattr(self, name)!r}")
        if not self.edge > 0:
            raise ValueError(f"edge must be positive, not {self.edge!r}")
        if self.key_every < 1:
            raise ValueError(f"key_every must be 1 or more, not {self.key_every!r}")


#: Conditions of a whole stream: light and sensor, and the camera behind them. Fixed for good, as
#: ``lowlight.NAMED_CONDITIONS`` are.
STREAM_CONDITIONS: dict[str, tuple[NightConditions, CameraProcessing]] = {
    "codec": (
        NightConditions(
            exposure=0.015,
            gain=15.0,
            full_well=9000.0,
            read_noise=6.0,
            row_noise=0.5,
            noise_grain=0.5,
            chroma_grain=0.9,
            chroma_noise=0.6,
            lamp_colour=(0.80, 1.0, 1.10),
            vignette=0.25,
            softness=0.5,
            saturation=0.9,
        ),
        CameraProcessing(temporal=0.75, spatial=1.0, sharpen=0.6, bit_rate=1.5e6),
    ),
}


def degraded(
    frames: Iterable[np.ndarray], condition: str, seed: tuple[int, ...] = (0,)
) -> Iterator[np.ndarray]:
    """Frames as a camera shows them under a named condition, one for each that comes in.

    Args:
        frames: uint8 ``(H, W, 3)`` BGR by day, in their order.
        condition: A name of ``lowlight.NAMED_CONDITIONS`` or of ``STREAM_CONDITIONS``.
        seed: Of the noise; that of frame ``i`` is a pure function of ``seed`` and ``i``.

    Raises:
        ValueError: The condition is unknown.
        ImportError: The condition has a codec and PyAV is not installed.
    """
    known = [*NAMED_CONDITIONS, *STREAM_CONDITIONS]
    if condition not in known:
        raise ValueError(f"condition must be one of {', '.join(known)}, not {condition!r}")
    if condition in NAMED_CONDITIONS:
        return captured(frames, NAMED_CONDITIONS[condition], seed)
    light, camera = STREAM_CONDITIONS[condition]
    return processed(captured(frames, light, seed), camera)


def captured(
    frames: Iterable[np.ndarray], conditions: NightConditions, seed: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Each frame taken under night conditions, its noise by ``seed`` and its number.

    ``seed``: first part, then the frame's number, then the rest.
    """
    first, *rest = seed
    for number, frame in enumerate(frames):
        yield capture(frame, conditions, np.random.default_rng((first, number, *rest)))


def sample_processing(rng: np.random.Generator, coded: bool = False) -> CameraProcessing:
    """Draw a camera for training, from nearly none to a strong one; H.264 at 0.8 to 2.5 Mbit/s for
    720p if ``coded``.
    """
    return CameraProcessing(
        temporal=float(rng.choice([0.0, rng.uniform(0.3, 0.85)])),
        spatial=float(rng.choice([0.0, rng.uniform(0.6, 1.6)])),
        edge=float(rng.uniform(6.0, 20.0)),
        sharpen=float(rng.choice([0.0, rng.uniform(0.2, 1.2)])),
        bit_rate=float(10 ** rng.uniform(5.9, 6.4)) if coded else 0.0,
    )


def processed(
    frames: Iterable[np.ndarray], camera: CameraProcessing, frame_rate: float = 30.0
) -> Iterator[np.ndarray]:
    """Frames as the camera puts them out, one for each that comes in, without delay.

    Args:
        frames: uint8 ``(H, W, 3)`` BGR, all of one size, in their order.
        camera: What is done to them.
        frame_rate: Frames a second, for the bit rate.

    Raises:
        ImportError: The codec is asked for and PyAV is not installed.
        ValueError: A frame has another size than the first.
    """
    denoised = _denoised(frames, camera)
    return _coded(denoised, camera, frame_rate) if camera.bit_rate else denoised


def _denoised(frames: Iterable[np.ndarray], camera: CameraProcessing) -> Iterator[np.ndarray]:
    past: np.ndarray | None = None
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"frame {number} is {frame.shape}, the first one {shape}")
        picture = frame.astype(np.float32)
        if camera.temporal:
            picture = past = _temporal(picture, past, camera)
        yield develop(picture, camera)


def _temporal(picture: np.ndarray, past: np.ndarray | None, camera: CameraProcessing) -> np.ndarray:
    """Mix with the past where the locally averaged difference looks like noise."""
    if past is None:
        return picture
    difference = cv2.blur(cv2.absdiff(picture, past), (5, 5)).max(axis=2)
    still = np.float32(camera.temporal) * np.exp(-np.square(difference / np.float32(camera.edge)))
    weight = cv2.merge([still, still, still])
    return np.asarray(cv2.add(picture, cv2.multiply(weight, cv2.subtract(past, picture))))


def develop(picture: np.ndarray, camera: CameraProcessing) -> np.ndarray:
    """Spatial denoising and sharpening of one picture: float32 ``(H, W, 3)`` BGR 0..255 to uint8.

    Luminance goes through an edge-preserving mean, chrominance through a wide blur.
    """
    if camera.spatial:
        luma, *chroma = cv2.split(cv2.cvtColor(picture / 255.0, cv2.COLOR_BGR2YCrCb))
        sigma = camera.spatial
        smooth = cv2.GaussianBlur(luma, (0, 0), sigma)
        # An edge is where the smooth picture differs from a smoother one, seen above the noise.
        detail = cv2.absdiff(smooth, cv2.GaussianBlur(luma, (0, 0), 2 * sigma)) * 255.0
        keep = 1.0 - np.exp(-np.square(detail / np.float32(camera.edge)))
        luma = smooth + keep * (luma - smooth)
        chroma = [cv2.GaussianBlur(part, (0, 0), 3 * sigma) for part in chroma]
        picture = cv2.cvtColor(cv2.merge([luma, *chroma]), cv2.COLOR_YCrCb2BGR) * 255.0
    if camera.sharpen:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.2)
        picture = cv2.addWeighted(picture, 1 + camera.sharpen, soft, -camera.sharpen, 0.0)
    developed: np.ndarray = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return developed


def _coded(
    frames: Iterable[np.ndarray], camera: CameraProcessing, frame_rate: float
) -> Iterator[np.ndarray]:
    """Through x264 without delay (no B frames, no look-ahead) and back."""
    try:
        import av
    except ImportError:
        raise ImportError("H.264 needs PyAV: pip install mlkd_ros[train]") from None

    encoder: Any = None
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    for number, frame in enumerate(frames):
        height, width = frame.shape[:2]
        if encoder is None:
            encoder = _encoder(av, width, height, camera, frame_rate)
        # The format has half the chrominance: odd sides lose their last line to a copy of it.
        even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(np.asarray(even, np.uint8), format="bgr24")
        picture.pts = number
        shown = [out for packet in encoder.encode(picture) for out in decoder.decode(packet)]
        if len(shown) != 1:
            raise RuntimeError(f"H.264: {len(shown)} frames came out for frame {number}")
        yield np.ascontiguousarray(shown[0].to_ndarray(format="bgr24")[:height, :width])


def _encoder(av: Any, width: int, height: int, camera: CameraProcessing, frame_rate: float) -> Any:
    bits = max(20_000, round(camera.bit_rate * width * height / AREA_720P))
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = width + width % 2, height + height % 2
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = Fraction(frame_rate).limit_denominator(1000)
    encoder.time_base = 1 / encoder.framerate
    encoder.bit_rate = bits
    encoder.gop_size = camera.key_every
    encoder.max_b_frames = 0
    encoder.thread_count = 1
    encoder.options = {
        "preset": camera.preset, "tune": "zerolatency", "profile": "baseline",
        "maxrate": str(bits), "bufsize": str(bits // 2), "flags": "+low_delay",
        "x264-params": f"scenecut=0:keyint={camera.key_every}",
    }  # fmt: skip
    return encoder
