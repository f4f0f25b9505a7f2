# SPDX-License-Identifier: Apache-2.0
"""Image messages of every encoding and every kind of damage become frames, or a clear refusal."""

from __future__ import annotations

import sys
import types

import cv2
import numpy as np
import pytest
from node_support import image_of

from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.encode import encode
from mlkd_ros.imaging.encodings import ENCODINGS, UnusableImageError
from mlkd_ros.imaging.messages import Decoder

WIDTH, HEIGHT = 64, 48


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """A smooth colour image, so that subsampled colour loses little of it."""
    rng = np.random.default_rng(5)
    small = rng.integers(60, 190, (3, 4, 3)).astype(np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_image_back(colours: np.ndarray, encoding: str) -> None:
    expected = colours
    if encoding.startswith(("mono", "8UC1", "16UC1")):
        expected = cv2.cvtColor(cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    frame = Decoder().decode(image_of(colours, 1, encoding))
    assert (frame.width, frame.height) == (WIDTH, HEIGHT)
    difference = cv2.absdiff(frame.window(3, 5, 60, 41), expected[5:41, 3:60].copy())
    lossy = encoding.startswith(("yuv", "uyvy", "yuyv", "nv12", "bayer"))
    assert difference.mean() <= (4.0 if lossy else 0.0), encoding


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_may_be_any_number_of_bytes_apart(colours: np.ndarray, encoding: str) -> None:
    message = image_of(colours, 1, encoding)
    tight = Decoder().decode(message).window(0, 0, WIDTH, HEIGHT)
    rows = np.pad(encode(colours, encoding), ((0, 0), (0, 13)), constant_values=99)
    message.step = rows.shape[1]
    # Some drivers leave the padding of the last row out.
    message.data = rows.tobytes()[:-13]
    np.testing.assert_array_equal(Decoder().decode(message).window(0, 0, WIDTH, HEIGHT), tight)


def test_the_pixels_are_not_copied(colours: np.ndarray) -> None:
    message = image_of(colours, 1)
    window = Decoder().decode(message).window(0, 0, 10, 10)
    assert np.shares_memory(window, np.frombuffer(message.data, np.uint8))


def test_big_endian_16_bit(colours: np.ndarray) -> None:
    message = image_of(colours, 1, "mono16")
    native = Decoder().decode(message).window(0, 0, WIDTH, HEIGHT)
    message.data = np.frombuffer(message.data, "<u2").astype(">u2").tobytes()
    message.is_bigendian = 1
    np.testing.assert_array_equal(Decoder().decode(message).window(0, 0, WIDTH, HEIGHT), native)


def test_the_range_of_a_12_bit_camera(colours: np.ndarray) -> None:
    message = image_of(colours, 1, "mono16")
    message.data = (np.frombuffer(message.data, np.uint16) >> 4).astype(np.uint16).tobytes()
    decoded = Decoder(CameraSettings(white=4095)).decode(message).window(0, 0, WIDTH, HEIGHT)
    grey = cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY)
    assert cv2.absdiff(decoded[..., 0], grey).max() <= 1


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"width": 0}, "empty", "0x48 pixels"),
        ({"height": 0}, "empty", "64x0 pixels"),
        ({"data": b""}, "empty", "0 bytes"),
        ({"step": 100}, "step", "step is 100 bytes, but a row of 64 bgr8 pixels has 192"),
        ({"step": 0}, "step", "step is 0 bytes"),
        ({"step": 200}, "truncated", "9216 bytes of data"),
        ({"data": bytes(9215)}, "truncated", "9215 bytes of data, .* need 9216"),
        ({"height": 4000000000}, "truncated", "need"),
        ({"encoding": "nv12", "height": 31}, "pixels", "even sides, not 64x31"),
        ({"encoding": "yuyv", "width": 33}, "pixels", "even width, not 33"),
        ({"encoding": "bayer_rggb8", "height": 3}, "pixels", "at least 4x4"),
        ({"encoding": ""}, "encoding", "encoding '' is not supported"),
        ({"encoding": "32FC1"}, "encoding", "'32FC1' is not supported: use one of bgr8, rgb8"),
    ],
)
def test_a_damaged_image_is_refused_with_the_reason(
    colours: np.ndarray, change: dict, reason: str, words: str
) -> None:
    message = image_of(colours, 1)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(UnusableImageError, match=words) as refusal:
        Decoder().decode(message)
    assert refusal.value.reason == reason


class Bridge:
    """What cv_bridge does for an encoding that only it knows."""

    def imgmsg_to_cv2(self, message, desired):
        assert desired == "bgr8"
        if message.encoding == "nonsense":
            raise RuntimeError("[nonsense] is not a color format")
        values = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
        return cv2.cvtColor((values * 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def test_other_encodings_go_through_cv_bridge(
    colours: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("cv_bridge")
    module.CvBridge = Bridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    message = image_of(colours, 1)
    message.encoding, message.step = "32FC1", WIDTH * 4
    message.data = np.full((HEIGHT, WIDTH), 0.5, np.float32).tobytes()
    assert (Decoder().decode(message).window(5, 6, 20, 30) == 127).all()
    message.encoding = "nonsense"
    with pytest.raises(UnusableImageError, match="cv_bridge cannot convert 'nonsense'"):
        Decoder().decode(message).window(0, 0, 1, 1)


def test_encode_refuses_what_it_cannot_do(colours: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'h264' is not one of"):
        encode(colours, "h264")
    with pytest.raises(ValueError, match="needs even sides, not 63x48"):
        encode(colours[:, :63], "nv12")
