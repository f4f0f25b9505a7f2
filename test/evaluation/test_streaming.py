# SPDX-License-Identifier: Apache-2.0
"""Latency-aware scoring on synthetic bags: a target that moves ten pixels an image."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mlkd_ros.cli import main as mlkd
from mlkd_ros.cli import score as score_command
from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.evaluation.metrics import RunningScores, score
from mlkd_ros.evaluation.streaming import LatencyHistogram, score_bag

ROOT = Path(__file__).parents[2]
RATE = 25.0
STEP = 10.0
START = 1_700_000_000.0


def _types() -> Any:
    store = get_typestore(Stores.ROS2_HUMBLE)
    for package, folder in (("vision_msgs", "third_party/vision_msgs/msg"), ("mlkd_ros", "msg")):
        for path in sorted((ROOT / folder).glob("*.msg")):
            text = path.read_text(encoding="utf-8")
            store.register(get_types_from_msg(text, f"{package}/msg/{path.stem}"))
    return store


TYPES = _types()


def _make(name: str, **fields: Any) -> Any:
    return TYPES.types[name](**fields)


def _header(stamp: float) -> Any:
    nanoseconds = round(stamp * 1e9)
    time = _make(
        "builtin_interfaces/msg/Time", sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9
    )
    return _make("std_msgs/msg/Header", stamp=time, frame_id="camera")


def _detections(stamp: float, boxes: list[tuple[str, float, float]], share: float = 1.0) -> Any:
    """Detections of (id, left, share seen); boxes are 40 wide and 30 high at y 100."""
    found = []
    for name, left, seen in boxes:
        point = _make("vision_msgs/msg/Point2D", x=left + 20.0, y=115.0)
        pose = _make("vision_msgs/msg/Pose2D", position=point, theta=0.0)
        bbox = _make("vision_msgs/msg/BoundingBox2D", center=pose, size_x=40.0, size_y=30.0)
        hypothesis = _make("vision_msgs/msg/ObjectHypothesis", class_id="car", score=seen * share)
        zero = _make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
        turn = _make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
        full = _make(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=_make("geometry_msgs/msg/Pose", position=zero, orientation=turn),
            covariance=np.zeros(36),
        )
        result = _make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=full)
        found.append(
            _make(
                "vision_msgs/msg/Detection2D",
                header=_header(stamp),
                results=[result],
                bbox=bbox,
                id=name,
            )
        )
    return _make("vision_msgs/msg/Detection2DArray", header=_header(stamp), detections=found)


def _image(stamp: float, size: int) -> Any:
    return _make(
        "sensor_msgs/msg/CompressedImage",
        header=_header(stamp),
        format="jpeg",
        data=np.zeros(size, np.uint8),
    )


def _status(stamp: float, latency: float) -> Any:
    return _make(
        "mlkd_ros/msg/TrackStatus",
        header=_header(stamp),
        target_id="t",
        state=1,
        confidence=0.9,
        x=0.0,
        y=0.0,
        width=0.0,
        height=0.0,
        image_width=640,
        image_height=480,
        expected_x=np.nan,
        expected_y=np.nan,
        expected_covariance=np.zeros(4),
        seconds_lost=0.0,
        seconds_to_give_up=np.nan,
        latency=latency,
        processing_time=0.01,
        frames_received=1,
        frames_processed=1,
        frames_dropped=0,
        reacquisitions=0,
    )


class Flight:
    """What is written to the bag; functions of the image's number give None for 'not at all'."""

    latency: Callable[[int], float | None] = staticmethod(lambda number: 0.01)
    seen: Callable[[int], float] = staticmethod(lambda number: 1.0)
    reported: Callable[[int], bool] = staticmethod(lambda number: True)
    offset = 0.0  # of the recorder's clock
    stamp: Callable[[int, float], float] = staticmethod(lambda number, time: time)
    recorder: Callable[[float], float] = staticmethod(lambda time: time)
    shift: Callable[[int], float] = staticmethod(lambda number: 0.0)  # of the box, pixels
    image_every = 1
    image_bytes = 50
    topics = ("image", "ground_truth", "detections", "status")

    def __init__(self, **changes: Any) -> None:
        self.__dict__.update(changes)

    def write(self, path: Path, images: int = 100) -> Path:
        messages = []
        for number in range(images):
            time = START + number / RATE
            stamp = self.stamp(number, time)
            truth = [("car_0", STEP * number, self.seen(number)), ("car_1", 900.0, 1.0)]
            if number % self.image_every == 0:
                messages.append((time + 0.002, "image", _image(stamp, self.image_bytes)))
            messages.append((time + 0.003, "ground_truth", _detections(stamp, truth)))
            latency = self.latency(number)
            if latency is not None:
                place = STEP * number + self.shift(number)
                boxes = [("t", place, 1.0)] if self.reported(number) else []
                done = time + latency
                messages.append((done, "detections", _detections(stamp, boxes)))
                messages.append((done, "status", _status(stamp, latency)))
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections = {}
            for received, topic, message in sorted(messages, key=lambda one: one[0]):
                if topic not in self.topics:
                    continue
                if topic not in connections:
                    connections[topic] = writer.add_connection(
                        f"/mlkd/{topic}", message.__msgtype__, typestore=TYPES
                    )
                data = TYPES.serialize_cdr(message, message.__msgtype__)
                received = self.recorder(received) + self.offset
                writer.write(connections[topic], round(received * 1e9), data)
        return path


