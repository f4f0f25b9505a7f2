# SPDX-License-Identifier: Apache-2.0
"""Waiting for other processes: until they know of a test's endpoints, and until they have acted.

And what a test must not do to a node that another thread spins: see `destroy`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rcl_interfaces.srv import ListParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription

#: Seconds to wait for what another process will do in the end, however busy the machine is.
PATIENCE = 60.0
#: Seconds for one answer: it is lost where the server has not yet found the client that asks.
_ANSWER = 3.0


def introduce(node: Node, other: str, timeout: float = PATIENCE) -> None:
    """Wait until the process of node `other` knows every endpoint that `node` has made so far.

    What is published to or by somebody who is not yet known is lost, and each side finds out at its
    own time. But DDS announces the publishers of a process in the order in which they were made,
    and so its subscriptions. A client has one of each: when the request of a new one has been
    answered, everything that was made before it is known over there.

    `node` has to be spun by another thread.
    """
    client = node.create_client(ListParameters, f"{other}/list_parameters")
    end = time.monotonic() + timeout
    try:
        assert client.wait_for_service(timeout), f"no service {client.srv_name} in {timeout} s"
        while True:
            answer = client.call_async(ListParameters.Request())
            asked = time.monotonic()
            while not answer.done() and time.monotonic() < asked + _ANSWER:
                time.sleep(0.005)
            if answer.done():
                return
            client.remove_pending_request(answer)
            assert time.monotonic() < end, f"no answer of {client.srv_name} in {timeout} s"
    finally:
        destroy(node, client)


def destroy(node: Node, endpoint: Publisher[Any] | Subscription[Any] | Client[Any, Any]) -> None:
    """Destroy an endpoint of `node`, in the thread that spins it.

    From any other thread it may go while rclpy's executor gathers what to wait for. That ends the
    executor with InvalidHandle, and from then on the node hears nothing.
    """
    if isinstance(endpoint, Publisher):
        end = node.destroy_publisher
    elif isinstance(endpoint, Subscription):
        end = node.destroy_subscription
    else:
        end = node.destroy_client
    assert node.executor is not None, "nobody spins this node"
    ended = node.executor.create_task(end, endpoint)
    wait_until(ended.done, PATIENCE, "the end of an endpoint")
    assert ended.result(), "it was no endpoint of this node"


def wait_until(
    condition: Callable[[], bool], timeout: float, what: str | Callable[[], str]
) -> None:
    """Poll, because what is waited for happens in another process; AssertionError with `what`."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout} s for {text}")
        time.sleep(0.005)
