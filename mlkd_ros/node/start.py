# SPDX-License-Identifier: Apache-2.0
"""How an executable of this package starts: what cannot be right is said in a line, with exit
code 2, before anything flies.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from rclpy.validate_topic_name import validate_topic_name

from mlkd_ros.files import printable
from mlkd_ros.interrupt import leave_interrupts_to_rclpy

if TYPE_CHECKING:
    from rclpy.node import Node

__all__ = [
    "USAGE",
    "StartError",
    "check_topic",
    "own_arguments",
    "run_node",
    "start_ros",
    "warn_of_unknown",
]

#: Exit code for what the user can mend.
USAGE = 2
#: Domains whose ports exist; DDS adds 250 ports a domain to 7400.
_LAST_DOMAIN = 232
#: Parameters that every node has without declaring them here.
_EVERY_NODE = re.compile(r"qos_overrides\.|use_sim_time$|start_type_description_service$")


class StartError(ValueError):
    """The process cannot start like this; the message says why, and what would be right."""


def run_node(
    name: str,
    args: Sequence[str] | None,
    fly: Callable[[], int],
    usage: tuple[type[Exception], ...] = (ValueError,),
) -> int:
    """Start ROS, `fly`, and end: how every executable with a node runs. Returns its exit code.

    name: of the executable and its node. args: as given to `main`. fly: makes the node, runs and
    destroys it; returns the exit code. usage: errors that, beside StartError and
    ParameterException, the user can mend: a line on stderr, and exit code `USAGE`.
    """
    mendable: tuple[type[Exception], ...] = (StartError, ParameterException, *usage)
    leave_interrupts_to_rclpy()
    try:
        start_ros(args, name)
        return fly()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except mendable as error:
        print(f"{name}: {error}", file=sys.stderr)
        return USAGE
    except Exception:
        # Told to end while it took a message: rclpy finds its context gone in the middle of it.
        if rclpy.ok():
            raise
        return 0
    finally:
        rclpy.try_shutdown()


def start_ros(
    args: Sequence[str] | None, node_name: str, namespace: str = "mlkd", **options: Any
) -> None:
    """`rclpy.init`, after a look at what it would fail on, or pass over in silence.

    args: as of `rclpy.init`. node_name, namespace: of the node that will be made, unless the
    arguments say otherwise; a parameter file has to be about it. Raises StartError.
    """
    given = list(args) if args is not None else None
    _check(_arguments(given), node_name, namespace)
    try:
        rclpy.init(args=list(map(_passable, _arguments(given))), **options)
    except Exception as error:
        raise StartError(_reworded(str(error))) from error


def own_arguments(args: list[str], node_name: str, namespace: str = "mlkd") -> list[str]:
    """The arguments of an executable without its name and what is for ROS.

    args: as of the process. node_name, namespace: as of `start_ros`. Raises StartError.
    """
    _check(args, node_name, namespace)
    shown = {_passable(one): one for one in args}
    try:
        return [shown[one] for one in remove_ros_args(list(map(_passable, args)))[1:]]
    except Exception as error:
        raise StartError(_reworded(str(error))) from error


def _passable(argument: str) -> str:
    """An argument that ROS can take: names of files may be anything, ROS wants UTF-8. What is for
    ROS and is not is refused by it then, and the rest it passes over.
    """
    return printable(argument)


def _check(arguments: list[str], node_name: str, namespace: str) -> None:
    _check_domain()
    name = _node_name(arguments, node_name, namespace)
    for file in _parameter_files(arguments):
        _check_file(file, name)


def _arguments(args: list[str] | None) -> list[str]:
    return sys.argv if args is None else args


def _check_domain() -> None:
    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if domain and not (
        domain.strip().isascii() and domain.strip().isdigit() and int(domain) <= _LAST_DOMAIN
    ):
        raise StartError(
            f"environment variable ROS_DOMAIN_ID is '{domain}', it must be a number from 0 to "
            f"{_LAST_DOMAIN}"
        )


def _node_name(arguments: list[str], node_name: str, namespace: str) -> str:
    """The full name that the node will have."""
    found = {"__node": node_name, "__name": "", "__ns": f"/{namespace}"}
    for rule in arguments:
        key, separator, value = rule.partition(":=")
        key = key.rsplit(":", 1)[-1]
        if separator and key in found:
            found[key] = value
    return f"{found['__ns'].rstrip('/')}/{found['__name'] or found['__node']}"


def _parameter_files(arguments: list[str]) -> list[str]:
    return [b for a, b in zip(arguments, arguments[1:], strict=False) if a == "--params-file"]


def _check_file(file: str, name: str) -> None:
    """Raise StartError for a parameter file that cannot be read, or is about other nodes only."""
    path = Path(file)
    shown = f"parameter file {printable(file)}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise StartError(f"{shown}: {reason}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r" *\t", line):
            raise StartError(f"{shown}, line {number}: begins with a tab; YAML takes only spaces")
    try:
        import yaml
    except ImportError:
        return
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise StartError(f"{shown}{where}: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise StartError(f"{shown}: no parameters of a node; it should begin with '{name}:'")
    nodes = list(_node_names(content))
    if not any(_matches(pattern, name) for pattern, _ in nodes):
        listed = ", ".join(sorted({pattern for pattern, _ in nodes})) or "none"
        raise StartError(
            f"{shown} has parameters of {listed}, but none of this node, {name}: rename the node "
            "in it, or write /** for any"
        )
    for pattern, block in nodes:
        if _matches(pattern, name) and not isinstance(block.get("ros__parameters", {}), dict):
            raise StartError(f"{shown}: ros__parameters of {pattern} are no names with values")


def _node_names(content: dict[Any, Any], above: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """(name pattern, block) of every node; namespaces may be nested."""
    for key, block in content.items():
        if not isinstance(block, dict):
            continue
        name = f"{above}/{str(key).strip('/')}"
        if "ros__parameters" in block:
            yield name, block
        else:
            yield from _node_names(block, name)


def _matches(pattern: str, name: str) -> bool:
    """Whether a node name in a parameter file, with its wildcards, is that of the node.

    A name without a namespace is that of a node of this name in the root namespace, to ROS.
    """
    text = re.escape(pattern).replace(r"/\*\*", "(?:/[^/]+)*").replace(r"\*", "[^/]+")
    return re.fullmatch(text, name) is not None


def _reworded(text: str) -> str:
    """An error of rcl without its source lines, and with what to do about it."""
    text = re.sub(r",? at \S+:\d+", "", text).removeprefix("failed to initialize rcl: ")
    if "logging" in text:
        text += (
            ". Set the environment variable ROS_LOG_DIR to a folder that can be written to (it is "
            f"'{os.environ.get('ROS_LOG_DIR', '')}', HOME is '{os.environ.get('HOME', '')}')"
        )
    elif "remap" in text:
        text += ". Names of topics, nodes and namespaces have letters, digits and _ only"
    return text


def check_topic(parameter: str, topic: str) -> None:
    """Raise StartError for the name of a topic that ROS does not take, naming the parameter."""
    try:
        validate_topic_name(topic)
    except Exception as error:
        reason = str(error).splitlines()[0].removeprefix("Invalid topic name: ")
        raise StartError(
            f"parameter '{parameter}' is '{topic}', which is no topic: {reason}"
        ) from error


def warn_of_unknown(node: Node, later: Collection[str] = ()) -> None:
    """Log what was given for parameters that the node does not have.

    later: names, or beginnings that end with a point, of those that it declares in its time.
    """
    given: dict[str, Any] = getattr(node, "_parameter_overrides", {})
    known = [name for name in node._parameters if "." not in name]
    for name in sorted(given):
        declared = node.has_parameter(name) or _EVERY_NODE.match(name)
        if declared or any(
            name.startswith(one) if one.endswith(".") else name == one for one in later
        ):
            continue
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; is '{close[0]}' meant?" if close else ""
        node.get_logger().warning(f"there is no parameter '{name}', it is ignored{hint}")
