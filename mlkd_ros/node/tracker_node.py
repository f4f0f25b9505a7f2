# SPDX-License-Identifier: Apache-2.0
"""Executable `tracker`: follows targets through the images of a camera.

Two threads. The executor's takes images in (a view of the message, no copy), keeps them in the
history and hands the newest to the tracking thread, which tracks and publishes. Services wait for
the tracking thread without holding the executor up.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, cast

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import (
    LifecycleNode,
    LifecycleState,
    TransitionCallbackReturn,
)

from mlkd_ros.node import messages
from mlkd_ros.node.diagnostics import (
    Phase,
    Snapshot,
    diagnostic_statuses,
)
from mlkd_ros.node.help import take_no_arguments
from mlkd_ros.node.intake import Intake
from mlkd_ros.node.parameters import ParameterError, Parameters, described_parameters
from mlkd_ros.node.start import run_node
from mlkd_ros.node.tracking_session import TrackingSession
from mlkd_ros.session.targets import (
    Code,
    Designation,
    DesignationError,
)
from mlkd_ros.shared_memory import remove_abandoned_segments
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.tracking import (
    CheckpointError,
    EngineError,
)

__all__ = ["TrackerNode", "main"]

_DESCRIPTION = (
    "Follows targets through the images of a camera: subscribes to image, publishes detections, "
    "status and bearing, takes designations through init_target; all in namespace /mlkd unless "
    "-r __ns:=/other is given. Lifecycle node; docs/interface.md has the rest."
)

Transition = Callable[["TrackerNode", LifecycleState], TransitionCallbackReturn]


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
        #: From configure to cleanup.
        self._session: TrackingSession | None = None
        self._declared = Parameters(self, lambda: self._phase is not Phase.UNCONFIGURED, self._tune)
        self._intake = Intake(self, self._declared.settings)
        self._logged_problems: set[str] = set()
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
        if self._session is not None:
            self._session.stop()
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
            self._session = TrackingSession(self, self._declared, self._intake)
            self._session.load()
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
        assert self._session is not None  # It is configured.
        self._session.activate()
        self._phase = Phase.ACTIVE
        return super().on_activate(state)

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and fall silent; the targets are kept."""
        result = super().on_deactivate(state)
        assert self._session is not None  # It is active.
        self._session.deactivate()
        self._phase = Phase.INACTIVE
        return result

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the targets, release the student and the publishers."""
        self._release(forget=True)
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same from any state, for good. The process goes on until it is ended."""
        self._release(forget=True)
        self._phase = Phase.FINALIZED
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition that went wrong: unconfigured, and ready to be configured again."""
        self.get_logger().error(f"the transition from {state.label} failed: unconfigured now")
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _tune(self) -> None:
        if self._session is not None:
            self._session.tune()

    def _renew_intake(self) -> None:
        """With the parameters as they are now, and nothing counted yet."""
        self._intake.close()
        self._intake = Intake(self, self._declared.settings)

    def _release(self, *, forget: bool = False) -> None:
        """Back to unconfigured, from wherever; `forget`: what was saved to be resumed, too."""
        self._renew_intake()
        session, self._session = self._session, None
        if session is not None:
            session.close(forget=forget)
        self._phase = Phase.UNCONFIGURED

    # --- services -------------------------------------------------------------------------------

    def _serve(self) -> None:
        for kind, name, answer in (
            (InitTarget, "init_target", self._on_init_target),
            (StopTarget, "stop", self._on_stop),
        ):
            # A group each: a service that waits for the tracking thread must not keep images out.
            group = MutuallyExclusiveCallbackGroup()
            # rclpy types no coroutine, but runs them.
            self.create_service(kind, name, cast(Any, answer), callback_group=group)

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
            session = self._active_session()
            designated = await session.designate(designation)
        except DesignationError as error:
            return self._refuse(response, error)
        response.code = int(Code.SUCCESS)
        response.target_id = designated.report.target_id
        response.stamp = designated.start.header.stamp
        response.box = [float(value) for value in designated.box]
        response.frames_caught_up = designated.frames_caught_up
        response.status = session.status_message(designated.newest, designated.report)
        response.message = designated.outcome
        self.get_logger().info(response.message)
        return response

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
            names = await self._session.forget(request.target_id) if self._session else []
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

    def _active_session(self) -> TrackingSession:
        """Raises DesignationError that says how to get there, unless the node is active."""
        if self._phase is Phase.ACTIVE and self._session is not None:
            return self._session
        command = f"ros2 lifecycle set {self.get_fully_qualified_name()}"
        todo = {
            Phase.UNCONFIGURED: f"{command} configure, then the same with activate",
            Phase.INACTIVE: f"{command} activate",
            Phase.FINALIZED: "start the process again",
        }.get(self._phase, "try again in a second")
        raise DesignationError(
            Code.NOT_READY, f"the tracker is {self._phase.value}, it has to be active: {todo}"
        )

    # --- diagnostics ----------------------------------------------------------------------------

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
        if self._session is not None:
            self._session.look()

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
        intake, monitor, history = self._intake, self._intake.monitor, self._intake.history
        silence, (input_rate, output_rate) = monitor.silence(), monitor.rates()
        return Snapshot(
            phase=self._phase,
            topic=intake.topic,
            silent=silence > self._declared.settings.silence_timeout,
            silence=silence,
            publishers=self.count_publishers(intake.topic),
            received=monitor.received,
            input_rate=input_rate,
            output_rate=output_rate,
            problem=monitor.problem,
            unusable=Counter(monitor.unusable),
            qos_problem=intake.qos_problem(),
            latency=monitor.latency(),
            history=f"{len(history)} images, {history.seconds:.1f} s, "
            f"{history.nbytes / 2**20:.0f} MiB",
            clock_missing=intake.clock_missing(),
            clock_offset=monitor.clock_offset,
            stamp_problem=intake.stamp_problem(),
            extra={"images are": intake.kind, **intake.stamp_values()},
            **(self._session.values() if self._session is not None else {}),
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to end. Returns the exit code."""
    take_no_arguments("tracker", _DESCRIPTION, described_parameters(), args)
    remove_abandoned_segments()  # of a tracker before this one that was killed
    return run_node("tracker", args, _fly, usage=(ParameterError,))


def _fly() -> int:
    node = TrackerNode()
    try:
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if not node.autostart():
            return 1
        executor.spin()
        return 0
    finally:
        node.close()


if __name__ == "__main__":
    sys.exit(main())
