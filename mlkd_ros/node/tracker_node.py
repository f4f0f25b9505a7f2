# SPDX-License-Identifier: Apache-2.0
"""Executable `tracker`: follows targets through the images of a camera.

Two threads. The executor's takes images in (a view of the message, no copy), keeps them in the
history and hands the newest to the tracking thread, which tracks and publishes. Services wait for
the tracking thread without holding the executor up.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, cast

import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import (
    LifecycleNode,
    LifecyclePublisher,
    LifecycleState,
    TransitionCallbackReturn,
)
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.task import Future
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from mlkd_ros.imaging.camera import CAMERA_TOPIC
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.interrupt import leave_interrupts_to_rclpy
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node import messages
from mlkd_ros.node.diagnostics import (
    CLOCKS_DIFFER,
    EARLY,
    Phase,
    Snapshot,
    clocks_differ,
    diagnostic_statuses,
)
from mlkd_ros.node.extras import Extras
from mlkd_ros.node.help import take_no_arguments
from mlkd_ros.node.intake import Intake
from mlkd_ros.node.parameters import ParameterError, Parameters, described_parameters
from mlkd_ros.node.pointing import Mark, Pointing, designation, fitted
from mlkd_ros.node.start import USAGE, StartError, start_ros
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
from mlkd_ros.shared_memory import remove_abandoned_segments
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.tracking import (
    CheckpointError,
    EngineError,
    Tracker,
    choose_student,
    load_tracker,
)

__all__ = ["TrackerNode", "main"]

_DESCRIPTION = (
    "Follows targets through the images of a camera: subscribes to image, publishes detections, "
    "status and bearing, takes designations through init_target; all in namespace /mlkd unless "
    "-r __ns:=/other is given. Lifecycle node; docs/interface.md has the rest."
)

Transition = Callable[["TrackerNode", LifecycleState], TransitionCallbackReturn]

#: Seconds between two log lines about the same thing.
_LOG_EVERY = 5.0


def _told(transition: Transition) -> Transition:
    """rclpy makes an error of an exception in a transition, and keeps to itself which it was."""

    @wraps(transition)
    def told(node: TrackerNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            text = f"{transition.__name__}: {type(error).__name__}: {error}"
            node.get_logger().error(text)
            raise

    return told


class TrackerNode(LifecycleNode):
    """The tracker as a ROS node; `mlkd_ros.node.parameters` declares what can be set.

    A lifecycle node. configure loads the student, which keeps the executor for as long as that
    takes, and makes the publishers; a configure that fails leaves the node unconfigured, to be
    tried again with other parameters. activate subscribes to the images. deactivate ends that and
    keeps the targets: after the next activate they are searched for, from where they were. cleanup
    forgets everything. The services and /diagnostics are there from the beginning.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("tracker", **options)
        self._phase = Phase.UNCONFIGURED
        self._worker: TrackingWorker | None = None
        self._declared = Parameters(self, lambda: self._phase is not Phase.UNCONFIGURED, self._tune)
        self._fallback: CpuFallback | None = None
        #: File of the student that was loaded.
        self._flown: Path | None = None
        self._keeper: TargetKeeper | None = None
        self._intake = Intake(self, self._declared.settings)
        self._paused = False
        self._publishers_made: list[LifecyclePublisher[Any]] = []
        self._camera_settings: Publisher[String] | None = None
        self._logged_problems: set[str] = set()
        self._extras: Extras | None = None
        self._pointing: Pointing | None = None
        self._serve()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._on_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def autostart(self) -> bool:
        """Configure and activate, if parameter autostart says so; False if that failed."""
        if not self._declared.settings.autostart:
            return True
        steps = (self.trigger_configure, self.trigger_activate)
        if all(step() == TransitionCallbackReturn.SUCCESS for step in steps):
            return True
        if not self.context.ok():
            raise ExternalShutdownException  # told to end while it was loading: no failure
        self.get_logger().fatal(
            "the node ends, for it cannot start; with autostart:=false it would wait to be "
            "configured again"
        )
        return False

    def close(self) -> None:
        """Stop tracking and destroy the node."""
        if self._worker is not None:
            self._worker.stop()
        self.destroy_node()
        # rclpy leaves it alive, and with it the process's shared memory and its place in the graph.
        self._state_machine.destroy_when_not_in_use()

    # --- lifecycle ------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the student, make the publishers. FAILURE, and the log says why, if it cannot."""
        self._phase = Phase.CONFIGURING
        self._renew_intake()
        self._report()  # Nothing else is said while it loads.
        try:
            self._start_worker()
            self._advertise()
        except Exception as error:
            expected = isinstance(error, (CheckpointError, EngineError, ParameterError))
            name = "" if expected else f"{type(error).__name__}: "
            self.get_logger().error(f"configuring failed: {name}{error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._phase = Phase.INACTIVE
        return super().on_configure(state)

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images and publish about them."""
        worker = self._worker
        assert worker is not None  # It is configured.
        if self._paused:
            self._submit(TargetSet.look_for_all)
        self._intake.subscribe(worker.offer)
        if self._extras is not None and self._pointing is not None:
            self._extras.bearings.subscribe()
            self._pointing.subscribe(self._on_mark)
        self._phase = Phase.ACTIVE
        return super().on_activate(state)

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and fall silent; the targets are kept."""
        result = super().on_deactivate(state)
        self._intake.unsubscribe()
        self._unsubscribe_extras()
        if self._worker is not None:
            self._worker.withdraw()
        self._paused = True
        self._phase = Phase.INACTIVE
        return result

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the targets, release the student and the publishers."""
        self._release()
        self._forget_saved()
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same from any state, for good. The process goes on until it is ended."""
        self._release()
        self._forget_saved()
        self._phase = Phase.FINALIZED
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition that went wrong: unconfigured, and ready to be configured again."""
        self.get_logger().error(f"the transition from {state.label} failed: unconfigured now")
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _start_worker(self) -> None:
        """Load the student on the tracking thread and wait for it. Raises what went wrong."""
        settings = self._declared.settings
        self._fallback = CpuFallback(
            self._load_tracker, settings.device, settings.engine, self.get_logger().error
        )
        path = settings.resume_file or default_path(self.get_fully_qualified_name())
        self._keeper = TargetKeeper(Path(path), self.get_logger()) if settings.resume else None
        self._worker = TrackingWorker(
            self._load, self._publish, self._fallback.recover, self._failed
        )
        self._worker.start()
        while not self._worker.wait_loaded(0.2):
            if not self.context.ok():
                raise ExternalShutdownException()
        targets = self._worker.targets
        assert targets is not None  # It is loaded.
        self._declared.declare_presence(targets.presence)
        self._tune()

    def _tune(self) -> None:
        """Hand to the tracking thread what may change while it runs."""
        presence, budget = self._declared.presence, self._declared.settings.search_budget
        if presence is not None:
            self._submit(lambda targets: targets.tune(presence, budget))

    def _submit(self, command: Command) -> None:
        """A command that nobody waits for."""

        def done(_: Any, error: Exception | None) -> None:
            if error is not None and not isinstance(error, NotRunningError):
                self._failed("carrying out a command", error)

        if self._worker is not None:
            with contextlib.suppress(NotRunningError):
                self._worker.submit(command, done)

    def _unsubscribe_extras(self) -> None:
        if self._extras is not None:
            self._extras.bearings.unsubscribe()
        if self._pointing is not None:
            self._pointing.unsubscribe()

    def _renew_intake(self) -> None:
        """With the parameters as they are now, and nothing counted yet."""
        self._intake.close()
        self._intake = Intake(self, self._declared.settings)

    def _release(self) -> None:
        """Back to unconfigured, from wherever."""
        self._renew_intake()
        self._unsubscribe_extras()
        self._paused = False
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        self._fallback = self._flown = None
        self._declared.undeclare_presence()
        for publisher in self._publishers_made:
            self.destroy_lifecycle_publisher(publisher)
        self._publishers_made = []
        if self._camera_settings is not None:
            self.destroy_publisher(self._camera_settings)
            self._camera_settings = None
        self._extras = self._pointing = None
        self._phase = Phase.UNCONFIGURED

    def _forget_saved(self) -> None:
        if self._keeper is not None:
            self._keeper.forget()
            self._keeper = None

    # --- what the node offers -------------------------------------------------------------------

    def _serve(self) -> None:
        for kind, name, answer in (
            (InitTarget, "init_target", self._on_init_target),
            (StopTarget, "stop", self._on_stop),
        ):
            # A group each: a service that waits for the tracking thread must not keep images out.
            group = MutuallyExclusiveCallbackGroup()
            # rclpy types no coroutine, but runs them.
            self.create_service(kind, name, cast(Any, answer), callback_group=group)

    def _advertise(self) -> None:
        self._detections = self._publisher(Detection2DArray, "detections", 10)
        self._status = self._publisher(TrackStatus, "status", 10)
        settings = self._declared.settings
        self._extras = Extras(self, settings, self._intake.image_topic, self._publisher)
        self._pointing = Pointing(self, settings)
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._camera_settings = self.create_publisher(String, CAMERA_TOPIC, kept)
        self._camera_settings.publish(String(data=settings.camera.to_json()))

    def _publisher(self, kind: Any, name: str, depth: int) -> LifecyclePublisher[Any]:
        """One that is silent until the node is active, and gone after cleanup."""
        publisher = self.create_lifecycle_publisher(
            kind, name, depth, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._publishers_made.append(publisher)
        return publisher

    # --- executor thread ------------------------------------------------------------------------

    async def _on_init_target(
        self, request: InitTarget.Request, response: InitTarget.Response
    ) -> InitTarget.Response:
        designation = Designation(
            box=(request.x, request.y, request.width, request.height),
            stamp=messages.nanoseconds(request.stamp),
            image_size=(request.image_width, request.image_height),
            target_id=request.target_id,
            fit=request.fit,
        )
        try:
            self._check_active()
            designated = await self._on_tracking_thread(partial(self._designate, designation))
        except DesignationError as error:
            return self._refuse(response, error)
        response.code = int(Code.SUCCESS)
        response.target_id = designated.report.target_id
        response.stamp = designated.start.header.stamp
        response.box = [float(value) for value in designated.box]
        response.frames_caught_up = designated.frames_caught_up
        response.status = self._status_message(designated.newest, designated.report)
        response.message = self._outcome(designated)
        self.get_logger().info(response.message)
        return response

    def _on_mark(self, mark: Mark) -> None:
        """A click or a rectangle: nobody waits for an answer, so the log has it."""
        worker, pointing = self._worker, self._pointing
        if worker is None or pointing is None:
            return

        def done(designated: Designated | None, error: Exception | None) -> None:
            if designated is not None:
                pointing.conclude(mark, self._outcome(designated))
            elif isinstance(error, (DesignationError, NotRunningError)):
                pointing.refuse(mark, str(error))
            elif error is not None:
                pointing.refuse(mark, f"{type(error).__name__}: {error}")

        with contextlib.suppress(NotRunningError):
            worker.submit(partial(self._designate_mark, mark), done)

    @staticmethod
    def _outcome(designated: Designated) -> str:
        return (
            f"target {designated.report.target_id} designated, then followed through "
            f"{designated.frames_caught_up} images: {designated.report.result.state.name}"
        )

    def _refuse(
        self, response: InitTarget.Response, error: DesignationError
    ) -> InitTarget.Response:
        response.code, response.message = int(error.code), str(error)
        if error.code == Code.NO_IMAGE and self._intake.monitor.problem:
            response.code = int(Code.UNUSABLE_IMAGE)
            response.message = f"every image so far is unusable: {self._intake.monitor.problem}"
        self.get_logger().warning(
            f"init_target refused ({error.code.name}): {response.message}",
            throttle_duration_sec=1.0,
        )
        return response

    async def _on_stop(
        self, request: StopTarget.Request, response: StopTarget.Response
    ) -> StopTarget.Response:
        """In every state of the node: what is not followed need not be stopped."""
        try:
            names = await self._on_tracking_thread(partial(self._forget, request.target_id))
        except DesignationError as error:
            if error.code != Code.NOT_READY:
                response.code, response.message = StopTarget.Response.INTERNAL_ERROR, str(error)
                return response
            names = []
        if names:
            response.message = f"no longer following {', '.join(names)}"
        elif not request.target_id:
            response.message = "no target was being followed"
        else:
            response.code = StopTarget.Response.UNKNOWN_TARGET
            response.message = f"no target '{request.target_id}' is being followed"
        response.stopped = names
        self.get_logger().info(f"stop: {response.message}")
        return response

    def _check_active(self) -> None:
        """Raises DesignationError that says how to get there, unless the node is active."""
        if self._phase is Phase.ACTIVE:
            return
        command = f"ros2 lifecycle set {self.get_fully_qualified_name()}"
        todo = {
            Phase.UNCONFIGURED: f"{command} configure, then the same with activate",
            Phase.INACTIVE: f"{command} activate",
            Phase.FINALIZED: "start the process again",
        }.get(self._phase, "try again in a second")
        raise DesignationError(
            Code.NOT_READY, f"the tracker is {self._phase.value}, it has to be active: {todo}"
        )

    async def _on_tracking_thread(self, command: Command) -> Any:
        """The command's result, awaited. Raises DesignationError, for whatever went wrong."""
        executor, worker = self.executor, self._worker
        assert executor is not None  # It is running this.
        if worker is None:
            raise DesignationError(Code.NOT_READY, "the tracker is not configured")
        future: Future[tuple[Any, Exception | None]] = Future(executor=executor)

        def done(result: Any, error: Exception | None) -> None:
            future.set_result((result, error))
            # It looks at waiting callbacks only when something happens.
            executor.wake()

        try:
            worker.submit(command, done)
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

    def _on_second(self) -> None:
        monitor, active = self._intake.monitor, self._phase is Phase.ACTIVE
        silence, changed = monitor.silence(), None
        if active:  # Before the report: it must not say of a moment earlier that all is well.
            changed = monitor.silence_changed(self._declared.settings.silence_timeout)
        snapshot, images = self._report()
        if not active:
            return
        if changed:
            brief = f"no image for {silence:.1f} s on {self._intake.topic}"
            self.get_logger().error(images.message if snapshot.silent else brief)
        elif changed is False:
            self.get_logger().info(f"images on {self._intake.topic} again")
        problems = {snapshot.qos_problem, snapshot.type_problem, snapshot.mark_problem} - {""}
        for problem in sorted(problems - self._logged_problems):
            self.get_logger().error(problem)
        self._logged_problems = problems
        if self._extras is not None:
            self._extras.bearings.look()

    def _report(self) -> tuple[Snapshot, DiagnosticStatus]:
        """Publish the diagnostics; what they were made of, and the one about the images."""
        snapshot = self._snapshot()
        message = DiagnosticArray(
            status=diagnostic_statuses(self.get_fully_qualified_name(), snapshot)
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
        return snapshot, message.status[0]

    def _snapshot(self) -> Snapshot:
        settings, worker = self._declared.settings, self._worker
        monitor, history = self._intake.monitor, self._intake.history
        targets = worker.targets if worker else None
        input_rate, output_rate = monitor.rates()
        return Snapshot(
            phase=self._phase,
            topic=self._intake.topic,
            silent=monitor.silence() > settings.silence_timeout,
            silence=monitor.silence(),
            publishers=self.count_publishers(self._intake.topic),
            received=monitor.received,
            input_rate=input_rate,
            output_rate=output_rate,
            problem=monitor.problem,
            unusable=Counter(monitor.unusable),
            qos_problem=self._intake.qos_problem(),
            engine=targets.engine_name if targets else "",
            device=targets.device if targets else "",
            fallback=self._fallback.reason if self._fallback else "",
            processed=worker.processed if worker else 0,
            dropped=Counter(worker.dropped) if worker else Counter(),
            latency=monitor.latency(),
            states=targets.states if targets else {},
            history=f"{len(history)} images, {history.seconds:.1f} s, "
            f"{history.nbytes / 2**20:.0f} MiB",
            clock_missing=self._clock_missing(),
            health=self._extras.health if self._extras else None,
            bearing_problem=self._extras.bearings.problem if self._extras else "",
            bearing=self._extras.bearings.values() if self._extras else {},
            designated=self._pointing.values() if self._pointing else {},
            clock_offset=monitor.clock_offset,
            stamp_problem=self._intake.stamp_problem(),
            type_problem=self._extras.bearings.type_problem() if self._extras else "",
            mark_problem=self._pointing.type_problem() if self._pointing else "",
            extra={"images are": self._intake.kind, **self._intake.stamp_values()},
        )

    # --- tracking thread ------------------------------------------------------------------------

    def _load(self) -> TargetSet:
        settings, fallback = self._declared.settings, self._fallback
        assert fallback is not None  # Made before this thread was started.
        # Read first: how old it is counts from when it was saved to now, not to after loading.
        saved = self._keeper.read(settings.resume_within) if self._keeper else None
        # OpenCV's own threads would compete with the network's for a crop's worth of work.
        cv2.setNumThreads(settings.threads)
        targets = TargetSet(fallback.load(), settings.max_targets)
        if saved is not None and self._keeper is not None:
            self._keeper.restore(targets, saved)
        self.get_logger().info(f"ready: {targets.engine_name}, {self._flown}")
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

    def _designate(self, designation: Designation, targets: TargetSet) -> Designated:
        worker, fallback = self._worker, self._fallback
        assert worker is not None and fallback is not None  # They run this.
        settings, history = self._declared.settings, self._intake.history
        duration = settings.catch_up_duration
        if designation.fit:
            designation = fitted(designation, targets, history, settings.click_size)
        try:
            designated = targets.designate(designation, history, duration)
        except DesignationError as error:
            failed = error.code == Code.INTERNAL_ERROR
            if not failed or not fallback.recover(targets, error.__cause__):
                raise
            designated = targets.designate(designation, history, duration)
        if self._keeper is not None:
            self._keeper.save(targets)
        worker.caught_up(targets, designated.newest, designated.report)
        return designated

    def _designate_mark(self, mark: Mark, targets: TargetSet) -> Designated:
        asked = designation(mark, targets, self._intake.history, self._declared.settings)
        return self._designate(asked, targets)

    def _publish(self, held: HeldFrame, reports: list[TargetReport]) -> None:
        try:
            settings = self._declared.settings
            self._detections.publish(messages.detections(held.header, reports, settings.class_id))
            latency = self._latency(held)
            for report in cast("list[TargetReport | None]", reports) or [None]:
                self._status.publish(self._status_message(held, report, latency))
            self._intake.monitor.published(latency)
            if self._extras is not None:
                self._extras.publish(held, reports, latency, settings)
            targets = self._worker.targets if self._worker else None
            if self._keeper is not None and self._keeper.due and targets is not None:
                self._keeper.save(targets)
        except Exception:
            # The context goes away under this thread when the node is told to end.
            if self.context.ok():
                raise

    def _status_message(
        self, held: HeldFrame, report: TargetReport | None, latency: float | None = None
    ) -> TrackStatus:
        monitor, worker = self._intake.monitor, self._worker
        counts = messages.Counts(
            received=monitor.received,
            processed=worker.processed if worker else 0,
            dropped=(worker.dropped.total() if worker else 0) + monitor.unusable.total(),
        )
        return messages.status(
            held.header,
            report,
            (held.frame.width, held.frame.height),
            counts,
            self._latency(held) if latency is None else latency,
        )

    def _latency(self, held: HeldFrame) -> float:
        """Seconds from the image's stamp to now; NaN when that cannot be known.

        So it is while sim time has not begun, or has begun again since the image arrived, and while
        the stamps are none, stand still, or are of another clock.
        """
        if held.number <= self._intake.monitor.of_another_time or self._clock_missing():
            return math.nan
        if held.stamp is None or held.finding:
            return math.nan
        latency = (self.get_clock().now().nanoseconds - held.stamp) * 1e-9
        differ = not EARLY <= latency <= CLOCKS_DIFFER
        self._intake.monitor.clock_offset = latency if differ else math.nan
        if differ:
            self.get_logger().warning(clocks_differ(self._intake.topic, latency), once=True)
            return math.nan
        return latency

    def _clock_missing(self) -> bool:
        """Whether sim time is to be used and there is none yet."""
        clock = cast(ROSClock, self.get_clock())
        return bool(clock.ros_time_is_active) and clock.now().nanoseconds == 0

    def _failed(self, what: str, error: BaseException) -> None:
        """Log what went wrong."""
        logger = self.get_logger()
        if isinstance(error, UnusableImageError):
            self._intake.monitor.problem = str(error)  # Found out late, when it was decoded.
            logger.warning(f"{what}: {error}", throttle_duration_sec=_LOG_EVERY)
            return
        text = f"{what}: {type(error).__name__}: {error}"
        logger.error(text, throttle_duration_sec=_LOG_EVERY)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to end. Returns the exit code."""
    take_no_arguments("tracker", _DESCRIPTION, described_parameters(), args)
    leave_interrupts_to_rclpy()
    remove_abandoned_segments()  # of a tracker before this one that was killed
    node: TrackerNode | None = None
    try:
        start_ros(args, "tracker")
        node = TrackerNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if not node.autostart():
            return 1
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (StartError, ParameterError, ParameterException) as error:
        print(f"tracker: {error}", file=sys.stderr)
        return USAGE
    except Exception:
        # Told to end while it took a message: rclpy finds its context gone in the middle of it.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
