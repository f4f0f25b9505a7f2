# SPDX-License-Identifier: Apache-2.0
"""The tracker in flight: with its camera if wanted, started again when it dies, recorded.

ros2 launch mlkd_ros onboard.launch.py image_topic:=/camera/image_raw record:=/data/flights/
"""

from typing import Any

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessStarted
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from mlkd_ros import launching
from mlkd_ros.node.bearings import sibling_topic
from mlkd_ros.share import fastdds_environment

#: Seconds after which the tracker is asked again to configure itself: when it was started for the
#: first time, and when it was started again, where the first request often goes to the one that is
#: gone. (One request too many is refused; the log says so.)
RETRY, RETRY_AGAIN = 10.0, 4.0
#: Drivers of others that `camera` can name: package, executable.
CAMERAS = {
    "v4l2": ("v4l2_camera", "v4l2_camera_node"),
    "usb_cam": ("usb_cam", "usb_cam_node_exe"),
}
#: That of this package.
STREAM = "stream"
#: Parameters of the tracker that are worth an argument in flight.
PARAMETERS = (
    "image_transport",
    "camera_info_topic",
    "reliability",
    "engine",
    "threads",
    "max_targets",
    "resume",
)
ARGUMENTS = (
    launching.argument(
        "camera",
        "Camera driver to start too, in the same namespace. v4l2: package v4l2_camera, for MIPI "
        "and USB cameras. usb_cam: package usb_cam. stream: executable camera of this package, for "
        "the video at url. none: the camera is there already, on image_topic.",
        "none",
        ["none", STREAM, *CAMERAS],
    ),
    launching.argument(
        "url",
        "With camera:=stream: where the video is: rtsp://HOST:PORT/PATH, udp://ADDRESS:PORT "
        "(MPEG-TS), a V4L2 device, or a file. Needs the extra `video`.",
    ),
    launching.argument(
        "camera_params_file",
        "Parameters of that driver (YAML): device, size, rate, exposure; of camera:=stream: "
        "calibration_file and what else executable camera has. Empty: the driver's own.",
    ),
    *map(launching.parameter_argument, PARAMETERS),
    launching.argument(
        "respawn", "Start the tracker again when it dies.", "true", launching.BOOLEAN
    ),
    launching.argument("respawn_delay", "Seconds until then.", "0.5"),
    launching.argument(
        "manage_lifecycle",
        "true: this launch configures and activates the tracker, and says so if it cannot. false: "
        "the tracker does that itself at its start (its parameter autostart).",
        "false",
        launching.BOOLEAN,
    ),
    launching.argument(
        "prefix",
        "What the tracker is run with, for its priority and its core: `nice -n -10`, `chrt -f 20`, "
        "`taskset -c 3`, or several of them. The first two need the right to do so.",
    ),
    launching.RECORD,
    *launching.MAVLINK,
)


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription([*ARGUMENTS, *launching.COMMON, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Action]:
    """Driver, tracker, recorder, and who keeps them going."""
    given = context.launch_configurations
    actions: list[Action] = []
    if (given["camera"] == STREAM) != bool(given["url"]):
        raise RuntimeError("camera:=stream needs url:=..., and url:=... needs camera:=stream")
    if given["camera"] != "none":
        actions.append(camera(given))
    actions += launching.beside(given)
    managed = launching.is_true(given["manage_lifecycle"])
    tracker = launching.tracker(
        given,
        LifecycleNode if managed else Node,
        overrides={"autostart": False} if managed else {},
        prefix=given["prefix"] or None,
        respawn=launching.is_true(given["respawn"]),
        respawn_delay=launching.typed("respawn_delay", given["respawn_delay"], 0.0),
    )
    if managed:
        actions += lifecycle(tracker)
    actions.append(tracker)
    if given["record"]:
        transport = given["image_transport"]
        how = ["--transport", transport] if transport else []
        actions.append(launching.recorder(given, *how))
    return actions


def camera(given: dict[str, str]) -> Node:
    """The driver. Unless told otherwise, the tracker takes the images where it publishes them."""
    parameters: list[Any] = [given["camera_params_file"]] if given["camera_params_file"] else []
    if given["camera"] == STREAM:
        package, executable = "mlkd_ros", "camera"
        topic = "image"
        parameters.append({"url": given["url"]})
    else:
        package, executable = CAMERAS[given["camera"]]
        launching.require_package(package, f"camera:={given['camera']}")
        topic = "image_raw"
    given["image_topic"] = given["image_topic"] or topic
    remappings = [(topic, given["image_topic"])]
    if given["camera"] == STREAM:  # others' drivers put it beside their images by themselves
        remappings.append(("camera_info", sibling_topic(given["image_topic"])))
    return Node(
        package=package,
        executable=executable,
        name="camera",
        namespace=given["namespace"],
        parameters=parameters,
        remappings=remappings,
        additional_env=fastdds_environment(),
        respawn=launching.is_true(given["respawn"]),
        respawn_delay=launching.typed("respawn_delay", given["respawn_delay"], 0.0),
        output="screen",
    )


def lifecycle(tracker: LifecycleNode) -> list[RegisterEventHandler]:
    """Configures and activates it, also when it was started again."""
    answered = False
    retry = RETRY

    def change(transition: int) -> EmitEvent:
        matches = matches_action(tracker)
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matches, transition_id=transition)
        )

    def started(event: ProcessStarted, context: LaunchContext) -> list[Action]:
        nonlocal answered, retry
        answered = False
        asking = configure(context)
        retry = RETRY_AGAIN
        return asking

    def configure(context: LaunchContext) -> list[Action]:
        # The request may go to the process that was killed: DDS takes a while to miss it.
        if answered:
            return []
        again = TimerAction(period=retry, actions=[OpaqueFunction(function=configure)])
        return [change(Transition.TRANSITION_CONFIGURE), again]

    def configuring(context: LaunchContext) -> None:
        nonlocal answered
        answered = True

    def on(start: str, goal: str, then: Action) -> RegisterEventHandler:
        return RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=tracker, start_state=start, goal_state=goal, entities=[then]
            )
        )

    failed = "the tracker could not be configured: see its log above, then `ros2 lifecycle set`"
    return [
        RegisterEventHandler(OnProcessStart(target_action=tracker, on_start=started)),
        on("unconfigured", "configuring", OpaqueFunction(function=configuring)),
        on("configuring", "inactive", change(Transition.TRANSITION_ACTIVATE)),
        on("configuring", "unconfigured", LogInfo(msg=failed)),
    ]
