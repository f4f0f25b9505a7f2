# SPDX-License-Identifier: Apache-2.0
"""What all that talk to the tracker need: names of codes and states, hints when it is gone."""

from __future__ import annotations

import contextlib
import os

from rclpy.exceptions import InvalidNamespaceException
from rclpy.node import Node, NodeNameNonExistentError
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
    """Why a service with that last name may not be found: where this process looks, and whether
    there is one elsewhere.
    """
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    hint = f"Looked for in ROS_DOMAIN_ID {domain}"
    if reach:
        hint += f", discovery range {reach}"
    hint += ": the tracker must be in the same domain."
    others = _namespaces_with(node, service, type_name)
    if others:
        hint += f" There is one in namespace {', '.join(others)}: see --namespace."
    return hint


def _namespaces_with(node: Node, service: str, type_name: str) -> list[str]:
    """Namespaces in which a node offers a service of that last name and type."""
    found = set()
    for name, namespace in node.get_node_names_and_namespaces():
        # A node may end between the two questions.
        with contextlib.suppress(NodeNameNonExistentError):
            for offered, types in node.get_service_names_and_types_by_node(name, namespace):
                if offered.endswith(f"/{service}") and type_name in types:
                    found.add(offered.removesuffix(f"/{service}") or "/")
    return sorted(found)
