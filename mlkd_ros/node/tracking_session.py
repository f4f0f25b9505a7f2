# SPDX-License-Identifier: Apache-2.0
"""What the tracker node has from configure to cleanup, as one object.

It loads the student on the tracking thread, publishes what that says about each image, and carries
out what operators ask for. Methods that take `targets`, and `_publish`, run on the tracking thread;
the others on the executor's.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.task import Future
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from mlkd_ros.imaging.camera import CAMERA_TOPIC
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node import messages
from mlkd_ros.node.extras import Extras
from mlkd_ros.node.intake import Intake
from mlkd_ros.node.parameters import Parameters
from mlkd_ros.node.pointing import Mark, Pointing, designation, fitted
from mlkd_ros.session.fallback import CpuFallback
from mlkd_ros.session.history import HeldFrame
from mlkd_ros.session.resume import TargetKeeper, default_path
from mlkd_ros.session.targets import (
    Code,
    Designated,
    Designation,
    DesignationError,
    TargetReport,
    TargetSet,
)
from mlkd_ros.session.worker import Command, NotRunningError, TrackingWorker
from mlkd_ros.tracking import Tracker, choose_student, load_tracker

__all__ = ["TrackingSession"]

#: Seconds between two log lines about the same thing.
_LOG_EVERY = 5.0


class TrackingSession:
    """The student, the tracking thread and the publishers of a node that is configured.

    `load` has to be called once. Raises CheckpointError or EngineError for a student, engine or
    device that cannot be had, ParameterException for a topic name that cannot be.
    """

    def __init__(self, node: LifecycleNode, declared: Parameters, intake: Intake) -> None:
        settings = declared.settings
        self._node, self._log = node, node.get_logger()
        self._declared, self._intake = declared, intake
        self._publishers: list[LifecyclePublisher[Any]] = []
        self._camera_settings: Publisher[String] | None = None
        self._paused = False
        #: File of the student that was loaded.
        self._flown: Path | None = None
        self._fallback = CpuFallback(
            self._load_tracker, settings.device, settings.engine, self._log.error
        )
        path = settings.resume_file or default_path(node.get_fully_qualified_name())
        self._keeper = TargetKeeper(Path(path), self._log) if settings.resume else None
        self._worker = TrackingWorker(
            self._load, self._publish, self._fallback.recover, self._failed
        )

    def load(self) -> None:
        """Load the student on the tracking thread, wait for it, and advertise the topics."""
        self._worker.start()
        while not self._worker.wait_loaded(0.2):
            if not self._node.context.ok():
                raise ExternalShutdownException()
        targets = self._worker.targets
        assert targets is not None  # It is loaded.
        self._declared.declare_presence(targets.presence)
        self.tune()
        self._advertise()

    def _advertise(self) -> None:
        settings = self._declared.settings
        self._detections = self._publisher(Detection2DArray, "detections", 10)
        self._status = self._publisher(TrackStatus, "status", 10)
        self._extras = Extras(self._node, settings, self._intake.image_topic, self._publisher)
        self._pointing = Pointing(self._node, settings)
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._camera_settings = self._node.create_publisher(String, CAMERA_TOPIC, kept)
        self._camera_settings.publish(String(data=settings.camera.to_json()))

    def _publisher(self, kind: Any, name: str, depth: int) -> LifecyclePublisher[Any]:
        """One that is silent until the node is active, and gone after cleanup."""
        publisher = self._node.create_lifecycle_publisher(
            kind, name, depth, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._publishers.append(publisher)
        return publisher

    def activate(self) -> None:
        """Subscribe; targets of before a pause are searched for."""
        if self._paused:
            self._submit(TargetSet.look_for_all)
        self._intake.subscribe(self._worker.offer)
        self._extras.bearings.subscribe()
        self._pointing.subscribe(self._on_mark)

    def deactivate(self) -> None:
        """Unsubscribe; the targets are kept."""
        self._intake.unsubscribe()
        self._unsubscribe_extras()
        self._worker.withdraw()
        self._paused = True

    def _unsubscribe_extras(self) -> None:
        if self._camera_settings is not None:  # The last that is made.
            self._extras.bearings.unsubscribe()
            self._pointing.unsubscribe()

    def stop(self) -> None:
        """End the tracking thread."""
        self._worker.stop()

    def close(self, *, forget: bool = False) -> None:
        """Release everything; `forget`: the targets that were saved to be resumed, too."""
        self._unsubscribe_extras()
        self.stop()
        self._declared.undeclare_presence()
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = []
        if self._camera_settings is not None:
            self._node.destroy_publisher(self._camera_settings)
            self._camera_settings = None
        if forget and self._keeper is not None:
            self._keeper.forget()

    # --- executor thread ------------------------------------------------------------------------

    def tune(self) -> None:
        """Hand to the tracking thread what may change while it runs."""
        presence, budget = self._declared.presence, self._declared.settings.search_budget
        if presence is not None:
            self._submit(lambda targets: targets.tune(presence, budget))

    def look(self) -> None:
        """Once a second: what others publish."""
        self._extras.bearings.look()

    async def designate(self, asked: Designation) -> Designated:
        """Follow a target from now on. Raises DesignationError."""
        return cast(Designated, await self._carry_out(partial(self._designate, asked)))

    async def forget(self, target_id: str) -> list[str]:
        """Follow one target, or all, no more; their names. Raises DesignationError."""
        return cast("list[str]", await self._carry_out(partial(self._forget, target_id)))

    def _on_mark(self, mark: Mark) -> None:
        """A click or a rectangle: nobody waits for an answer, so the log has it."""

        def done(designated: Designated | None, error: Exception | None) -> None:
            if designated is not None:
                self._pointing.conclude(mark, designated.outcome)
            elif isinstance(error, (DesignationError, NotRunningError)):
                self._pointing.refuse(mark, str(error))
            elif error is not None:
                self._pointing.refuse(mark, f"{type(error).__name__}: {error}")

        with contextlib.suppress(NotRunningError):
            self._worker.submit(partial(self._designate_mark, mark), done)

    def _submit(self, command: Command) -> None:
        """A command that nobody waits for."""

        def done(_: Any, error: Exception | None) -> None:
            if error is not None and not isinstance(error, NotRunningError):
                self._failed("carrying out a command", error)

        with contextlib.suppress(NotRunningError):
            self._worker.submit(command, done)

    async def _carry_out(self, command: Command) -> Any:
        """The command's result, awaited. Raises DesignationError, for whatever went wrong."""
        executor = self._node.executor
        assert executor is not None  # It is running this.
        future: Future[tuple[Any, Exception | None]] = Future(executor=executor)

        def done(result: Any, error: Exception | None) -> None:
            future.set_result((result, error))
            # It looks at waiting callbacks only when something happens.
            executor.wake()

        try:
            self._worker.submit(command, done)
            result, error = cast("tuple[Any, Exception | None]", await future)
        except NotRunningError as refusal:
            error = refusal
        if error is None:
            return result
        if isinstance(error, NotRunningError):
            raise DesignationError(Code.NOT_READY, str(error)) from error
        if isinstance(error, DesignationError):
            if error.code == Code.INTERNAL_ERROR:
                self._failed("designating a target", error.__cause__ or error)
            raise error
        self._failed("carrying out a command", error)
        raise DesignationError(Code.INTERNAL_ERROR, f"{type(error).__name__}: {error}")

    def values(self) -> dict[str, Any]:
        """What diagnostics say of it: fields of `Snapshot`."""
        worker, targets = self._worker, self._worker.targets
        found: dict[str, Any] = {
            "fallback": self._fallback.reason,
            "processed": worker.processed,
            "dropped": Counter(worker.dropped),
        }
        if targets is not None:
            found |= {"engine": targets.engine_name, "device": targets.device}
            found["states"] = targets.states
        if self._camera_settings is not None:  # The topics are advertised.
            bearings = self._extras.bearings
            found |= {"bearing_problem": bearings.problem, "bearing": bearings.values()}
            found |= {"health": self._extras.health, "type_problem": bearings.type_problem()}
            found["designated"] = self._pointing.values()
            found["mark_problem"] = self._pointing.type_problem()
        return found

    # --- tracking thread ------------------------------------------------------------------------

    def _load(self) -> TargetSet:
        settings = self._declared.settings
        # Read first: how old it is counts from when it was saved to now, not to after loading.
        saved = self._keeper.read(settings.resume_within) if self._keeper else None
        # OpenCV's own threads would compete with the network's for a crop's worth of work.
        cv2.setNumThreads(settings.threads)
        targets = TargetSet(self._fallback.load(), settings.max_targets)
        if saved is not None and self._keeper is not None:
            self._keeper.restore(targets, saved)
        self._log.info(f"ready: {targets.engine_name}, {self._flown}")
        return targets

    def _load_tracker(self, device: str, engine: str) -> Tracker:
        settings = self._declared.settings
        # On another device the targets go on with the student they were followed with.
        student = self._flown or choose_student(
            settings.checkpoint or settings.student, device, engine
        )
        tracker = load_tracker(student, device=device, engine=engine, threads=settings.threads)
        self._flown = student
        return tracker

    def _forget(self, target_id: str, targets: TargetSet) -> list[str]:
        names = targets.forget(target_id)
        if self._keeper is not None:
            self._keeper.save(targets)
        return names

    def _designate(self, asked: Designation, targets: TargetSet) -> Designated:
        settings, history = self._declared.settings, self._intake.history
        duration = settings.catch_up_duration
        if asked.fit:
            asked = fitted(asked, targets, history, settings.click_size)
        try:
            designated = targets.designate(asked, history, duration)
        except DesignationError as error:
            failed = error.code == Code.INTERNAL_ERROR
            if not failed or not self._fallback.recover(targets, error.__cause__):
                raise
            designated = targets.designate(asked, history, duration)
        if self._keeper is not None:
            self._keeper.save(targets)
        self._worker.caught_up(targets, designated.newest, designated.report)
        return designated

    def _designate_mark(self, mark: Mark, targets: TargetSet) -> Designated:
        asked = designation(mark, targets, self._intake.history, self._declared.settings)
        return self._designate(asked, targets)

    def _publish(self, held: HeldFrame, reports: list[TargetReport]) -> None:
        try:
            settings = self._declared.settings
            self._detections.publish(messages.detections(held.header, reports, settings.class_id))
            latency = self._intake.latency(held)
            for report in cast("list[TargetReport | None]", reports) or [None]:
                self._status.publish(self.status_message(held, report, latency))
            self._intake.monitor.published(latency)
            self._extras.publish(held, reports, latency, settings)
            targets = self._worker.targets
            if self._keeper is not None and self._keeper.due and targets is not None:
                self._keeper.save(targets)
        except Exception:
            # The context goes away under this thread when the node is told to end.
            if self._node.context.ok():
                raise

    def status_message(
        self, held: HeldFrame, report: TargetReport | None, latency: float | None = None
    ) -> TrackStatus:
        """Of one target in one image, with the counts of this moment; None: there is no target."""
        monitor, worker = self._intake.monitor, self._worker
        counts = messages.Counts(
            received=monitor.received,
            processed=worker.processed,
            dropped=worker.dropped.total() + monitor.unusable.total(),
        )
        return messages.status(
            held.header,
            report,
            (held.frame.width, held.frame.height),
            counts,
            self._intake.latency(held) if latency is None else latency,
        )

    def _failed(self, what: str, error: BaseException) -> None:
        """Log what went wrong."""
        if isinstance(error, UnusableImageError):
            self._intake.monitor.problem = str(error)  # Found out late, when it was decoded.
            self._log.warning(f"{what}: {error}", throttle_duration_sec=_LOG_EVERY)
            return
        text = f"{what}: {type(error).__name__}: {error}"
        self._log.error(text, throttle_duration_sec=_LOG_EVERY)
