# SPDX-License-Identifier: Apache-2.0
"""The tracker's lifecycle, driven from outside as `ros2 lifecycle set` and a manager drive it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from node_support import GroundStation, Scene, TrackerProcess, image_of, only_box, wait_until
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node import tracking_session
from mlkd_ros.node.tracker_node import TrackerNode
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.tracking import Tracker
from mlkd_ros.tracking.geometry import iou

Code = InitTarget.Response


@pytest.fixture
def process() -> Iterator[TrackerProcess]:
    process = TrackerProcess("juliet", autostart=False, reliability="reliable", device="cpu")
    yield process
    assert process.end() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture
def ground(process: TrackerProcess) -> Iterator[GroundStation]:
    ground = GroundStation("juliet")
    yield ground
    ground.close()


def said(ground: GroundStation, level: bytes, words: str) -> None:
    """Wait for the next diagnostics that say this about the images."""
    ground.diagnostics.clear()

    def found() -> bool:
        statuses = (m.status[0] for m in list(ground.diagnostics))
        return any(s.level == level and words in s.message for s in statuses)

    wait_until(found, 60, lambda: f"'{words}' in {[m.status[0] for m in ground.diagnostics]}")


def follow(ground: GroundStation, scene: Scene, index: int) -> str:
    """Get a target followed from that image on; its id."""
    ground.show(image_of(scene.image(index), ground.now()))
    response = ground.designate(scene.box(index))
    assert response.code == Code.SUCCESS, response.message
    return response.target_id


def test_the_whole_life(ground: GroundStation, process: TrackerProcess, scene: Scene) -> None:
    assert ground.state() == "unconfigured"
    said(ground, DiagnosticStatus.STALE, "unconfigured: not subscribed to /juliet/image")
    response = ground.designate(scene.box(0))
    assert response.code == Code.NOT_READY
    assert "ros2 lifecycle set /juliet/tracker configure" in response.message
    assert ground.node.count_publishers("/juliet/detections") == 0
    assert ground.stop().code == StopTarget.Response.SUCCESS

    assert ground.transition("configure")
    assert ground.state() == "inactive"
    assert ground.images.get_subscription_count() == 0
    response = ground.designate(scene.box(0))
    assert response.code == Code.NOT_READY
    assert "ros2 lifecycle set /juliet/tracker activate" in response.message

    assert ground.transition("activate")
    ground.connect()
    target_id = follow(ground, scene, 0)

    assert ground.transition("deactivate")
    wait_until(lambda: ground.images.get_subscription_count() == 0, 60, "no subscription")
    said(ground, DiagnosticStatus.STALE, "inactive")
    assert ground.designate(scene.box(0)).code == Code.NOT_READY

    assert ground.transition("activate")
    ground.connect()
    # Images are missing: it is not taken to be where it was before it has been seen again.
    stamp = ground.now()
    assert ground.show(image_of(scene.image(1), stamp)).detections == []
    status = ground.status_of(stamp)
    assert (status.target_id, status.state) == (target_id, TrackStatus.LOST)
    for index in range(2, 12):
        detections = ground.show(image_of(scene.image(index), ground.now()))
    assert detections.detections[0].id == target_id
    assert iou(only_box(detections), scene.box(11)) > 0.6

    assert ground.transition("deactivate")
    assert ground.transition("cleanup")
    assert ground.state() == "unconfigured"
    gone = "/juliet/detections"
    wait_until(lambda: ground.node.count_publishers(gone) == 0, 60, "no publisher")

    assert ground.transition("configure")
    assert ground.transition("activate")
    ground.connect()
    stamp = ground.now()
    assert ground.show(image_of(scene.image(2), stamp)).detections == []
    assert ground.status_of(stamp).frames_received == 1
    target_id = follow(ground, scene, 3)
    assert ground.transition("deactivate")
    # Stopping works while it sleeps.
    assert list(ground.stop().stopped) == [target_id]

    assert ground.transition("shutdown")
    assert ground.state() == "finalized"
    assert not ground.transition("configure")
    assert "start the process again" in ground.designate(scene.box(0)).message


def test_a_configure_that_fails_can_be_tried_again_with_another_checkpoint(
    ground: GroundStation, process: TrackerProcess, scene: Scene, tmp_path
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no weights in here")
    assert ground.set_parameter("checkpoint", str(bad)).successful
    assert not ground.transition("configure")
    assert ground.state() == "unconfigured"
    process.wait_for_log(f"configuring failed: {bad}: not a safetensors file")
    assert ground.set_parameter("checkpoint", "").successful
    assert ground.set_parameter("history_duration", 1.0).successful
    assert ground.transition("configure")
    assert ground.transition("activate")
    ground.connect()
    follow(ground, scene, 0)
    refused = ground.set_parameter("checkpoint", str(bad))
    assert not refused.successful
    assert "'checkpoint' can be set at the start or while" in refused.reason
    assert ground.get_parameter("checkpoint") == ""
    assert ground.get_parameter("history_duration") == 1.0


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, shipped_tracker: Tracker) -> Iterator[TrackerNode]:
    monkeypatch.setattr(
        tracking_session, "load_tracker", lambda *_, **__: shipped_tracker.sibling()
    )
    context = rclpy.Context()
    rclpy.init(context=context)
    node = TrackerNode(
        namespace="kilo",
        context=context,
        parameter_overrides=[Parameter("autostart", value=False)],
    )
    yield node
    node.close()
    context.try_shutdown()


def test_a_transition_that_raises_ends_unconfigured_and_can_be_repeated(
    node: TrackerNode, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    success = TransitionCallbackReturn.SUCCESS
    assert node.trigger_configure() == success
    assert node.trigger_activate() == success
    failures = iter([ZeroDivisionError("once")])

    def clear() -> None:
        if error := next(failures, None):
            raise error

    monkeypatch.setattr(node._intake.history, "clear", clear)
    assert node.trigger_deactivate() == TransitionCallbackReturn.ERROR
    assert "on_deactivate: ZeroDivisionError: once" in capfd.readouterr().err
    assert node._state_machine.current_state[1] == "unconfigured"
    assert node.trigger_configure() == success
    assert node.trigger_activate() == success
