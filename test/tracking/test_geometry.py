# SPDX-License-Identifier: Apache-2.0
"""Boxes, windows and candidates against values worked out by hand."""

import numpy as np
import pytest

from mlkd_ros.imaging.frame import as_frame
from mlkd_ros.tracking.geometry import (
    AnchorCoder,
    BoxOutsideImageError,
    CropWindow,
    InvalidBoxError,
    PointCoder,
    check_box,
    context_side,
    crop,
    iou,
)


def test_iou_of_known_overlaps():
    boxes = [[0, 0, 10, 10], [5, 0, 10, 10], [10, 10, 5, 5], [0, 0, 10, 10]]
    assert iou(boxes, [0, 0, 10, 10]) == pytest.approx([1.0, 50 / 150, 0.0, 1.0])
    assert np.isnan(iou([np.nan] * 4, [0, 0, 1, 1]))
    assert iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0.0


def test_check_box_keeps_the_part_inside():
    assert check_box((-5, -5, 20, 30), 100, 80) == (0.0, 0.0, 15.0, 25.0)
    assert check_box(np.array([1, 2, 3, 4], np.float32), 100, 80) == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    "box",
    [(1, 2, 3), (1, 2, float("nan"), 4), (0, 0, float("inf"), 4), (5, 5, 0, 9), (5, 5, 9, -1)],
)
def test_check_box_refuses_what_is_no_box(box):
    with pytest.raises(InvalidBoxError):
        check_box(box, 100, 80)


@pytest.mark.parametrize(
    "box", [(200, 0, 10, 10), (0, -50, 10, 10), (-90, 10, 100, 10), (99, 79, 50, 50)]
)
def test_check_box_refuses_what_is_off_the_image(box):
    with pytest.raises(BoxOutsideImageError, match="100x80"):
        check_box(box, 100, 80)


def test_context_side_of_a_square_doubles_it():
    assert context_side(40, 40, 0.5) == pytest.approx(80)
    assert context_side(40, 40, 0.5, "area") == pytest.approx(80)
    assert context_side(10, 90, 0.5, "area") == pytest.approx(60)


def test_window_maps_back_through_the_corner_really_cropped():
    window = CropWindow.around(100.3, 50.7, 63.6, 128)
    assert (window.x, window.y, window.side) == (68, 19, 64)
    assert window.to_image(0, 0) == (68, 19)
    assert window.to_image(128, 128) == (132, 83)


def test_crop_inside_equals_the_pixels():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    assert np.array_equal(crop(as_frame(image), CropWindow(10, 5, 32, 32)), image[5:37, 10:42])


def test_crop_outside_is_filled_with_the_mean_of_the_inside():
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, :, 1] = 100
    patch = crop(as_frame(image), CropWindow(-16, -16, 32, 32))
    assert patch.shape == (32, 32, 3)
    assert (patch == (0, 100, 0)).all()
    assert (crop(as_frame(image), CropWindow(500, 500, 32, 16)) == 128).all()


def test_crop_does_not_touch_the_rest_of_the_frame():
    class Spy(type(as_frame(np.zeros((4, 4, 3), np.uint8)))):
        asked = ()

        def window(self, *corners):
            Spy.asked = corners
            return super().window(*corners)

    crop(Spy(np.zeros((720, 1280, 3), np.uint8)), CropWindow(1200, 700, 100, 255))
    assert Spy.asked == (1200, 700, 1280, 720)


def test_point_coder_puts_a_centred_box_in_the_middle():
    coder = PointCoder(15, 16, 255)
    regression = np.zeros((1, 4, 15, 15), np.float32)
    regression[0, :, 7, 7] = (20, 10, 40, 30)  # left, top, right, bottom
    boxes = np.stack(coder.decode(regression), 2)[0]
    assert boxes.shape == (225, 4)
    assert boxes[7 * 15 + 7] == pytest.approx([127.5 + 10, 127.5 + 10, 60, 40])
    assert boxes[0, :2] == pytest.approx([127.5 - 112, 127.5 - 112])


def test_anchor_coder_without_offsets_gives_the_anchors():
    coder = AnchorCoder(21, 8, 287, (0.5, 1.0), 8)
    boxes = np.stack(coder.decode(np.zeros((1, 8, 21, 21))), 2)[0]
    assert boxes.shape == (2 * 441, 4)
    centre = 10 * 21 + 10
    assert boxes[centre] == pytest.approx([143.5, 143.5, 88, 40])  # 11 x 5 times 8
    assert boxes[441 + centre] == pytest.approx([143.5, 143.5, 64, 64])
