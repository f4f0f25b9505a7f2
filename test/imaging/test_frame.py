# SPDX-License-Identifier: Apache-2.0
"""Every window of every pixel format equals that window of the whole image converted at once."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from mlkd_ros.imaging import frame as frames
from mlkd_ros.imaging.frame import (
    BAYER_PATTERNS,
    BayerFrame,
    BgraFrame,
    BgrFrame,
    Frame,
    Mono8Frame,
    Mono16Frame,
    Nv12Frame,
    RgbaFrame,
    RgbFrame,
    UyvyFrame,
    Yuy2Frame,
    as_frame,
)

BAYER_CODES = {
    "rggb": cv2.COLOR_BayerBG2BGR,
    "bggr": cv2.COLOR_BayerRG2BGR,
    "gbrg": cv2.COLOR_BayerGR2BGR,
    "grbg": cv2.COLOR_BayerGB2BGR,
}


def noise(*shape: int, dtype=np.uint8, padding: int = 0) -> np.ndarray:
    """Random pixels whose rows lie `padding` bytes apart: a view with a row step of its own."""
    rows, bytes_per_row = shape[0], int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    rng = np.random.default_rng(7)
    memory = rng.integers(0, 256, (rows, bytes_per_row + padding), np.uint8)
    return memory[:, :bytes_per_row].view(dtype).reshape(shape)


def formats(width: int, height: int, padding: int) -> dict[str, tuple[Frame, np.ndarray]]:
    """Per format name a frame, and the whole image as BGR converted in one go by OpenCV."""
    three, four = noise(height, width, 3, padding=padding), noise(height, width, 4, padding=padding)
    grey = noise(height, width, padding=padding)
    cases: dict[str, tuple[Frame, np.ndarray]] = {
        "bgr8": (BgrFrame(three), three),
        "rgb8": (RgbFrame(three), cv2.cvtColor(three, cv2.COLOR_RGB2BGR)),
        "bgra8": (BgraFrame(four), cv2.cvtColor(four, cv2.COLOR_BGRA2BGR)),
        "rgba8": (RgbaFrame(four), cv2.cvtColor(four, cv2.COLOR_RGBA2BGR)),
        "mono8": (Mono8Frame(grey), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)),
    }
    for order in "<>":
        deep = noise(height, width, dtype=np.dtype(f"{order}u2"), padding=padding)
        shallow = np.rint(deep.astype(np.float64) * 255 / 65535).astype(np.uint8)
        cases[f"mono16{order}"] = (Mono16Frame(deep), cv2.cvtColor(shallow, cv2.COLOR_GRAY2BGR))
    for pattern, code in BAYER_CODES.items():
        cases[f"bayer_{pattern}8"] = (BayerFrame(grey, pattern), cv2.cvtColor(grey, code))
    if width % 2 == 0:
        pairs = noise(height, width, 2, padding=padding)
        cases["uyvy"] = (UyvyFrame(pairs), cv2.cvtColor(pairs, cv2.COLOR_YUV2BGR_UYVY))
        cases["yuy2"] = (Yuy2Frame(pairs), cv2.cvtColor(pairs, cv2.COLOR_YUV2BGR_YUY2))
    if width % 2 == 0 and height % 2 == 0:
        planes = noise(height * 3 // 2, width, padding=padding)
        cases["nv12"] = (Nv12Frame(planes), cv2.cvtColor(planes.copy(), cv2.COLOR_YUV2BGR_NV12))
    return cases


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(("width", "height"), [(8, 6), (7, 6), (6, 7), (9, 5)])
def test_every_window_of_a_small_image(width: int, height: int, padding: int) -> None:
    spans = [list(itertools.combinations(range(size + 1), 2)) for size in (width, height)]
    for name, (frame, whole) in formats(width, height, padding).items():
        assert (frame.width, frame.height) == (width, height), name
        for (x0, x1), (y0, y1) in itertools.product(*spans):
            window = frame.window(x0, y0, x1, y1)
            assert window.dtype == np.uint8
            np.testing.assert_array_equal(
                window, whole[y0:y1, x0:x1], f"{name} ({x0}, {y0})-({x1}, {y1})"
            )


@pytest.mark.parametrize("padding", [0, 64])
def test_windows_wide_enough_for_vector_instructions(padding: int) -> None:
    rng = np.random.default_rng(3)
    for name, (frame, whole) in formats(322, 202, padding).items():
        edges = [
            (0, 0, 322, 202),
            (0, 0, 1, 1),
            (321, 201, 322, 202),
            (1, 1, 321, 201),
            (3, 0, 300, 5),
        ]
        for _ in range(60):
            xs, ys = (
                np.sort(rng.choice(323, 2, replace=False)),
                np.sort(rng.choice(203, 2, replace=False)),
            )
            edges.append((int(xs[0]), int(ys[0]), int(xs[1]), int(ys[1])))
        for x0, y0, x1, y1 in edges:
            np.testing.assert_array_equal(frame.window(x0, y0, x1, y1), whole[y0:y1, x0:x1], name)


@pytest.mark.parametrize("pattern", BAYER_PATTERNS)
@pytest.mark.parametrize(("colour", "channel"), [("b", 0), ("g", 1), ("r", 2)])
def test_bayer_names_say_where_each_colour_sits(pattern: str, colour: str, channel: int) -> None:
    mosaic = np.zeros((8, 8), np.uint8)
    for index, letter in enumerate(pattern):
        if letter == colour:
            mosaic[index // 2 :: 2, index % 2 :: 2] = 200
    expected = np.zeros((5, 4, 3), np.uint8)
    expected[..., channel] = 200
    np.testing.assert_array_equal(BayerFrame(mosaic, pattern).window(1, 2, 5, 7), expected)


def test_yuv_names_say_where_brightness_sits() -> None:
    pixels = np.full((2, 4, 2), 128, np.uint8)
    pixels[..., 1] = 235
    assert UyvyFrame(pixels).window(0, 0, 4, 2).min() == 255
    assert Yuy2Frame(pixels[..., ::-1]).window(0, 0, 4, 2).min() == 255


def test_mono16_range_of_the_camera() -> None:
    values = np.array([[0, 100, 356, 611, 4000, 65535]], np.uint16)
    frame = Mono16Frame(values, black=100, white=610)
    np.testing.assert_array_equal(frame.window(0, 0, 6, 1)[0, :, 0], [0, 0, 128, 255, 255, 255])
    with pytest.raises(ValueError, match="black=5 and white=5"):
        Mono16Frame(values, black=5, white=5)


def test_bgr_windows_share_memory_and_any_strides_are_read() -> None:
    image = noise(20, 30, 3)
    assert np.shares_memory(as_frame(image).window(3, 4, 20, 15), image)
    for view in (image[::-1], image[:, ::-2], image[..., ::-1], np.asfortranarray(image)):
        np.testing.assert_array_equal(BgrFrame(view).window(1, 2, 9, 11), view[2:11, 1:9])
        np.testing.assert_array_equal(RgbFrame(view).window(1, 2, 9, 11), view[2:11, 1:9, ::-1])


def test_no_format_copies_the_image() -> None:
    image = np.zeros((600, 800, 3), np.uint8)
    for kind in (BgrFrame, RgbFrame):
        frame = kind(image)
        image[300, 400] = (1, 2, 3)
        assert sorted(frame.window(400, 300, 401, 301).ravel()) == [1, 2, 3]
        image[:] = 0


@pytest.mark.parametrize(
    "window",
    [(-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 11, 2), (0, 0, 2, 9), (3, 3, 3, 5), (4, 3, 3, 5)],
)
def test_windows_outside_the_image_are_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="10x8 image"):
        BgrFrame(np.zeros((8, 10, 3), np.uint8)).window(*window)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_frame(np.zeros((4, 4), np.uint8)), r"HxWx3 array of uint8, not shape \(4, 4\)"),
        (lambda: as_frame(np.zeros((4, 4, 3), np.float32)), "of float32"),
        (lambda: as_frame(np.zeros((0, 4, 3), np.uint8)), "4x0"),
        (lambda: BgraFrame(np.zeros((4, 4, 3), np.uint8)), "HxWx4"),
        (lambda: Mono8Frame(np.zeros((4, 4), np.uint16)), "of uint16"),
        (lambda: Mono16Frame(np.zeros((4, 4), np.uint8)), "of uint8"),
        (lambda: UyvyFrame(np.zeros((4, 5, 2), np.uint8)), "even width, not 5"),
        (lambda: Nv12Frame(np.zeros((8, 4), np.uint8)), "8 rows"),
        (lambda: Nv12Frame(np.zeros((6, 5), np.uint8)), "width 5"),
        (lambda: BayerFrame(np.zeros((3, 8), np.uint8), "rggb"), "8x3"),
        (lambda: BayerFrame(np.zeros((8, 8), np.uint8), "rgbg"), "rggb, bggr, gbrg, grbg"),
    ],
)
def test_unusable_arrays_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="not list"):
        as_frame([[0]])  # type: ignore[arg-type]


def test_frames_pass_through() -> None:
    frame = Mono8Frame(np.zeros((4, 6), np.uint8))
    assert as_frame(frame) is frame
    assert repr(frame) == "Mono8Frame(6x4)"
    assert set(frames.__all__) >= {"Frame", "as_frame"}
