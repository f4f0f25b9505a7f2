# SPDX-License-Identifier: Apache-2.0
"""Compressed images become frames, at the scale that is needed, or a clear refusal."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from mlkd_ros.imaging import compressed
from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.compressed import CompressedFrame, read_header
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.imaging.messages import Decoder
from mlkd_ros.tracking.geometry import CropWindow, crop

WIDTH, HEIGHT = 643, 361


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth, so that JPEG and another way to interpolate change little; odd sides."""
    small = np.random.default_rng(3).integers(30, 220, (9, 16, 3)).astype(np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def file_of(pixels: np.ndarray, kind: str = ".jpg") -> bytes:
    return cv2.imencode(kind, pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def whole(frame: CompressedFrame) -> np.ndarray:
    return frame.window(0, 0, frame.width, frame.height)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (".jpg", "jpeg"),
        (".jpg", "bgr8; jpeg compressed bgr8"),
        (".jpg", "rgb8; jpeg compressed bgr8"),
        (".png", "png"),
        (".png", "bgr8; png compressed bgr8"),
        (".png", ""),
    ],
)
def test_colour_comes_back_whatever_the_format_is_called(
    picture: np.ndarray, kind: str, name: str
) -> None:
    message = CompressedImage(format=name, data=file_of(picture, kind))
    frame = Decoder().decode(message)
    assert (frame.width, frame.height) == (WIDTH, HEIGHT)
    assert frame.nbytes == len(message.data)
    assert cv2.absdiff(whole(frame), picture).mean() <= (1.5 if kind == ".jpg" else 0)
    window = frame.window(10, 20, 110, 90)
    np.testing.assert_array_equal(window, whole(frame)[20:90, 10:110])


def test_red_and_blue_that_were_compressed_the_wrong_way_round(picture: np.ndarray) -> None:
    swapped = file_of(np.ascontiguousarray(picture[..., ::-1]), ".png")
    frame = CompressedFrame(swapped, "rgb8; png compressed rgb8")
    np.testing.assert_array_equal(whole(frame), picture)


def test_grey_16_bit_grey_and_mosaic(picture: np.ndarray) -> None:
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    expected = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    frame = CompressedFrame(file_of(grey), "mono8; jpeg compressed ")
    assert frame.header.channels == 1
    assert cv2.absdiff(whole(frame), expected).mean() < 1.5
    deep = grey.astype(np.uint16) * np.uint16(16)
    frame = CompressedFrame(
        file_of(deep, ".png"), "16UC1; png compressed ", CameraSettings(white=255 * 16)
    )
    assert frame.header.bits == 16
    np.testing.assert_array_equal(whole(frame), expected)
    even = np.full((48, 64), 90, np.uint8)
    even[::2, ::2] = 200  # red of rggb
    frame = CompressedFrame(file_of(even, ".png"), "bayer_rggb8; png compressed ")
    assert frame.window(20, 20, 21, 21).reshape(3).tolist() == [90, 90, 200]


def test_16_bit_colour(picture: np.ndarray) -> None:
    deep = picture.astype(np.uint16) * np.uint16(257)
    np.testing.assert_array_equal(whole(CompressedFrame(file_of(deep, ".png"))), picture)


def test_an_orientation_for_viewers_is_ignored(picture: np.ndarray) -> None:
    data = file_of(picture)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), 1).shape == (WIDTH, HEIGHT, 3)
    frame = CompressedFrame(turned)
    assert (frame.width, frame.height) == (WIDTH, HEIGHT)
    assert whole(frame).shape == (HEIGHT, WIDTH, 3)


