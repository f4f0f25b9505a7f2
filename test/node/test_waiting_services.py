# SPDX-License-Identifier: Apache-2.0
"""Services that wait for the tracking thread: they hold nothing up, and answer when it cannot.

The node runs in this process, so that its tracker can be slowed down and broken.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from node_support import GroundStation, Scene, image_of, only_box, wait_until
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from mlkd_ros.node import tracking_session
from mlkd_ros.node.tracker_node import TrackerNode
from mlkd_ros.session import targets
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking import Tracker, update_together
from mlkd_ros.tracking.geometry import iou

Code = InitTarget.Response


class Running:
    """A node on an executor in a thread of this process."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = TrackerNode(
            namespace="echo",
            context=self.context,
            parameter_overrides=[
                Parameter("reliability", value="reliable"),
                Parameter("catch_up_duration", value=1.0),
            ],
        )
        assert self.node.autostart()
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin)
        self.thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def cpu_seconds(self) -> float:
        """CPU time that the executor's thread has used."""
        assert self.thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self.thread.ident))

    def close(self) -> None:
        self.context.try_shutdown()
        self.thread.join(10.0)
        self.node.close()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, shipped_tracker: Tracker) -> Iterator[Running]:
    monkeypatch.setattr(
        tracking_session, "load_tracker", lambda *_, **__: shipped_tracker.sibling()
    )
    running = Running()
    yield running
    running.close()


@pytest.fixture
def ground(running: Running) -> Iterator[GroundStation]:
    ground = GroundStation("echo")
    ground.connect()
    yield ground
    ground.close()


def held_up(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """A tracker that stands still on its next image: set when it does, and to be set to go on."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(trackers, image, stamp=None):
        begun.set()
        go_on.wait(60)
        return update_together(trackers, image, stamp)

    monkeypatch.setattr(targets, "update_together", slow)
    return begun, go_on


def test_a_tracker_that_fails_costs_neither_node_nor_target(
    running: Running, ground: GroundStation, scene: Scene, monkeypatch
) -> None:
    stamps = [ground.now() for _ in range(3)]
    for index, stamp in enumerate(stamps):
        ground.show(image_of(scene.image(index), stamp))
    first = ground.designate(scene.box(2))

    def broken(trackers, image, stamp=None):
        raise RuntimeError("out of device memory")

    with monkeypatch.context() as patch:
        patch.setattr(targets, "update_together", broken)
        response = ground.designate(scene.box(0), stamps[0])
        assert response.code == Code.INTERNAL_ERROR
        assert "out of device memory" in response.message
        ground.images.publish(image_of(scene.image(3), ground.now()))
        worker = running.node._session._worker
        wait_until(lambda: worker.dropped["failed"] == 1, 60, "an image that failed")
    detections = ground.show(image_of(scene.image(4), ground.now()))
    assert detections.detections[0].id == first.target_id
    assert iou(only_box(detections), scene.box(4)) > 0.6
    status = ground.status_of(ground.last_stamp)
    assert (status.frames_received, status.frames_processed, status.frames_dropped) == (5, 4, 1)


def test_waiting_for_a_slow_designation_holds_nothing_up_and_burns_nothing(
    running: Running, ground: GroundStation, scene: Scene, monkeypatch
) -> None:
    stamps = [ground.now() for _ in range(20)]
    for index, stamp in enumerate(stamps):
        ground.show(image_of(scene.image(index), stamp))
    begun, go_on = held_up(monkeypatch)
    x, y, w, h = scene.box(0)
    request = InitTarget.Request(x=x, y=y, width=w, height=h)
    request.stamp = ground.detections[stamps[0]].header.stamp
    pending = ground.init_client.call_async(request)
    assert begun.wait(60)
    monitor = running.node._intake.monitor
    received = monitor.received
    for number in range(1, 11):
        ground.images.publish(image_of(scene.image(19 + number), ground.now()))
        wait_until(lambda count=received + number: monitor.received == count, 60, "the image")
    cpu = running.cpu_seconds()
    time.sleep(1.0)
    assert running.cpu_seconds() - cpu < 0.3
    assert not pending.done()
    go_on.set()
    wait_until(pending.done, 60, "an answer")
    assert pending.result().code == Code.SUCCESS, pending.result().message


def test_ends_in_the_middle_of_a_designation(
    running: Running, ground: GroundStation, scene: Scene, monkeypatch
) -> None:
    stamps = [ground.now() for _ in range(20)]
    for index, stamp in enumerate(stamps):
        ground.show(image_of(scene.image(index), stamp))
    begun, go_on = held_up(monkeypatch)
    request = InitTarget.Request(x=10.0, y=10.0, width=40.0, height=40.0)
    request.stamp = ground.detections[stamps[0]].header.stamp
    ground.init_client.call_async(request)
    assert begun.wait(60)
    threading.Timer(0.5, go_on.set).start()
    running.close()
    assert not any(thread.name == "tracking" for thread in threading.enumerate())
