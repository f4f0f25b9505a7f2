# SPDX-License-Identifier: Apache-2.0
"""BGR images as the bytes and messages that a real camera would send, in any encoding."""

from __future__ import annotations

import array
import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mlkd_ros.imaging.encodings import ENCODINGS
from mlkd_ros.imaging.frame import Bayer16Frame, Frame, Mono16Frame
from mlkd_ros.imaging.messages import KEY_FLAG

if TYPE_CHECKING:
    from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
    from foxglove_msgs.msg import CompressedVideo
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header

__all__ = [
    "compressed_message",
    "encode",
    "frame_message",
    "image_message",
    "jpeg",
    "recorded_message",
    "video_message",
]

#: Of zlib: higher takes several times as long for a few percent.
_PNG_LEVEL = 1

_CONVERSIONS = {
    "rgb8": cv2.COLOR_BGR2RGB,
    "bgra8": cv2.COLOR_BGR2BGRA,
    "8UC4": cv2.COLOR_BGR2BGRA,
    "rgba8": cv2.COLOR_BGR2RGBA,
    "mono8": cv2.COLOR_BGR2GRAY,
    "8UC1": cv2.COLOR_BGR2GRAY,
}


def encode(bgr: np.ndarray, encoding: str) -> np.ndarray:
    """The bytes of an HxWx3 uint8 BGR image in `encoding`: rows x bytes per row, uint8, contiguous.

    16-bit values are little-endian and use the whole range. Chroma is subsampled as the encoding
    asks, which needs even sides. Raises ValueError for an unknown encoding or odd sides.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding '{encoding}' is not one of {', '.join(ENCODINGS)}")
    if encoding in ("bgr8", "8UC3"):
        pixels = bgr
    elif encoding in _CONVERSIONS:
        pixels = cv2.cvtColor(bgr, _CONVERSIONS[encoding])
    elif encoding in ("mono16", "16UC1"):
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype("<u2") * np.uint16(257)
    elif encoding.startswith("bayer_"):
        pixels = _mosaic(bgr, encoding[len("bayer_") :].rstrip("816"))
        if encoding.endswith("16"):
            pixels = pixels.astype("<u2") * np.uint16(257)
    else:
        pixels = _subsampled(bgr, encoding)
    pixels = np.ascontiguousarray(pixels)
    return pixels.reshape(len(pixels), -1).view(np.uint8)


def image_message(bgr: np.ndarray, header: Header, encoding: str = "bgr8") -> Image:
    """A sensor_msgs/Image of an HxWx3 uint8 BGR image. Raises ValueError like `encode`."""
    return _image(encode(bgr, encoding), bgr.shape[1], header, encoding, bgr.shape[0])


def _image(
    rows: np.ndarray, width: int, header: Header, encoding: str, height: int | None = None
) -> Image:
    """A message of rows of bytes or values; NV12 has more rows than the image is high."""
    from sensor_msgs.msg import Image

    rows = np.ascontiguousarray(rows)
    # The one way to fill a message that does not touch the bytes one by one.
    data = array.array("B")
    data.frombytes(rows.data.cast("B"))
    return Image(
        header=header,
        height=height or len(rows),
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.nbytes // len(rows),
        data=data,
    )


def frame_message(frame: Frame, header: Header, encoding: str = "bgr8") -> Image:
    """A frame as sensor_msgs/Image. 16-bit values asked for as such stay what they are.

    Raises ValueError like `encode`, UnusableImageError.
    """
    if encoding in ("mono16", "16UC1") and isinstance(frame, Mono16Frame):
        return _image(frame.values.astype("<u2"), frame.width, header, encoding)
    return image_message(frame.window(0, 0, frame.width, frame.height), header, encoding)


def jpeg(bgr: np.ndarray, quality: int) -> bytes:
    """An HxWx3 uint8 BGR image as a JPEG file of that quality, 1 to 100. Raises ValueError."""
    try:
        done, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise ValueError(
            f"{bgr.shape[1]}x{bgr.shape[0]} pixels cannot be a JPEG: {error}"
        ) from error
    if not done:
        raise ValueError(f"{bgr.shape[1]}x{bgr.shape[0]} pixels cannot be a JPEG")
    return coded.tobytes()


def compressed_message(bgr: np.ndarray, header: Header, quality: int) -> CompressedImage:
    """A BGR image as JPEG, named as image_transport does. Raises ValueError like `jpeg`."""
    return _compressed(header, "bgr8; jpeg compressed bgr8", jpeg(bgr, quality))


def recorded_message(frame: Frame, header: Header, quality: int) -> CompressedImage:
    """A frame as it is kept: JPEG; but what has 16 bits a value as PNG, which keeps all of them.

    Both are named as image_transport does. Raises ValueError like `jpeg`, UnusableImageError.
    """
    if isinstance(frame, (Mono16Frame, Bayer16Frame)):
        values = np.ascontiguousarray(frame.values.astype(np.uint16))
        _, coded = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
        encoding = f"bayer_{frame.pattern}16" if isinstance(frame, Bayer16Frame) else "mono16"
        return _compressed(header, f"{encoding}; png compressed ", coded.tobytes())
    bgr = frame.window(0, 0, frame.width, frame.height)
    return compressed_message(bgr, header, quality)


def _compressed(header: Header, name: str, coded: bytes) -> CompressedImage:
    from sensor_msgs.msg import CompressedImage

    data = array.array("B")
    data.frombytes(coded)
    return CompressedImage(header=header, format=name, data=data)


def video_message(
    transport: str, data: bytes, header: Header, size: tuple[int, int], count: int, key: bool
) -> FFMPEGPacket | CompressedVideo:
    """A packet of H.264 as `ffmpeg_image_transport` or Foxglove has it, by name of the transport.

    size: width and height in pixels. count: of the pictures of this stream before it. The types
    are imported here: who asks for no video needs none of them.
    """
    packet = array.array("B")
    packet.frombytes(data)
    if transport == "foxglove":
        from foxglove_msgs.msg import CompressedVideo

        stamp, frame_id = header.stamp, header.frame_id
        return CompressedVideo(timestamp=stamp, frame_id=frame_id, data=packet, format="h264")
    from ffmpeg_image_transport_msgs.msg import FFMPEGPacket

    return FFMPEGPacket(
        header=header,
        width=size[0],
        height=size[1],
        # The codec, and the formats of pixels on the way to it and back.
        encoding="h264;yuv420p;bgr8;bgr8",
        pts=count,
        flags=KEY_FLAG if key else 0,
        is_bigendian=sys.byteorder == "big",
        data=packet,
    )


def _mosaic(bgr: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor under this colour mosaic sees of the image."""
    pixels = np.empty(bgr.shape[:2], np.uint8)
    for position, colour in enumerate(pattern):
        cells = np.s_[position // 2 :: 2, position % 2 :: 2]
        pixels[cells] = bgr[..., "bgr".index(colour)][cells]
    return pixels


def _subsampled(bgr: np.ndarray, encoding: str) -> np.ndarray:
    """NV12, UYVY or YUY2."""
    height, width = bgr.shape[:2]
    if width % 2 or height % 2:
        raise ValueError(f"encoding {encoding} needs even sides, not {width}x{height}")
    planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    luma = planes[:height]
    u, v = planes[height:].reshape(2, height // 2, width // 2)
    chroma = np.stack((u, v), axis=-1).reshape(height // 2, width)
    if encoding == "nv12":
        return np.concatenate((luma, chroma))
    chroma = chroma.repeat(2, axis=0)
    first, second = (chroma, luma) if encoding in ("yuv422", "uyvy") else (luma, chroma)
    return np.stack((first, second), axis=-1)