# --- laziness and scale -----------------------------------------------------------------------


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The factor of every decoding that is really done."""
    seen: list[int] = []
    original = CompressedFrame.decode

    def decode(self: CompressedFrame, factor: int = 1) -> object:
        seen.append(factor)
        return original(self, factor)

    monkeypatch.setattr(CompressedFrame, "decode", decode)
    return seen


def test_decoded_once_when_somebody_looks(picture: np.ndarray, decodings: list[int]) -> None:
    frame = CompressedFrame(file_of(picture))
    assert decodings == []
    for _ in range(3):
        frame.window(0, 0, 50, 50)
    assert decodings == [1]


def test_frames_of_one_decoder_keep_the_pixels_of_one_image(
    picture: np.ndarray, decodings: list[int]
) -> None:
    decoder = Decoder()
    message = CompressedImage(format="jpeg", data=file_of(picture))
    first, second = decoder.decode(message), decoder.decode(message)
    for frame in (first, second, second, first):
        frame.window(0, 0, 9, 9)
    assert decodings == [1, 1, 1]  # the history must not fill up with decoded images


@pytest.mark.parametrize(("side", "factor"), [(200, 1), (300, 2), (640, 4), (1300, 8)])
def test_a_wide_window_is_decoded_small_and_shows_the_same(
    picture: np.ndarray, decodings: list[int], side: int, factor: int
) -> None:
    frame, reference = CompressedFrame(file_of(picture)), BgrFrame(picture)
    for centre in ((321.0, 180.0), (101.3, 77.7), (630.0, 12.0)):
        window = CropWindow.around(*centre, side, 128)
        patch, expected = crop(frame, window), crop(reference, window)
        difference = cv2.absdiff(patch, expected)
        # Strictest for a shift: half a reduced pixel of it would show as several grey levels.
        assert difference[2:-2, 2:-2].mean() < 3.0, centre
    assert decodings == [factor]


def test_the_patch_lies_where_it_would_without_the_scale() -> None:
    ramp = np.clip((np.arange(640) - 200) * 2, 0, 255).astype(np.uint8)
    pixels = np.repeat(np.repeat(ramp[None, :, None], 480, 0), 3, 2)
    frame = CompressedFrame(file_of(pixels))
    for x in (31, 32, 33, 35):
        window = CropWindow(x, 20, 400, 100)
        ascent = np.s_[:, 47:67]  # columns 220 to 300
        difference = crop(frame, window).astype(float) - crop(BgrFrame(pixels), window)
        assert abs(difference[ascent].mean()) < 0.6, x  # 0.3 of 4 pixels that are shown as one


def test_a_finer_decoding_serves_a_coarser_window(
    picture: np.ndarray, decodings: list[int]
) -> None:
    decoder = Decoder()
    message = CompressedImage(format="jpeg", data=file_of(picture))
    for _ in range(3):
        frame = decoder.decode(message)
        for side in (600, 300):  # a large and a smaller target, the large one first
            crop(frame, CropWindow.around(300, 180, side, 128))
    # Known from the second image on.
    assert decodings == [4, 2, 2, 2]
    for _ in range(2):
        crop(decoder.decode(message), CropWindow.around(300, 180, 600, 128))
    assert decodings[4:] == [2, 4]


def test_png_is_decoded_whole(picture: np.ndarray, decodings: list[int]) -> None:
    frame = CompressedFrame(file_of(picture, ".png"))
    assert frame.reduced(6.0) == (frame, 1)


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason", "text"),
    [
        (lambda data: b"", "empty", "0 bytes"),
        (lambda data: data[: len(data) // 2], "truncated", "without an end of image"),
        (lambda data: data[:40], "truncated", "without an end of image"),
        (lambda data: data[:2], "truncated", "without an end of image"),
        (lambda data: b"RIFF" + data[4:], "encoding", "must be JPEG or PNG; format 'odd'"),
    ],
)
def test_a_damaged_jpeg_is_refused_on_arrival(
    picture: np.ndarray, damage: object, reason: str, text: str
) -> None:
    with pytest.raises(UnusableImageError, match=text) as refusal:
        CompressedFrame(damage(file_of(picture)), "odd")  # type: ignore[operator]
    assert refusal.value.reason == reason


def test_a_thumbnail_does_not_hide_that_the_image_is_cut_short(picture: np.ndarray) -> None:
    data, thumbnail = file_of(picture), b"Exif\0\0" + file_of(picture[:40, :60])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert CompressedFrame(data[:2] + segment + data[2:]).width == WIDTH
    with pytest.raises(UnusableImageError, match="cut short"):
        CompressedFrame(data[:2] + segment + data[2:-500])


def test_padding_behind_the_end_is_allowed(picture: np.ndarray) -> None:
    assert whole(CompressedFrame(file_of(picture) + bytes(4096))).shape == (HEIGHT, WIDTH, 3)


def test_a_png_that_is_cut_short(picture: np.ndarray) -> None:
    with pytest.raises(UnusableImageError, match="without its IEND"):
        CompressedFrame(file_of(picture, ".png")[:-20])


def test_impossible_sizes_are_not_decoded() -> None:
    data = bytearray(file_of(np.zeros((8, 8, 3), np.uint8), ".png"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(UnusableImageError, match="60000x60000 pixels"):
        read_header(bytes(data))


def test_what_only_decoding_finds_out(picture: np.ndarray) -> None:
    data = bytearray(file_of(picture, ".png"))
    data[60:-60] = bytes(len(data) - 120)
    frame = CompressedFrame(bytes(data))
    with pytest.raises(UnusableImageError, match="the png of .* is damaged"):
        frame.window(0, 0, 5, 5)


def test_random_bytes_give_an_image_or_a_refusal(picture: np.ndarray) -> None:
    rng = np.random.default_rng(8)
    files = [file_of(picture[:40, :50]), file_of(picture[:40, :50], ".png")]
    outcomes = []
    for index in range(400):
        data = bytearray(files[index % 2])
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        try:
            frame = CompressedFrame(bytes(data[: rng.integers(1, 2 * len(data))]))
            if frame.width * frame.height < compressed.MAX_PIXELS // 64:
                assert whole(frame).shape == (frame.height, frame.width, 3)
            outcomes.append(True)
        except UnusableImageError:
            outcomes.append(False)
    assert 50 < sum(outcomes) < 350
