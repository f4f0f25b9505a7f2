# SPDX-License-Identifier: Apache-2.0
"""The interface reference, made from the declarations: what a running node has, and nothing else.

    python -m mlkd_ros.node.reference > docs/interface.md

Parameters come from `mlkd_ros.node.parameters`, topics and services from a node that is configured
and activated for it, messages from the installed definitions. A test keeps docs/interface.md equal.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import QoSProfile

from mlkd_ros.node.parameters import PRESENCE, Change, Settings
from mlkd_ros.node.tracker_node import TrackerNode
from mlkd_ros.share import share_directory

__all__ = ["main", "reference"]

_NAMESPACE = "mlkd"
#: What a topic or service is for; its type and QoS are asked of the node.
_PURPOSE = {
    "image": "The camera. Parameters `image_topic`, `image_transport`, `reliability`.",
    "camera_info": "Calibration, for `bearing`. Parameter `camera_info_topic`.",
    "operator_view": "What operators look at, late as their video is: those images are kept for "
    "designations on them. Published by a ground station.",
    "detections": "One message for every processed image, with its header; empty while there is no "
    "target in sight. `id` is stable, `score` is the calibrated confidence.",
    "status": "State, confidence, box, latency and counts, for every target and processed image.",
    "bearing": "Direction to every target with a box, while the camera's calibration is known.",
    "overlay": "Annotated picture. Made only while somebody subscribes.",
    "overlay/compressed": "The same as JPEG. Parameter `overlay_video` adds one as H.264.",
    "camera_settings": "How the camera's stored values become pictures, as JSON, for recorders and "
    "viewers. Kept for those who come late.",
    "/diagnostics": "How the node is doing, once a second, in every lifecycle state.",
    "init_target": "Start to follow what an operator marked.",
    "stop": "Stop following one target, or all.",
}
#: Of every ROS node, or of every lifecycle node.
_STANDARD = ("/parameter_events", "/rosout", "/clock")
_STANDARD_PACKAGES = ("rcl_interfaces", "lifecycle_msgs", "type_description_interfaces")

_HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
# Interface reference

Made from the code by `python -m mlkd_ros.node.reference > docs/interface.md`; do not edit.

Names without a leading slash are relative to the node's namespace, `/mlkd` by default. Pixels: x to
the right, y down, (0, 0) is the outer top-left corner of the top-left pixel of the camera image.
"""
_WHEN = {
    Change.ANY_TIME: "any time",
    Change.UNCONFIGURED: "while unconfigured",
    Change.AT_START: "at start",
}


def reference() -> str:
    """The whole page, Markdown."""
    parts = [_HEAD, _parameters(), *_endpoints(), *_definitions()]
    return "\n".join(parts)


