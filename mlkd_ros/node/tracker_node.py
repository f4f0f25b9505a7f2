# SPDX-License-Identifier: Apache-2.0
"""Executable `tracker`: follows targets through the images of a camera.

Two threads. The executor's takes images in (a view of the message, no copy), keeps them in the
history and hands the newest to the tracking thread, which tracks and publishes. Services wait for
the tracking thread without holding the executor up.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node import messages
from mlkd_ros.node.decoding import Decoder
from mlkd_ros.node.diagnostics import CLOCKS_DIFFER, Monitor, Snapshot, diagnostic_statuses
from mlkd_ros.node.history import FrameHistory, HeldFrame
from mlkd_ros.node.overlay import draw_overlay, image_message
from mlkd_ros.node.parameters import ParameterError, Parameters
from mlkd_ros.node.targets import (
    Code,
    Designated,
    Designation,
    DesignationError,
    TargetReport,
    TargetSet,
)
from mlkd_ros.node.worker import Command, TrackingWorker
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking import CheckpointError, EngineError, load_tracker
from mlkd_ros.tracking.encoding import Mono16Range, UnusableImageError

__all__ = ["TrackerNode", "main"]

#: Seconds between two log lines about the same thing.
_LOG_EVERY = 5.0


class TrackerNode(Node):
    """The tracker as a ROS node; `mlkd_ros.node.parameters` declares what can be set.

    `failure` is the exception that ended it, if one did.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("tracker", **options)
        self.failure: Exception | None = None
        self._declared = Parameters(self)
        settings = self._declared.settings
        self._decoder = Decoder(Mono16Range(settings.mono16_black, settings.mono16_white))
        self._history = FrameHistory(settings.history_duration, settings.history_megabytes << 20)
        self._monitor = Monitor()
        self._number = 0
        self._image_kind = ""
        self._logged_qos_problem = ""
        self._next_overlay = 0.0
        self._worker = TrackingWorker(self._load, self._publish, self._failed)
        self._advertise()
        self._subscribe()
        self.create_timer(1.0, self._on_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._worker.start()

    def close(self) -> None:
        """Stop tracking and destroy the node."""
        self._worker.stop()
        self.destroy_node()

    # --- what the node offers -------------------------------------------------------------------

    def _advertise(self) -> None:
        publisher = partial(
            self.create_publisher,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._detections = publisher(Detection2DArray, "detections", 10)
        self._status = publisher(TrackStatus, "status", 10)
        self._overlay = publisher(Image, "overlay", 1)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A group each: a service that waits for the tracking thread must not keep images out.
        self.create_service(  # type: ignore[misc]  # rclpy types no coroutine, but runs them
            InitTarget,
            "init_target",
            self._on_init_target,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        self.create_service(
            Trigger, "stop", self._on_stop, callback_group=MutuallyExclusiveCallbackGroup()
        )

    def _subscribe(self) -> None:
        settings = self._declared.settings
        reliability = ReliabilityPolicy[settings.reliability.upper()]
        self._images = self.create_subscription(
            Image,
            settings.image_topic,
            self._on_image,
            # The newest image only: whatever waits in a queue is late.
            QoSProfile(depth=1, reliability=reliability),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._topic = self._images.topic_name

    # --- executor thread ------------------------------------------------------------------------

    def _on_image(self, message: Image) -> None:
        self._monitor.arrived()
        try:
            frame = self._decoder.decode(message)
        except UnusableImageError as error:
            self._monitor.refused(error.reason, str(error))
            self.get_logger().warning(
                f"unusable image on {self._topic}: {error}", throttle_duration_sec=_LOG_EVERY
            )
            return
        self._monitor.accepted()
        self._number += 1
        stamp = messages.nanoseconds(message.header.stamp)
        held = HeldFrame(frame, stamp, self._number, len(message.data), message.header)
        if self._history.add(held):
            self.get_logger().warning(
                f"image stamps on {self._topic} went backwards: a replay began again, or two "
                "cameras publish there. The history was cleared; tracking goes on",
                throttle_duration_sec=_LOG_EVERY,
            )
        self._log_kind(message)
        self._worker.offer(held)

    def _log_kind(self, message: Image) -> None:
        kind = f"{message.width}x{message.height} {message.encoding}"
        if kind != self._image_kind:
            was = f", before {self._image_kind}" if self._image_kind else ""
            self.get_logger().info(
                f"images on {self._topic} are {kind}{was}", throttle_duration_sec=1.0
            )
            self._image_kind = kind

    async def _on_init_target(
        self, request: InitTarget.Request, response: InitTarget.Response
    ) -> InitTarget.Response:
        designation = Designation(
            box=(request.x, request.y, request.width, request.height),
            stamp=messages.nanoseconds(request.stamp),
            image_size=(request.image_width, request.image_height),
            target_id=request.target_id,
        )
        try:
            designated = await self._on_tracking_thread(partial(self._designate, designation))
        except DesignationError as error:
            return self._refuse(response, error)
        response.code = int(Code.SUCCESS)
        response.target_id = designated.report.target_id
        response.stamp = designated.start.header.stamp
        response.frames_caught_up = designated.frames_caught_up
        response.status = self._status_message(designated.newest, designated.report)
        response.message = (
            f"target {designated.report.target_id} designated, then followed through "
            f"{designated.frames_caught_up} images: {designated.report.result.state.name}"
        )
        self.get_logger().info(response.message)
        return response

    def _refuse(
        self, response: InitTarget.Response, error: DesignationError
    ) -> InitTarget.Response:
        response.code, response.message = int(error.code), str(error)
        if error.code == Code.NO_IMAGE and self._monitor.problem:
            response.code = int(Code.UNUSABLE_IMAGE)
            response.message = f"every image so far is unusable: {self._monitor.problem}"
        self.get_logger().warning(
            f"init_target refused ({error.code.name}): {response.message}",
            throttle_duration_sec=1.0,
        )
        return response

    async def _on_stop(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            names = await self._on_tracking_thread(TargetSet.forget)
        except DesignationError as error:
            if error.code != Code.NOT_READY:
                response.message = str(error)
                return response
            names = []
        response.success = True
        response.message = (
            f"no longer following {', '.join(names)}" if names else "no target was being followed"
        )
        self.get_logger().info(f"stop: {response.message}")
        return response

    async def _on_tracking_thread(self, command: Command) -> Any:
        """The command's result, awaited. Raises DesignationError, for whatever went wrong."""
        executor = self.executor
        assert executor is not None  # It is running this.
        future: Future[tuple[Any, Exception | None]] = Future(executor=executor)

        def done(result: Any, error: Exception | None) -> None:
            future.set_result((result, error))
            # It looks at waiting callbacks only when something happens.
            executor.wake()

        try:
            self._worker.submit(command, done)
        except RuntimeError as refusal:
            raise DesignationError(
                Code.NOT_READY, "the tracker is still loading: try again in a second"
            ) from refusal
        result, error = cast("tuple[Any, Exception | None]", await future)
        if error is None:
            return result
        if isinstance(error, DesignationError):
            if error.code == Code.INTERNAL_ERROR:
                self._failed("designating a target", error.__cause__ or error)
            raise error
        self._failed("carrying out a command", error)
        raise DesignationError(Code.INTERNAL_ERROR, f"{type(error).__name__}: {error}")

    def _qos_problem(self) -> str:
        """Which publisher of the image topic cannot reach this node, and why; empty if all can.

        Looked up rather than told by an event: when that comes, the publisher has no name yet.
        """
        for publisher in self.get_publishers_info_by_topic(self._topic):
            compatibility, reason = qos_check_compatible(
                publisher.qos_profile, self._images.qos_profile
            )
            if compatibility == QoSCompatibility.ERROR:
                offered, asked = publisher.qos_profile, self._images.qos_profile
                name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
                if "UNKNOWN" in name:
                    name = "a publisher"
                return (
                    f"no image on {self._topic} comes through from {name}: it offers "
                    f"{offered.reliability.name}, {offered.durability.name}; this node asks for "
                    f"{asked.reliability.name}, {asked.durability.name} ({reason}). "
                    "Set parameter reliability to best_effort, or qos_overrides"
                )
        return ""

    def _on_second(self) -> None:
        snapshot = self._snapshot()
        changed = self._monitor.silence_changed(self._declared.settings.silence_timeout)
        message = DiagnosticArray(
            status=diagnostic_statuses(self.get_fully_qualified_name(), snapshot)
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
        if changed:
            self.get_logger().error(message.status[0].message)
        elif changed is False:
            self.get_logger().info(f"images on {self._topic} again")
        if snapshot.qos_problem not in ("", self._logged_qos_problem):
            self.get_logger().error(snapshot.qos_problem)
        self._logged_qos_problem = snapshot.qos_problem

    def _snapshot(self) -> Snapshot:
        settings, targets, monitor = self._declared.settings, self._worker.targets, self._monitor
        input_rate, output_rate = monitor.rates()
        return Snapshot(
            topic=self._topic,
            silent=monitor.silence() > settings.silence_timeout,
            silence=monitor.silence(),
            publishers=self.count_publishers(self._topic),
            received=monitor.received,
            input_rate=input_rate,
            output_rate=output_rate,
            problem=monitor.problem,
            unusable=Counter(monitor.unusable),
            qos_problem=self._qos_problem(),
            loading=targets is None,
            engine=targets.engine_name if targets else "",
            processed=self._worker.processed,
            dropped=Counter(self._worker.dropped),
            latency=monitor.latency(),
            states=targets.states if targets else {},
            history=f"{len(self._history)} images, {self._history.seconds:.1f} s, "
            f"{self._history.nbytes / 2**20:.0f} MiB",
            extra={"images are": self._image_kind},
        )

    # --- tracking thread ------------------------------------------------------------------------

    def _load(self) -> TargetSet:
        settings = self._declared.settings
        # OpenCV's own threads would compete with the network's for a crop's worth of work.
        cv2.setNumThreads(settings.threads)
        tracker = load_tracker(
            settings.checkpoint or None,
            device=settings.device,
            engine=settings.engine,
            threads=settings.threads,
        )
        tracker.search_budget = settings.search_budget
        targets = TargetSet(tracker, settings.max_targets)
        weights = settings.checkpoint or "the student that ships with the package"
        self.get_logger().info(f"ready: {targets.engine_name}, {weights}")
        return targets

    def _designate(self, designation: Designation, targets: TargetSet) -> Designated:
        duration = self._declared.settings.catch_up_duration
        designated = targets.designate(designation, self._history, duration)
        self._worker.caught_up(targets, designated.newest, designated.report)
        return designated

    def _publish(self, held: HeldFrame, reports: list[TargetReport]) -> None:
        try:
            settings = self._declared.settings
            self._detections.publish(messages.detections(held.header, reports, settings.class_id))
            latency = self._latency(held)
            for report in cast("list[TargetReport | None]", reports) or [None]:
                self._status.publish(self._status_message(held, report, latency))
            self._monitor.published(latency)
            self._publish_overlay(held, reports, latency)
        except Exception:
            # The context goes away under this thread when the node is told to end.
            if self.context.ok():
                raise

    def _publish_overlay(
        self, held: HeldFrame, reports: Sequence[TargetReport], latency: float
    ) -> None:
        now, settings = time.monotonic(), self._declared.settings
        if now < self._next_overlay or self._overlay.get_subscription_count() == 0:
            return
        self._next_overlay = now + 1.0 / settings.overlay_rate
        canvas = draw_overlay(held.frame, reports, latency, settings.overlay_width)
        self._overlay.publish(image_message(canvas, held.header))

    def _status_message(
        self, held: HeldFrame, report: TargetReport | None, latency: float | None = None
    ) -> TrackStatus:
        monitor, worker = self._monitor, self._worker
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
            self._latency(held) if latency is None else latency,
        )

    def _latency(self, held: HeldFrame) -> float:
        """Seconds from the image's stamp to now."""
        latency = (self.get_clock().now().nanoseconds - held.stamp) * 1e-9
        if abs(latency) > CLOCKS_DIFFER:
            self.get_logger().warning(
                f"image stamps on {self._topic} and this node's clock differ by {latency:.0f} s: "
                "set use_sim_time for a replay, or synchronise the clocks",
                once=True,
            )
        return latency

    def _failed(self, what: str, error: BaseException) -> None:
        """Log what went wrong; end the node if it cannot do its work."""
        logger = self.get_logger()
        if isinstance(error, UnusableImageError):
            logger.warning(f"{what}: {error}", throttle_duration_sec=_LOG_EVERY)
            return
        if self._worker.targets is not None:
            text = f"{what}: {type(error).__name__}: {error}"
            logger.error(text, throttle_duration_sec=_LOG_EVERY)
            return
        self.failure = error if isinstance(error, Exception) else None
        expected = isinstance(error, (CheckpointError, EngineError))
        name = "" if expected else f"{type(error).__name__}: "
        logger.fatal(f"{what} failed: {name}{error}")
        self.context.try_shutdown()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to end. Returns the exit code."""
    rclpy.init(args=list(args) if args is not None else None)
    node: TrackerNode | None = None
    try:
        node = TrackerNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ParameterError, ParameterException) as error:
        rclpy.logging.get_logger("tracker").fatal(str(error))
        return 1
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 1 if node is not None and node.failure else 0


if __name__ == "__main__":
    sys.exit(main())
