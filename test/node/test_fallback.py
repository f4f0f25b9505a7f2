# SPDX-License-Identifier: Apache-2.0
"""A GPU that fails. There is none here: the engine is the real one for CPUs, said to be on a GPU,
that raises from some image on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from node_support import GroundStation, Scene, image_of, only_box, wait_until
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.node import tracking_session
from mlkd_ros.node.tracker_node import TrackerNode
from mlkd_ros.session.fallback import CpuFallback
from mlkd_ros.session.history import FrameHistory, HeldFrame
from mlkd_ros.session.targets import Designation, DesignationError, TargetSet
from mlkd_ros.tracking import EngineError, Tracker, TrackState, load_tracker
from mlkd_ros.tracking.checkpoint import load_checkpoint
from mlkd_ros.tracking.engine import OnnxRuntimeEngine
from mlkd_ros.tracking.geometry import iou

ERROR = "CUDA error: an illegal memory access was encountered\nand pages of advice"


class FailingEngine(OnnxRuntimeEngine):
    """Fails from the moment `broken` is set."""

    def __init__(self) -> None:
        super().__init__(load_checkpoint())
        self.device = "cuda:0"
        self.name = "onnxruntime TensorRT on cuda:0"
        self.broken = False

    def template(self, patches):
        if self.broken:
            raise RuntimeError(ERROR)
        return super().template(patches)

    def locate(self, frame, regions):
        if self.broken:
            raise RuntimeError(ERROR)
        return super().locate(frame, regions)


@pytest.fixture
def engine() -> FailingEngine:
    return FailingEngine()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def fallback(engine: FailingEngine, shipped_tracker: Tracker, told: list[str]) -> CpuFallback:
    def load(device: str, name: str) -> Tracker:
        if device == "cpu":
            return shipped_tracker.sibling()
        return Tracker(engine, load_checkpoint().settings)

    return CpuFallback(load, "auto", "tensorrt", told.append)


def held(scene: Scene, index: int) -> HeldFrame:
    return HeldFrame(BgrFrame(scene.image(index)), (index + 1) * 33_333_333, index + 1, 1)


def followed(fallback: CpuFallback, scene: Scene) -> TargetSet:
    """Two targets, followed on the GPU: "car" is tracked and "1" is doubted."""
    targets = TargetSet(fallback.load(), 2)
    history = FrameHistory(10.0, 10**9)
    history.add(held(scene, 0))
    targets.designate(Designation(scene.box(0), target_id="car"), history, 1.0)
    targets.designate(Designation((10.0, 10.0, 30.0, 30.0)), history, 1.0)
    targets.step(held(scene, 1))
    return targets


def test_targets_go_on_on_the_cpu(
    fallback: CpuFallback, engine: FailingEngine, told: list[str], scene: Scene
) -> None:
    targets = followed(fallback, scene)
    assert (targets.device, fallback.reason) == ("cuda:0", "")
    before = targets.states
    engine.broken = True
    with pytest.raises(RuntimeError) as failure:
        targets.step(held(scene, 2))
    assert fallback.recover(targets, failure.value)
    assert (targets.device, targets.states) == ("cpu", before)
    assert "CUDA error: an illegal memory access was encountered)" in fallback.reason
    assert "onnxruntime" in fallback.reason and "cpu" in fallback.reason
    assert told == [fallback.reason]
    reports = {r.target_id: r.result for r in targets.step(held(scene, 2))}
    assert list(reports) == ["car", "1"]
    assert reports["car"].state == TrackState.TRACKING
    assert iou(reports["car"].box, scene.box(2)) > 0.6
    # On the CPU there is nothing left to fall back to.
    assert not fallback.recover(targets, RuntimeError("again"))


@pytest.mark.parametrize(
    "error", [ValueError("a bad image"), DesignationError(3, "a bad box"), None]
)
def test_what_is_not_the_engines_fault_changes_nothing(
    fallback: CpuFallback, scene: Scene, error: Exception | None
) -> None:
    targets = followed(fallback, scene)
    assert not fallback.recover(targets, error)
    assert (targets.device, fallback.reason) == ("cuda:0", "")


def test_a_gpu_that_fails_at_the_start(fallback: CpuFallback, engine: FailingEngine) -> None:
    engine.broken = True
    assert fallback.load().device == "cpu"
    assert "illegal memory access" in fallback.reason


def test_a_gpu_that_was_asked_for_is_not_replaced_at_the_start(shipped_tracker: Tracker) -> None:
    def load(device: str, engine: str) -> Tracker:
        raise RuntimeError(ERROR)

    with pytest.raises(RuntimeError, match="illegal memory access"):
        CpuFallback(load, "cuda:0", "auto", print).load()


def test_settings_that_cannot_work_are_not_papered_over() -> None:
    def load(device: str, engine: str) -> Tracker:
        raise EngineError("engine 'magic' is unknown")

    with pytest.raises(EngineError, match="magic"):
        CpuFallback(load, "auto", "magic", print).load()


# --- in the node --------------------------------------------------------------------------------


@pytest.fixture
def ground(engine: FailingEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[GroundStation]:
    def load(checkpoint, device, **options) -> Tracker:
        if device == "cpu":
            return load_tracker(device="cpu")
        return Tracker(engine, load_checkpoint().settings)

    monkeypatch.setattr(tracking_session, "load_tracker", load)
    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [Parameter("reliability", value="reliable"), Parameter("device", value="auto")]
    node = TrackerNode(namespace="mike", context=context, parameter_overrides=overrides)
    assert node.autostart()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin)
    thread.start()
    ground = GroundStation("mike")
    try:
        ground.connect()
        yield ground
    finally:
        ground.close()
        context.try_shutdown()
        thread.join(10.0)
        node.close()


def test_the_node_keeps_the_target_and_says_what_happened(
    ground: GroundStation, engine: FailingEngine, scene: Scene
) -> None:
    ground.show(image_of(scene.image(0), ground.now()))
    response = ground.designate(scene.box(0))
    ground.show(image_of(scene.image(1), ground.now()))
    engine.broken = True
    # The image that the engine failed on is not lost either.
    stamp = ground.now()
    detections = ground.show(image_of(scene.image(2), stamp), 60)
    assert detections.detections[0].id == response.target_id
    assert iou(only_box(detections), scene.box(2)) > 0.6
    assert ground.status_of(stamp).frames_dropped == 0
    ground.diagnostics.clear()
    wait_until(lambda: bool(ground.diagnostics), 60, "diagnostics")
    tracking = ground.diagnostics[0].status[1]
    assert tracking.level == DiagnosticStatus.WARN
    assert "illegal memory access" in tracking.message
    assert {v.key: v.value for v in tracking.values}["device"] == "cpu"
    assert "cpu" in tracking.hardware_id


def test_a_designation_that_the_engine_fails_on_is_carried_out(
    ground: GroundStation, engine: FailingEngine, scene: Scene
) -> None:
    ground.show(image_of(scene.image(0), ground.now()))
    engine.broken = True
    response = ground.designate(scene.box(0))
    assert response.code == 0, response.message
    detections = ground.show(image_of(scene.image(1), ground.now()))
    assert iou(only_box(detections), scene.box(1)) > 0.6
