# SPDX-License-Identifier: Apache-2.0
"""The demo: its figures, and once the whole of it."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import box_to_message, time_message
from mlkd_ros.simulation.demo_report import Flight, evaluate

PERIOD = 33_333_333
BEGIN = 5_000_000_000


def detections(stamp, box, score):
    result = ObjectHypothesisWithPose()
    result.hypothesis.score = score
    message = Detection2DArray(header=Header(stamp=time_message(stamp)))
    if box is not None:
        message.detections.append(Detection2D(bbox=box_to_message(box), results=[result]))
    return message


def flight(found, latency=lambda i: 0.02, visible=lambda i: 1.0, frames=300):
    """`found(i)` is the reported box of image i; the true one moves to the right."""
    truth, said, statuses = {}, {}, {}
    for i in range(-20, frames):
        stamp = BEGIN + i * PERIOD
        truth[stamp] = detections(stamp, true_box(i), visible(i))
        said[stamp] = detections(stamp, found(i) if i >= 0 else None, 1.0)
        statuses[stamp] = TrackStatus(
            confidence=0.9 if i >= 0 else 0.0, latency=latency(i), frames_dropped=max(i // 10, 0)
        )
    return Flight(truth, said, statuses, BEGIN)


def true_box(i):
    return (100.0 + i, 50.0, 40.0, 30.0)


def test_a_perfect_flight():
    figures = evaluate(flight(true_box))
    assert figures.scores.mean_iou == pytest.approx(1.0)
    assert figures.scores.precision == 1.0
    assert len(figures.times) == figures.published == 300
    assert figures.dropped == 29
    assert figures.lost == "" and not figures.growing
    assert "held" in figures.table() and "1.000" in figures.table()


def test_a_target_lost_at_the_end_is_lost():
    figures = evaluate(flight(lambda i: true_box(i) if i < 200 else None))
    assert "last 2 s" in figures.lost
    assert "LOST" in figures.table()
    assert 0.6 < figures.scores.mean_iou < 0.7
    elsewhere = evaluate(flight(lambda i: true_box(i) if i < 200 else (0.0, 0.0, 40.0, 30.0)))
    assert elsewhere.lost


def test_a_target_that_is_hidden_for_a_while_is_not_lost():
    figures = evaluate(
        flight(
            lambda i: None if 100 <= i < 150 else true_box(i),
            visible=lambda i: 0.0 if 100 <= i < 150 else 1.0,
        )
    )
    assert figures.lost == ""
    assert figures.scores.frames == 250 and figures.scores.mean_iou == pytest.approx(1.0)


def test_growing_latency_is_said():
    figures = evaluate(flight(true_box, latency=lambda i: 0.02 + 0.001 * max(i, 0)))
    assert figures.growing and "growing" in figures.table()


def test_too_few_images_are_an_error():
    with pytest.raises(ValueError, match="3 images"):
        evaluate(flight(true_box, frames=3))


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    output = tmp_path / "demo"
    command = [sys.executable, "-m", "mlkd_ros.simulation.demo", "--output", str(output)]
    done = subprocess.run(
        [*command, "--duration", "5"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mean IoU" in done.stdout and "held" in done.stdout
    assert "images caught up" in done.stdout
    video = cv2.VideoCapture(str(output / "flight.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) > 5
    for name in ("contact_sheet.png", "plot.png"):
        assert cv2.imread(str(output / name)) is not None
    check_bag(output / "bag")


def check_bag(path):
    highlevel = pytest.importorskip("rosbags.highlevel")
    with highlevel.AnyReader([path]) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert kinds["/mlkd/ground_truth"] == "vision_msgs/msg/Detection2DArray"
        assert kinds["/mlkd/status"] == "mlkd_ros/msg/TrackStatus"
        assert all(counts[f"/mlkd/{name}"] > 0 for name in ("detections", "camera_info"))
        compressed = [c for c in reader.connections if c.topic == "/mlkd/image/compressed"]
        _, _, raw = next(reader.messages(connections=compressed))
        message = reader.deserialize(raw, compressed[0].msgtype)
        assert cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR).shape == (720, 1280, 3)
        truths = [c for c in reader.connections if c.topic == "/mlkd/ground_truth"]
        _, _, raw = next(reader.messages(connections=truths))
        assert reader.deserialize(raw, truths[0].msgtype).detections[0].id == "target"