def test_an_answer_before_the_next_image_is_one_image_old(tmp_path: Path) -> None:
    scores = score_bag(Flight().write(tmp_path / "bag"))
    assert scores.streaming is not None and scores.offline is not None
    assert scores.offline.mean_iou == pytest.approx(1.0)
    # The box of the image before: shifted by 10 of 40 pixels, IoU 30 / 50.
    assert scores.streaming.mean_iou == pytest.approx(0.6)
    assert scores.streaming.precision == 1.0
    assert (scores.images, scores.processed, scores.drop_rate) == (99, 99, 0.0)
    assert scores.latency == pytest.approx((0.01, 0.01, 0.01), abs=2e-4)
    assert (scores.losses, scores.false_seconds, scores.published) == (0, 0.0, "received")
    assert scores.seconds == pytest.approx(98 / RATE)


def test_a_slow_tracker_is_scored_by_what_was_known(tmp_path: Path) -> None:
    # Every second image, 90 ms late: at an image's stamp the box is three or four images old.
    late = Flight(latency=lambda number: 0.09 if number % 2 == 0 else None)
    scores = score_bag(late.write(tmp_path / "bag"))
    assert scores.streaming is not None and scores.offline is not None
    assert scores.offline.mean_iou == pytest.approx(0.5, abs=0.01)
    assert scores.offline.miss_rate == pytest.approx(0.5, abs=0.01)
    overlaps = [(40 - 10 * age) / (40 + 10 * age) for age in (3, 4)]
    assert scores.streaming.mean_iou == pytest.approx(np.mean(overlaps), abs=0.01)
    assert scores.streaming.miss_rate == 0
    assert scores.drop_rate == pytest.approx(0.5, abs=0.01)
    assert scores.latency[0] == pytest.approx(0.09, abs=2e-4)


def test_absence_false_boxes_losses_and_finding_again(tmp_path: Path) -> None:
    flight = Flight(
        seen=lambda number: 0.05 if 20 <= number < 45 else 1.0,  # a second out of sight
        reported=lambda number: number < 30 or number >= 55,  # noticed after 10, found after 10
    )
    scores = score_bag(flight.write(tmp_path / "bag"))
    assert scores.streaming is not None and scores.offline is not None
    assert scores.absent_seconds == pytest.approx(25 / RATE)
    assert scores.false_seconds == pytest.approx(11 / RATE), "one image longer than offline"
    assert scores.offline.false_positives == 10 and scores.streaming.false_positives == 11
    assert (scores.losses, scores.reacquired) == (1, 1)
    assert scores.reacquisition == pytest.approx((11 / RATE, 11 / RATE), abs=2e-4)
    assert scores.without_box_seconds == pytest.approx(25 / RATE)
    assert any("found again 1 times" in line for line in scores.lines())


