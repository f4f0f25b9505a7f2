# SPDX-License-Identifier: Apache-2.0
"""Boxes to vision_msgs and back, and what detections and status say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from node_support import image_of
from std_msgs.msg import Header

from mlkd_ros.imaging.frame import as_frame
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node import messages
from mlkd_ros.node.overlay import Overlay
from mlkd_ros.session.targets import TargetReport
from mlkd_ros.tracking import TrackResult, TrackState

HEADER = Header(stamp=messages.time_message(1_700_000_000_123_456_789), frame_id="camera")
COUNTS = messages.Counts(received=10, processed=7, dropped=2)
SEEN = TargetReport("7", TrackResult((10.0, 20.0, 30.0, 40.0), 0.75, TrackState.TRACKING, 2), 0.004)
LOST = TargetReport("8", TrackResult(None, 0.25, TrackState.LOST), 0.004)


def test_box_to_centre_and_size_and_back() -> None:
    message = messages.box_to_message((10.0, 20.0, 30.0, 41.0))
    assert (message.center.position.x, message.center.position.y) == (25.0, 40.5)
    assert (message.size_x, message.size_y, message.center.theta) == (30.0, 41.0, 0.0)
    assert messages.box_from_message(message) == (10.0, 20.0, 30.0, 41.0)


def test_stamps_keep_their_nanoseconds() -> None:
    assert messages.nanoseconds(HEADER.stamp) == 1_700_000_000_123_456_789


def test_detections_hold_what_is_seen() -> None:
    message = messages.detections(HEADER, [SEEN, LOST], "car")
    assert message.header == HEADER
    (detection,) = message.detections
    assert (detection.id, detection.header) == ("7", HEADER)
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("car", 0.75)
    assert messages.box_from_message(detection.bbox) == (10.0, 20.0, 30.0, 40.0)
    assert messages.detections(HEADER, [], "car").detections == []


def test_status_of_a_target_seen_lost_and_of_none() -> None:
    seen = messages.status(HEADER, SEEN, (640, 480), COUNTS, 0.05)
    assert (seen.target_id, seen.state, seen.confidence) == ("7", TrackStatus.TRACKING, 0.75)
    assert (seen.x, seen.y, seen.width, seen.height) == (10.0, 20.0, 30.0, 40.0)
    assert (seen.image_width, seen.image_height, seen.reacquisitions) == (640, 480, 2)
    assert (seen.frames_received, seen.frames_processed, seen.frames_dropped) == (10, 7, 2)
    assert seen.latency == pytest.approx(0.05)
    assert seen.processing_time == pytest.approx(0.004)
    lost = messages.status(HEADER, LOST, (640, 480), COUNTS, 0.05)
    assert (lost.target_id, lost.state, lost.width, lost.confidence) == ("8", 3, 0.0, 0.0)
    assert math.isnan(lost.expected_x) and not any(lost.expected_covariance)
    known = replace(
        LOST.result, expected=(700.0, -20.0), variance=900.0, lost_for=1.5, give_up_in=28.5
    )
    sought = messages.status(HEADER, replace(LOST, result=known), (640, 480), COUNTS, 0.05)
    assert (sought.expected_x, sought.expected_y) == (700.0, -20.0)
    assert list(sought.expected_covariance) == [900.0, 0.0, 0.0, 900.0]
    assert (sought.seconds_lost, sought.seconds_to_give_up) == (1.5, 28.5)
    idle = messages.status(HEADER, None, (640, 480), COUNTS, 0.05)
    assert (idle.target_id, idle.state, idle.header) == ("", TrackStatus.IDLE, HEADER)


def test_the_states_are_those_of_the_message() -> None:
    assert {s.name: s.value for s in TrackState} == {
        s.name: getattr(TrackStatus, s.name) for s in TrackState
    }


def test_the_overlay_is_small_and_leaves_the_image_alone(scene) -> None:
    image = scene.image(0)
    before = image.copy()
    canvas = Overlay().draw(as_frame(image), [SEEN, LOST], 0.02, 160)
    assert canvas.shape == (120, 160, 3)
    assert (Overlay().draw(as_frame(image), [], 0.02, 640) != image).any()
    assert (image == before).all()
    message = image_of(canvas, 5)
    assert (message.width, message.step, len(message.data)) == (160, 480, 160 * 120 * 3)