def _parameters() -> str:
    lines = [
        "## Parameters of the tracker",
        "",
        "Where one can be set: *any time*, with `ros2 param set`, validated first and then applied "
        "as a whole; *while unconfigured*, before `ros2 lifecycle set /mlkd/tracker configure` or "
        "in a parameter file; *at start*, in a parameter file or on the command line only.",
        "",
        "| name | default | values | can be set | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for field in dataclasses.fields(Settings):
        meta = field.metadata
        cells = (
            f"`{field.name}`",
            f"`{_literal(field.default)}`",
            _values(field),
            _WHEN[meta["change"]],
            meta["description"],
        )
        lines.append(_row(cells))
    for name, threshold in PRESENCE.items():
        span = f"0 to {threshold.high:g}"
        default = "the student's"
        cells = (f"`presence.{name}`", default, span, "while configured", threshold.description)
        lines.append(_row(cells))
    tail = (
        "The thresholds of presence are calibrated with the student. They are there while the node "
        "is configured, and lost_below <= uncertain_below <= tracking_above: set several of them "
        "together, or give them in a parameter file."
    )
    return "\n".join([*lines, "", tail, ""])


def _values(field: dataclasses.Field[Any]) -> str:
    meta = field.metadata
    if meta["choices"]:
        return ", ".join(f"`{choice}`" for choice in meta["choices"])
    if meta["low"] is not None:
        return f"{meta['low']:g} to {meta['high']:g}"
    return {bool: "true, false", str: "text"}.get(type(field.default), "number")


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _endpoints() -> list[str]:
    """Tables of what the node subscribes to, publishes and serves."""
    context = rclpy.Context()
    rclpy.init(context=context, args=["--ros-args", "--log-level", "fatal"])
    node = TrackerNode(context=context, namespace=_NAMESPACE)
    try:
        for step in (node.trigger_configure, node.trigger_activate):
            if step() != TransitionCallbackReturn.SUCCESS:
                raise RuntimeError("the tracker cannot be configured here; its log says why")
        topics = {
            "Subscriptions": [
                (s.topic_name, s.msg_type, s.qos_profile) for s in node.subscriptions
            ],
            "Publications": [(p.topic_name, p.msg_type, p.qos_profile) for p in node.publishers],
        }
        services = [(s.srv_name, s.srv_type) for s in node.services]
        parts = [_topics(title, found) for title, found in topics.items()]
        return [*parts, _services(services)]
    finally:
        node.close()
        context.try_shutdown()


def _topics(title: str, found: list[tuple[str, Any, QoSProfile]]) -> str:
    lines = [f"## {title}", "", "| topic | type | QoS | |", "| --- | --- | --- | --- |"]
    for topic, kind, qos in sorted(found, key=lambda one: one[0]):
        if topic not in _STANDARD:
            name = _relative(topic)
            quality = f"{_word(qos.reliability)}, {_word(qos.durability)}, depth {qos.depth}"
            lines.append(_row((f"`{name}`", f"`{_type(kind)}`", quality, _purpose(name))))
    tail = (
        "QoS of the image topic is overridable: `qos_overrides.<topic>.subscription.*`. Parameters "
        "`point_topic`, `mouse_topic` and `rectangle_topic` add subscriptions."
    )
    if title == "Publications":
        tail = (
            "Overridable, but for `/diagnostics`: `qos_overrides.<topic>.publisher.*`. Beside "
            "them, as of every lifecycle node: `~/transition_event`."
        )
    return "\n".join([*lines, "", tail, ""])


def _services(found: list[tuple[str, Any]]) -> str:
    lines = ["## Services", "", "| service | type | |", "| --- | --- | --- |"]
    for service, kind in sorted(found):
        if kind.__module__.split(".")[0] not in _STANDARD_PACKAGES:
            name = _relative(service)
            lines.append(_row((f"`{name}`", f"`{_type(kind)}`", _purpose(name))))
    tail = (
        "Beside them, as of every lifecycle node: `~/change_state`, `~/get_state`, "
        "`~/get_available_states`, `~/get_available_transitions`, `~/get_transition_graph`, and "
        "the services of parameters."
    )
    return "\n".join([*lines, "", tail, ""])


def _relative(name: str) -> str:
    return name.removeprefix(f"/{_NAMESPACE}/")


def _purpose(name: str) -> str:
    if name not in _PURPOSE:
        raise RuntimeError(f"say in _PURPOSE of {__name__} what '{name}' is for")
    return _PURPOSE[name]


def _type(kind: type) -> str:
    package, folder = kind.__module__.split(".")[:2]
    return f"{package}/{folder}/{kind.__name__}"


def _word(policy: Any) -> str:
    return str(policy.name).lower().replace("_", " ")


def _definitions() -> Iterator[str]:
    """The messages and services of this package, as they are defined."""
    for folder in ("msg", "srv"):
        for path in sorted((share_directory() / folder).glob(f"*.{folder}")):
            yield f"## {folder}/{path.stem}\n\n```text\n{_without_licence(path)}```\n"


def _without_licence(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if "SPDX-License-Identifier" not in line)


def main() -> int:
    """Print the reference. Returns the exit code."""
    print(reference(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