def test_another_clock_needs_the_status(tmp_path: Path) -> None:
    late = Flight(latency=lambda number: 0.05, offset=-START)  # simulated time, say
    scores = score_bag(late.write(tmp_path / "bag"))
    assert scores.published == "status" and scores.streaming is not None
    assert scores.streaming.mean_iou == pytest.approx(20 / 60)
    assert scores.latency[0] == pytest.approx(0.05, abs=2e-4)
    late.topics = ("image", "ground_truth", "detections")
    with pytest.raises(DatasetError, match="clock is not that of the stamps.*TrackStatus"):
        score_bag(late.write(tmp_path / "other"))


def test_status_and_receiving_agree_on_one_clock(tmp_path: Path) -> None:
    bag = Flight(latency=lambda number: 0.03 + 0.02 * (number % 3)).write(tmp_path / "bag")
    one, two = score_bag(bag), score_bag(bag, published="status")
    assert one.streaming is not None and two.streaming is not None
    assert one.streaming.success_auc == pytest.approx(two.streaming.success_auc)
    assert one.latency == pytest.approx(two.latency, abs=2e-4)


def _late(time: float) -> bool:
    return time > START + 50.5 / RATE


#: Stamp of an image by its number and the true time, and what the recorder's clock says then.
CLOCKS: dict[str, dict[str, Callable[..., float]]] = {
    "camera forward": {"stamp": lambda _, time: time + 1000.0 * _late(time)},
    "camera back": {"stamp": lambda _, time: time - 1000.0 * _late(time)},
    "both forward": {
        "stamp": lambda _, time: time + 1000.0 * _late(time),
        "recorder": lambda time: time + 1000.0 * _late(time),
    },
    "both back": {
        "stamp": lambda _, time: time - 1000.0 * _late(time),
        "recorder": lambda time: time - 1000.0 * _late(time),
    },
    "recorder back": {"recorder": lambda time: time - 1000.0 * _late(time)},
    "1970 until NTP": {
        "stamp": lambda _, time: time - (START - 1.0) * (not _late(time)),
        "recorder": lambda time: time - (START - 1.0) * (not _late(time)),
    },
    "one zero": {"stamp": lambda number, time: 0.0 if number == 30 else time},
    "repeated": {"stamp": lambda number, time: START + (number - number % 3) / RATE},
    "frozen": {"stamp": lambda number, time: START},
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_clocks_that_were_set_in_flight(tmp_path: Path, kind: str) -> None:
    """All images are scored, each by its own boxes, and a note says what was found."""
    scores = score_bag(Flight(**CLOCKS[kind]).write(tmp_path / "bag"))
    assert scores.streaming is not None and scores.offline is not None
    assert scores.images == 99 and scores.processed == 99
    assert scores.offline.mean_iou == pytest.approx(1.0)
    assert scores.streaming.mean_iou == pytest.approx(0.6, abs=0.02)
    assert scores.seconds == pytest.approx(98 / RATE, abs=0.1)
    assert scores.latency[0] == pytest.approx(0.01, abs=0.005)
    assert bool(scores.notes)
    # Boxes that are wrong after the clock was set count, too.
    wrong = Flight(**CLOCKS[kind], shift=lambda number: 200.0 * (number > 50))
    scores = score_bag(wrong.write(tmp_path / "wrong"))
    assert scores.offline is not None and scores.streaming is not None
    assert scores.offline.mean_iou == pytest.approx(50 / 99, abs=0.01)
    assert scores.streaming.mean_iou == pytest.approx(0.6 * 50 / 99, abs=0.02)


def test_images_that_the_recorder_left_out_count_by_their_truth(tmp_path: Path) -> None:
    scores = score_bag(Flight(image_every=3).write(tmp_path / "bag"))
    assert scores.images == 99 and scores.drop_rate == 0


def test_without_ground_truth_the_rest_is_scored(tmp_path: Path) -> None:
    flight = Flight(topics=("image", "detections", "status"))
    scores = score_bag(flight.write(tmp_path / "bag"))
    assert scores.streaming is None and scores.offline is None
    assert "no ground truth" in scores.notes[0] and math.isnan(scores.false_seconds)
    assert scores.drop_rate == 0 and scores.latency[0] == pytest.approx(0.01, abs=2e-4)
    assert not any("AUC" in line for line in scores.lines())


def test_what_is_wrong_with_a_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such bag"):
        score_bag(tmp_path / "nowhere")
    bag = Flight(topics=("image", "ground_truth")).write(tmp_path / "mute")
    with pytest.raises(DatasetError, match="mute: no topic of .*Detection2DArray.*'detections'"):
        score_bag(bag)
    with pytest.raises(DatasetError, match="no topic '/x' with messages.*/mlkd/ground_truth"):
        score_bag(bag, detections="/x")
    bag = Flight(topics=("detections",)).write(tmp_path / "blind")
    with pytest.raises(DatasetError, match="neither images nor ground truth"):
        score_bag(bag)
    bag = Flight(reported=lambda number: False).write(tmp_path / "idle")
    with pytest.raises(DatasetError, match="no detection with a target was published"):
        score_bag(bag)
    with pytest.raises(ValueError, match="published must be one of"):
        score_bag(bag, published="now")


def test_a_damaged_bag_is_scored_up_to_the_damage(tmp_path: Path) -> None:
    bag = Flight(image_bytes=50_000).write(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    size = file.stat().st_size
    with file.open("r+b") as stream:  # without its end, as a battery leaves it
        stream.truncate(size * 2 // 3)
    scores = score_bag(bag)
    assert any("breaks off" in note for note in scores.notes)
    assert 30 < scores.images < 99 and scores.streaming is not None
    with file.open("r+b") as stream:
        stream.truncate(20)
    with pytest.raises(DatasetError, match="neither images|to score|holds no"):
        score_bag(bag)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = Flight(topics=("image", "detections")).write(tmp_path / "bag", 30)
    parser = argparse.ArgumentParser()
    score_command.add_parser(parser.add_subparsers())
    out = tmp_path / "scores.json"
    arguments = parser.parse_args(["score", str(bag), "--json", str(out)])
    assert arguments.run_command(arguments) == 0
    printed = capsys.readouterr()
    assert "no ground truth" in printed.err and "stamp to publish p50 10.0" in printed.out
    found = json.loads(out.read_text())
    assert found["streaming"] is None and found["images"] == 29
    assert found["latency"]["p99"] == pytest.approx(0.01, abs=2e-4)
    out.write_text("precious")
    assert mlkd(["score", str(bag), "--json", str(out)]) == 2
    assert out.read_text() == "precious"
    assert mlkd(["score", str(bag), "--json", str(out), "--force"]) == 0
    assert json.loads(out.read_text()) == found


def test_running_scores_are_those_of_all_frames() -> None:
    rng = np.random.default_rng(1)
    truth = np.column_stack([rng.uniform(0, 300, (60, 2)), rng.uniform(5, 80, (60, 2))])
    boxes = truth + rng.normal(0, 9, (60, 4))
    boxes[:, 2:] = np.abs(boxes[:, 2:]) + 1
    boxes[::7], truth[::5] = np.nan, np.nan
    running = RunningScores()
    for box, true in zip(boxes.tolist(), truth.tolist(), strict=True):
        running.add(
            None if math.isnan(box[0]) else tuple(box),
            None if math.isnan(true[0]) else tuple(true),
        )
    one, other = running.scores(), score(boxes, truth)
    np.testing.assert_allclose(one.success_curve, other.success_curve)
    np.testing.assert_allclose(one.precision_curve, other.precision_curve)
    np.testing.assert_allclose(one.normalised_curve, other.normalised_curve)
    assert one.mean_iou == pytest.approx(other.mean_iou)
    assert (one.missed, one.absent, one.false_positives) == (
        other.missed,
        other.absent,
        other.false_positives,
    )


def test_percentiles_of_the_histogram() -> None:
    histogram = LatencyHistogram()
    assert math.isnan(histogram.percentiles(50)[0])
    values = np.random.default_rng(0).gamma(4, 0.01, 5000)
    for value in values:
        histogram.add(value)
    expected = np.percentile(values, [50, 95, 99], method="inverted_cdf")
    assert histogram.percentiles(50, 95, 99) == pytest.approx(tuple(expected), abs=1e-4)
