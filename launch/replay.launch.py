# SPDX-License-Identifier: Apache-2.0
"""A recording in place of the camera, the tracker, and if wanted a new recording and its score.

    ros2 launch mlkd_ros replay.launch.py input:=demo/bag init:=ground_truth record:=out score:=true

Without a recording of what comes out, the tracker stays when the input is over. With `ros2 bag
play` instead of ours leave `input` empty:

    ros2 launch mlkd_ros replay.launch.py use_sim_time:=true image_topic:=/camera/image_raw
    ros2 bag play flight --clock
"""

import signal
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ProcessExited, SignalProcess
from launch_ros.actions import Node

from mlkd_ros import launching
from mlkd_ros.share import fastdds_environment, share_directory

ARGUMENTS = (
    launching.argument(
        "input",
        "What to play: a video file, a folder of images, or a rosbag2 bag, with which go its "
        "ground_truth and camera_info. Empty: nothing; play it yourself, with `ros2 bag play "
        "--clock` and use_sim_time:=true.",
    ),
    launching.argument("bag_topic", "Image topic in the bag. Empty: the only one it has."),
    launching.argument("rate", "2.0 plays twice as fast.", "1.0"),
    launching.argument("loop", "Begin again at the end.", "false", launching.BOOLEAN),
    launching.argument(
        "init",
        "Target to designate on the first image: X,Y,W,H in pixels, or ground_truth for the first "
        "target of the bag's. Empty: none; call the service init_target.",
    ),
    launching.RECORD,
    launching.argument(
        "score",
        "When the input is over, score the recording with `mlkd score`, print the table and end. "
        "Needs input and record.",
        "false",
        launching.BOOLEAN,
    ),
)
#: Seconds for the last answers to reach the recorder.
LAST_ANSWERS = 1.0


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription([*ARGUMENTS, *launching.COMMON, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Action]:
    """Tracker, recorder and player; they agree on topic and clock."""
    given = context.launch_configurations
    score = launching.is_true(given["score"])
    if score and not (given["input"] and given["record"]):
        raise RuntimeError("score:=true needs input:=..., to know its end, and record:=...")
    if score and launching.is_true(given["loop"]):
        raise RuntimeError("score:=true waits for the end of the input, which loop:=true has not")
    if score and (given["record"].endswith("/") or Path(given["record"]).exists()):
        raise RuntimeError(f"score:=true needs a new bag, and record:={given['record']} is not")
    actions: list[Action] = [launching.tracker(given)]
    recorder = launching.recorder(given) if given["record"] else None
    if recorder is not None:
        actions.append(recorder)
    if given["input"]:
        player = replay(given)
        actions.append(player)
        actions.append(RegisterEventHandler(OnProcessExit(target_action=player, on_exit=failed)))
        if recorder is not None:
            actions += endings(given, player, recorder, score)
    return actions


def failed(event: ProcessExited, context: LaunchContext) -> list[Action]:
    """Without anything to play there is nothing to wait for."""
    over = Shutdown(reason="the input could not be played, see above")
    return [over] if event.returncode else []


def replay(given: dict[str, str]) -> Node:
    """The node that plays, once tracker and recorder listen."""
    listeners = "2" if given["record"] else "1"
    options = [given["input"], "--rate", given["rate"], "--wait", "60", "--subscribers", listeners]
    for name in ("bag_topic", "init"):
        if given[name]:
            options.append(f"--{name.replace('_', '-')}={given[name]}")
    if launching.is_true(given["loop"]):
        options += ["--loop"]
    if launching.is_true(given["use_sim_time"]):
        options += ["--clock"]
    return Node(
        package="mlkd_ros",
        executable="replay",
        namespace=given["namespace"],
        arguments=options,
        remappings=launching.image_remappings(given),
        ros_arguments=["--log-level", given["log_level"]],
        additional_env=fastdds_environment(),
        output="screen",
    )


def endings(
    given: dict[str, str], player: Node, recorder: Node, score: bool
) -> list[RegisterEventHandler]:
    """The player's end is the recorder's, and what follows on that."""
    interrupt = SignalProcess(signal_number=signal.SIGINT, process_matcher=matches_action(recorder))
    finish = TimerAction(period=LAST_ANSWERS, actions=[EmitEvent(event=interrupt)])
    handlers = [RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[finish]))]
    if score:
        # Not a Node: it takes no ROS arguments.
        mlkd = share_directory().parents[1] / "lib" / "mlkd_ros" / "mlkd"
        table = ExecuteProcess(cmd=[str(mlkd), "score", given["record"]], output="screen")
        over = Shutdown(reason="the recording is scored")
        handlers += [
            RegisterEventHandler(OnProcessExit(target_action=recorder, on_exit=[table])),
            RegisterEventHandler(OnProcessExit(target_action=table, on_exit=[over])),
        ]
    return handlers
