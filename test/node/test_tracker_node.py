# SPDX-License-Identifier: Apache-2.0
"""The executable `tracker` as a process of its own, over DDS.

Most tests share one process: each begins with `stop`, and images are stamped with the time, so
that none of them sees another's. They go in lockstep (an image, its answer, the next image) where
they are about what is tracked and not about timing.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_support import (
    PERIOD,
    GroundStation,
    Scene,
    TrackerProcess,
    destroy,
    image_of,
    only_box,
    wait_until,
)
from rcl_interfaces.srv import ListParameters
from sensor_msgs.msg import Image

from mlkd_ros.imaging.encodings import ENCODINGS
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.node.parameters import default_settings
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.tracking.geometry import iou

Code = InitTarget.Response
PRESENT = (TrackStatus.TRACKING, TrackStatus.UNCERTAIN)
#: Images at once that the tracker cannot keep up with.
BURST = 60


@pytest.fixture(scope="module")
def tracker() -> Iterator[TrackerProcess]:
    process = TrackerProcess(reliability="reliable", device="cpu")
    process.wait_for_log("ready:", 60)
    yield process
    assert process.end() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture(scope="module")
def shared_ground(tracker: TrackerProcess) -> Iterator[GroundStation]:
    ground = GroundStation()
    ground.connect()
    yield ground
    ground.close()


@pytest.fixture
def ground(shared_ground: GroundStation) -> GroundStation:
    assert shared_ground.stop().code == StopTarget.Response.SUCCESS
    return shared_ground


def play(ground: GroundStation, scene: Scene, indices: range, encoding: str = "bgr8") -> list[int]:
    """Show images one after another; their stamps."""
    stamps = []
    for index in indices:
        stamps.append(ground.now())
        ground.show(image_of(scene.image(index), stamps[-1], encoding))
    return stamps


def follow(ground: GroundStation, scene: Scene, start: int = 0) -> str:
    """Get a target followed; its id."""
    play(ground, scene, range(start, start + 1))
    response = ground.designate(scene.box(start))
    assert response.code == Code.SUCCESS, response.message
    return response.target_id


def assert_followed(ground: GroundStation, scene: Scene, index: int, target_id: str) -> None:
    """Show one more image and check what is said about it."""
    stamp = ground.now()
    detections = ground.show(image_of(scene.image(index), stamp))
    assert detections.detections[0].id == target_id
    assert iou(only_box(detections), scene.box(index)) > 0.6


# --- following ----------------------------------------------------------------------------------


def test_without_a_target_every_image_gets_an_empty_answer(
    ground: GroundStation, scene: Scene
) -> None:
    stamp = ground.now()
    message = image_of(scene.image(0), stamp)
    detections = ground.show(message)
    assert detections.header == message.header
    assert detections.detections == []
    status = ground.status_of(stamp)
    assert (status.header, status.state, status.target_id) == (message.header, 0, "")
    assert (status.image_width, status.image_height) == (320, 240)


def test_starts_on_an_image_of_the_past_and_catches_up_before_it_answers(
    ground: GroundStation, scene: Scene
) -> None:
    stamps = play(ground, scene, range(30))
    response = ground.designate(scene.box(3), stamps[3])
    assert response.code == Code.SUCCESS, response.message
    assert nanoseconds(response.stamp) == stamps[3]
    assert 5 <= response.frames_caught_up <= 26
    status = response.status
    assert nanoseconds(status.header.stamp) == stamps[29]
    assert status.state in PRESENT
    assert iou((status.x, status.y, status.width, status.height), scene.box(29)) > 0.6
    for index in range(30, 45):
        assert_followed(ground, scene, index, response.target_id)


def test_detections_and_status_agree_and_are_stamped_like_the_image(
    ground: GroundStation, scene: Scene
) -> None:
    target_id = follow(ground, scene)
    stamp = ground.now()
    message = image_of(scene.image(1), stamp)
    (detection,) = ground.show(message).detections
    status = ground.status_of(stamp)
    assert detection.header == status.header == message.header
    assert status.header.frame_id == "camera_optical"
    assert detection.id == status.target_id == target_id
    assert detection.results[0].hypothesis.class_id == "target"
    assert 0.0 < detection.results[0].hypothesis.score <= 1.0
    assert detection.results[0].hypothesis.score == pytest.approx(status.confidence, abs=1e-6)
    assert only_box(ground.detections[stamp]) == pytest.approx(
        (status.x, status.y, status.width, status.height)
    )
    assert 0.0 < status.processing_time < status.latency < 5.0


def test_an_image_just_before_or_lost_on_the_way_here_counts_as_the_nearest(
    ground: GroundStation, scene: Scene
) -> None:
    stamps = play(ground, scene, range(8))
    between = (stamps[3] + stamps[4]) // 2 + 1
    response = ground.designate(scene.box(4), between)
    assert response.code == Code.SUCCESS, response.message
    assert nanoseconds(response.stamp) == stamps[4]


def test_a_box_drawn_on_a_smaller_picture(ground: GroundStation, scene: Scene) -> None:
    play(ground, scene, range(1))
    x, y, w, h = scene.box(0)
    response = ground.designate((x / 4, y / 2, w / 4, h / 2), image_width=80, image_height=120)
    assert response.code == Code.SUCCESS, response.message
    assert_followed(ground, scene, 1, response.target_id)


def test_stop_forgets_and_can_be_repeated(ground: GroundStation, scene: Scene) -> None:
    target_id = follow(ground, scene)
    answer = ground.stop()
    assert (answer.code, answer.message) == (0, f"no longer following {target_id}")
    assert answer.stopped == [target_id]
    assert ground.show(image_of(scene.image(1), ground.now())).detections == []
    answer = ground.stop()
    assert (answer.code, answer.message) == (0, "no target was being followed")
    assert answer.stopped == []


def test_ids_are_stable_and_new_for_a_new_target(ground: GroundStation, scene: Scene) -> None:
    first = follow(ground, scene)
    assert_followed(ground, scene, 1, first)
    second = ground.designate(scene.box(1))
    assert second.target_id != first
    assert_followed(ground, scene, 2, second.target_id)
    named = ground.designate(scene.box(2), target_id="white van")
    assert named.target_id == "white van"
    assert_followed(ground, scene, 3, "white van")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding(ground: GroundStation, scene: Scene, encoding: str) -> None:
    play(ground, scene, range(1), encoding)
    assert ground.designate(scene.box(0)).code == Code.SUCCESS
    for index in range(1, 5):
        detections = ground.show(image_of(scene.image(index), ground.now(), encoding))
        assert iou(only_box(detections), scene.box(index)) > 0.6


# --- requests that are refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "fields", "code", "words"),
    [
        ((np.nan, 5, 20, 20), {}, Code.INVALID_BOX, "finite"),
        ((5, 5, -np.inf, 20), {}, Code.INVALID_BOX, "finite"),
        ((5, 5, 0, 0), {}, Code.INVALID_BOX, "at least 2 pixels"),
        ((5, 5, 20, 20), {"image_height": 9}, Code.INVALID_BOX, "image_width 0"),
        ((900, 5, 20, 20), {}, Code.BOX_OUTSIDE_IMAGE, "320x240"),
        ((5, 5, 20, 20), {"stamp": 10**18}, Code.STAMP_OUTSIDE_HISTORY, "spans"),
    ],
)
def test_a_refused_request_leaves_the_target_followed(
    ground: GroundStation, scene: Scene, box, fields, code, words
) -> None:
    target_id = follow(ground, scene)
    response = ground.designate(box, **fields)
    assert response.code == code
    assert words in response.message
    assert response.target_id == ""
    assert_followed(ground, scene, 1, target_id)


def test_the_stamp_of_the_future_is_outside_the_history(
    ground: GroundStation, scene: Scene
) -> None:
    play(ground, scene, range(3))
    response = ground.designate(scene.box(2), ground.now() + 10**10)
    assert response.code == Code.STAMP_OUTSIDE_HISTORY
    assert f"{ground.last_stamp // 10**9}" in response.message


# --- images that cannot be used -----------------------------------------------------------------


def damaged(message: Image, **changes: object) -> Image:
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": b""}, "the image is empty"),
        ({"width": 0, "height": 0}, "the image is empty"),
        ({"data": bytes(1000)}, "1000 bytes of data"),
        ({"step": 10}, "step is 10 bytes"),
        ({"step": 2000}, "with step 2000"),
        ({"encoding": "h264"}, "'h264' is not supported: use one of bgr8"),
    ],
)
def test_an_unusable_image_is_reported_and_the_target_kept(
    ground: GroundStation, tracker: TrackerProcess, scene: Scene, changes: dict, words: str
) -> None:
    target_id = follow(ground, scene)
    stamp = ground.now()
    ground.show(image_of(scene.image(1), stamp))
    before = ground.status_of(stamp)
    bad = ground.now()
    ground.diagnostics.clear()
    ground.images.publish(damaged(image_of(scene.image(1), bad), **changes))

    def reported() -> bool:
        return any(words in s.message for m in ground.diagnostics[-1:] for s in m.status)

    wait_until(reported, 60, f"'{words}' in the diagnostics")
    assert ground.diagnostics[-1].status[0].level == DiagnosticStatus.ERROR
    assert_followed(ground, scene, 2, target_id)
    after = ground.status_of(ground.last_stamp)
    assert after.frames_received - before.frames_received == 2
    assert after.frames_dropped - before.frames_dropped == 1
    assert bad not in ground.detections
    # The log has the first of them at least; the rest is throttled.
    assert "unusable image on /mlkd/image" in tracker.log


def test_a_change_of_size_and_encoding_keeps_the_target(
    ground: GroundStation, tracker: TrackerProcess, scene: Scene
) -> None:
    target_id = follow(ground, scene)
    assert_followed(ground, scene, 1, target_id)
    time.sleep(1.1)  # The log of it is throttled.
    stamp = ground.now()
    half = np.ascontiguousarray(scene.image(2)[::2, ::2])
    detections = ground.show(image_of(half, stamp, "rgb8"))
    assert detections.detections[0].id == target_id
    assert iou(only_box(detections), np.array(scene.box(2)) / 2) > 0.5
    assert ground.status_of(stamp).image_width == 160
    assert_followed(ground, scene, 3, target_id)
    assert "are 160x120 rgb8, before 320x240 bgr8" in tracker.log


def test_stamps_going_backwards_keep_the_history_and_the_target(
    ground: GroundStation, tracker: TrackerProcess, scene: Scene
) -> None:
    target_id = follow(ground, scene)
    old = play(ground, scene, range(1, 4))
    past = 10**18
    for index in range(4, 8):
        detections = ground.show(image_of(scene.image(index), past + index * 10**7))
        assert iou(only_box(detections), scene.box(index)) > 0.6
    assert detections.detections[0].id == target_id
    assert "went backwards" in tracker.log
    assert ground.designate(scene.box(3), old[-1]).code == Code.SUCCESS
    assert ground.designate(scene.box(5), past + 5 * 10**7).code == Code.SUCCESS


# --- the rest of the interface ------------------------------------------------------------------


def test_the_overlay_is_made_on_demand_and_small(ground: GroundStation, scene: Scene) -> None:
    follow(ground, scene)
    pictures = ground.subscribe(Image, "overlay")
    index = 0

    def drawn() -> bool:
        nonlocal index
        index += 1
        ground.show(image_of(scene.image(index), ground.now()))
        return bool(pictures)

    wait_until(drawn, 60, "an overlay")
    ground.unsubscribe(pictures)
    assert (pictures[0].encoding, pictures[0].width, pictures[0].height) == ("bgr8", 320, 240)
    pixels = np.frombuffer(pictures[0].data, np.uint8).reshape(240, 320, 3)
    assert nanoseconds(pictures[0].header.stamp) in ground.detections
    assert (pixels != scene.image(index)).any()


def test_parameters_of_the_running_node(ground: GroundStation) -> None:
    names = ground.ask(ListParameters, "list_parameters", ListParameters.Request()).result.names
    for name, default in vars(default_settings()).items():
        assert name in names
        if name not in ("reliability", "device"):
            assert ground.get_parameter(name) == default, name
    topics = ("image.subscription", "detections.publisher", "status.publisher")
    assert {f"qos_overrides./mlkd/{topic}.reliability" for topic in topics} <= set(names)
    descriptor = ground.describe_parameter("history_duration")
    assert descriptor.floating_point_range[0].to_value == 60.0
    assert "while the node is unconfigured" in descriptor.additional_constraints
    assert ground.describe_parameter("autostart").read_only

    assert not ground.set_parameter("history_duration", 1.0).successful
    assert not ground.set_parameter("overlay_width", 1).successful
    assert ground.set_parameter("class_id", "vehicle").successful
    assert ground.set_parameter("class_id", "target").successful


def test_diagnostics_once_a_second(ground: GroundStation, scene: Scene) -> None:
    follow(ground, scene)
    ground.diagnostics.clear()
    wait_until(lambda: len(ground.diagnostics) >= 6, 60, "diagnostics")
    stamps = [nanoseconds(message.header.stamp) for message in ground.diagnostics]
    assert np.median(np.diff(stamps)) == pytest.approx(1e9, abs=4e8)
    images, tracking, *_ = ground.diagnostics[1].status
    assert images.name == "/mlkd/tracker: images"
    assert "cpu" in tracking.hardware_id
    assert int({v.key: v.value for v in tracking.values}["processed"]) > 0


# --- processes of their own ---------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator:
    """Start a tracker in a namespace of its own, and a ground station there."""
    processes: list[TrackerProcess] = []
    grounds: list[GroundStation] = []

    def begin(
        namespace: str, camera: str = "reliable", **parameters: object
    ) -> tuple[TrackerProcess, GroundStation]:
        process = TrackerProcess(namespace=namespace, **parameters)
        processes.append(process)
        ground = GroundStation(namespace, camera)
        grounds.append(ground)
        return process, ground

    yield begin
    for ground in grounds:
        ground.close()
    for process in processes:
        process.end()


def test_before_any_image_before_a_good_one_and_two_targets(start, scene: Scene) -> None:
    process, ground = start("alpha", reliability="reliable", max_targets=2)
    ground.connect()
    process.wait_for_log("ready:", 60)
    response = ground.designate(scene.box(0))
    assert response.code == Code.NO_IMAGE
    ground.images.publish(damaged(image_of(scene.image(0), ground.now()), step=1))
    wait_until(lambda: "unusable image" in process.log, 60, "a warning")
    response = ground.designate(scene.box(0))
    assert response.code == Code.UNUSABLE_IMAGE
    assert "step is 1 bytes" in response.message

    play(ground, scene, range(1))
    assert ground.designate(scene.box(0), target_id="car").code == Code.SUCCESS
    assert ground.designate((20, 20, 40, 40)).code == Code.SUCCESS
    response = ground.designate((200, 20, 40, 40))
    assert response.code == Code.TOO_MANY_TARGETS
    assert "(car, 1)" in response.message
    stamp = ground.now()
    ids = [d.id for d in ground.show(image_of(scene.image(1), stamp)).detections]
    assert "car" in ids
    ground.status_of(stamp)
    wait_until(
        lambda: (
            {s.target_id for s in list(ground.statuses) if nanoseconds(s.header.stamp) == stamp}
            == {"car", "1"}
        ),
        60,
        "a status of each",
    )

    answer = ground.stop("van")
    assert answer.code == StopTarget.Response.UNKNOWN_TARGET
    assert (answer.message, answer.stopped) == ("no target 'van' is being followed", [])
    answer = ground.stop("car")
    assert (answer.code, answer.stopped) == (StopTarget.Response.SUCCESS, ["car"])
    left = ground.show(image_of(scene.image(2), ground.now())).detections
    assert "car" not in [d.id for d in left]
    assert list(ground.stop().stopped) == ["1"]
    assert process.end(signal.SIGTERM) == 0


def test_only_the_newest_image_is_tracked_and_all_others_are_counted(start, scene: Scene) -> None:
    """With as many targets as it takes to be slower than the camera."""
    # The middleware's queues have room for all of them: it is the node that leaves some out.
    queue = {"qos_overrides./golf/image.subscription.depth": 2 * BURST}
    process, ground = start("golf", reliability="reliable", max_targets=16, **queue)
    destroy(ground.node, ground.images)
    ground.images = ground.node.create_publisher(Image, "image", 2 * BURST)
    ground.connect()
    play(ground, scene, range(1))
    for index in range(16):
        box = (20.0 * index, 12.0 * index, 40.0, 40.0)
        assert ground.designate(box).code == Code.SUCCESS
    stamp = ground.now()
    ground.show(image_of(scene.image(1), stamp))
    before = ground.status_of(stamp)
    burst = [image_of(scene.image(1 + i // 20), ground.now()) for i in range(BURST)]
    for message in burst:
        ground.images.publish(message)
    last = nanoseconds(burst[-1].header.stamp)
    wait_until(lambda: last in ground.detections, 60, "the newest image")
    after = ground.status_of(last)
    received = after.frames_received - before.frames_received
    processed = after.frames_processed - before.frames_processed
    dropped = after.frames_dropped - before.frames_dropped
    assert received == processed + dropped == BURST
    assert dropped > 0
    assert processed == sum(nanoseconds(m.header.stamp) in ground.detections for m in burst)


def test_a_default_tracker_follows_a_best_effort_camera_live(start, scene: Scene) -> None:
    """At 30 Hz, designated one second late, with images of its own rate arriving meanwhile."""
    # A machine that is busy may have left out the image that the operator saw, or be late with it.
    process, ground = start("bravo", camera="best_effort", history_duration=30.0)
    ground.connect()
    stamps: list[int] = []
    begin = time.monotonic()

    def fly(images: int) -> None:
        for _ in range(images):
            time.sleep(max(0.0, begin + len(stamps) * PERIOD - time.monotonic()))
            stamps.append(ground.now())
            ground.images.publish(image_of(scene.image(len(stamps) - 1), stamps[-1]))

    fly(45)
    seen = next(index for index in range(15, 45) if stamps[index] in ground.detections)
    x, y, w, h = scene.box(seen)
    request = InitTarget.Request(x=x, y=y, width=w, height=h, target_id="x")
    request.stamp = time_message(stamps[seen])
    pending = ground.init_client.call_async(request)

    def answered() -> bool:
        fly(1)
        return pending.done()

    wait_until(answered, 60, "an answer")
    response = pending.result()
    assert response.code == Code.SUCCESS, response.message
    newest = stamps.index(nanoseconds(response.status.header.stamp))
    assert newest > seen

    def overlaps() -> list[float]:
        return [
            iou(only_box(said), scene.box(index))
            for index, stamp in enumerate(stamps)
            if index > newest and (said := ground.detections.get(stamp)) and said.detections
        ]

    def followed() -> bool:
        fly(30)
        return len(overlaps()) > 30

    wait_until(followed, 60, "images on which it is followed")
    assert np.mean(overlaps()) > 0.6
    # Not how fast, which depends on the machine, but that nothing piles up: it is at most two
    # images late, of those that it has had time for.
    statuses = [s for s in ground.statuses if s.target_id][-30:]
    between = np.diff([nanoseconds(s.header.stamp) * 1e-9 for s in statuses])
    assert np.median([s.latency for s in statuses]) < 3 * max(np.median(between), PERIOD)


def test_a_qos_mismatch_is_named_in_log_and_diagnostics(start) -> None:
    override = {"qos_overrides./charlie/image.subscription.reliability": "reliable"}
    process, ground = start("charlie", camera="best_effort", **override)
    process.wait_for_log("no image on /charlie/image comes through from /charlie/ground", 60)
    assert "it offers BEST_EFFORT" in process.log
    assert "this node asks for RELIABLE" in process.log

    def reported() -> bool:
        statuses = (status for m in list(ground.diagnostics) for status in m.status)
        return any(
            "/charlie/ground" in s.message and s.level == DiagnosticStatus.ERROR for s in statuses
        )

    wait_until(reported, 60, "the mismatch in the diagnostics")


def test_silence_is_told_once_and_so_is_its_end(start, scene: Scene) -> None:
    process, ground = start(
        "delta", reliability="reliable", silence_timeout=0.5, image_topic="/delta/image"
    )
    ground.connect()
    process.wait_for_log("no image for", 60)
    ground.images.publish(image_of(scene.image(0), ground.now()))
    process.wait_for_log("images on /delta/image again")
    process.wait_for_log("on /delta/image: though it has 1 publisher(s)")
    time.sleep(2.2)  # It looks once a second: had it said that again, it would have by now.
    assert process.log.count("no image for") == 2


@pytest.mark.parametrize(
    ("parameters", "code", "words"),
    [
        (
            {"checkpoint": "/no/such.safetensors"},
            1,
            "/no/such.safetensors: no such checkpoint file",
        ),
        ({"device": "tpu"}, 1, "device 'tpu' is unknown"),
        ({"reliability": "maybe"}, 2, "'reliability' is 'maybe', it must be one of"),
        ({"history_duration": -1.0}, 2, "history_duration out of range"),
    ],
)
def test_what_cannot_work_ends_it_with_an_error(parameters: dict, code: int, words: str) -> None:
    process = TrackerProcess(**parameters)
    assert process.process.wait(60) == code
    wait_until(lambda: words in process.log, 60, lambda: process.log)
    # What the user can mend at the start is said before there is a node that could log it.
    assert ("[FATAL]" in process.log) == (code == 1)
    assert "Traceback" not in process.log
