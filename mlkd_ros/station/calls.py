# SPDX-License-Identifier: Apache-2.0
"""What all that talk to the tracker need: names of codes and states, hints when it is gone."""

from __future__ import annotations

import os

from rclpy.exceptions import InvalidNamespaceException
from rclpy.node import Node
from rclpy.validate_namespace import validate_namespace

__all__ = ["DEFAULT_NAMESPACE", "checked_namespace", "constant_name", "discovery_hint"]

DEFAULT_NAMESPACE = "/mlkd"


def checked_namespace(text: str) -> str:
    """`text` as an absolute namespace; ValueError says what is wrong with it."""
    namespace = "/" + text.strip("/")
    try:
        validate_namespace(namespace)
    except InvalidNamespaceException as error:
        raise ValueError(f"'{text}' is not a namespace of ROS: {error}") from error
    return namespace


def constant_name(message: object, value: int) -> str:
    """The name of `value` among the constants of a message's type; the number if it has none."""
    constants = {name: constant for name, constant in vars(type(message)).items() if name.isupper()}
    return next((name for name, constant in constants.items() if constant == value), str(value))


def discovery_hint(node: Node, service: str, type_name: str) -> str:
    """Why `service` may not be found: where this process looks, and what it sees elsewhere."""
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    where = f"ROS_DOMAIN_ID {domain}"
    if reach:
        where += f", ROS_AUTOMATIC_DISCOVERY_RANGE {reach}"
    hint = f"this side is in {where}: the tracker must be in the same domain"
    last = service.rsplit("/", 1)[-1]
    others = sorted(
        name.removesuffix(f"/{last}") or "/"
        for name, types in node.get_service_names_and_types()
        if name != service and name.endswith(f"/{last}") and type_name in types
    )
    if others:
        hint += f"; there is a tracker in namespace {', '.join(others)}"
    return hint
