# SPDX-License-Identifier: Apache-2.0
"""The thread that a MAVLink component lives in. No ROS in here."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from mlkd_ros.mavlink.component import CameraComponent, CameraSettings, TrackerPort
from mlkd_ros.mavlink.connections import Connections, Endpoint
from mlkd_ros.mavlink.gimbal_manager import GimbalManager
from mlkd_ros.mavlink.vehicle import Vehicle

__all__ = ["LinkThread"]

_LONGEST_WAIT = 0.25
_SHUTDOWN_S = 5.0


class LinkThread:
    """The thread that owns connections, vehicle and camera component.

    `call` hands it something to do; everything else is its own.
    """

    def __init__(
        self,
        endpoints: list[Endpoint],
        settings: CameraSettings,
        system_id: int,
        tracker: TrackerPort,
        log: Callable[[str], None],
        key: bytes | None = None,
    ) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = False
        self.vehicle = Vehicle(system_id)
        self.connections = Connections(endpoints, self._take, log, key, self._do_calls)
        self.component = CameraComponent(
            settings, tracker, self.vehicle, lambda: self.connections.peers, log, time.monotonic()
        )
        self.gimbal: GimbalManager | None = None
        self._log = log
        self._thread = threading.Thread(target=self._run, name="mavlink", daemon=True)

    def drive_gimbal(self, device_id: int = 0) -> GimbalManager:
        """Have a gimbal manager's client, too. To be called before `start`."""
        self.component.needs_attitude = True
        self.gimbal = GimbalManager(
            self.vehicle,
            self.component.settings.component_id,
            lambda: self.connections.peers,
            device_id,
            self._log,
        )
        return self.gimbal

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def call(self, what: Callable[[], None]) -> None:
        """Have it done in that thread, soon. Any thread may call this."""
        self._calls.put(what)
        self.connections.wake()

    def stop(self) -> None:
        """End the thread and close the links."""
        self._ended = True
        self.connections.wake()
        self._thread.join(_SHUTDOWN_S)

    def _take(self, peer: Any, message: Any) -> None:
        now = time.monotonic()
        self._guarded(lambda: self.component.receive(peer, message, now))
        gimbal = self.gimbal
        if gimbal is not None:
            self._guarded(lambda: gimbal.receive(message, now))

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended:
            self.connections.poll(min(max(due - time.monotonic(), 0.0), _LONGEST_WAIT))
            due = self._tick()
        self.connections.close()

    def _do_calls(self) -> None:
        """What was asked before a message came is done before that message is taken."""
        while not self._calls.empty():
            self._guarded(self._calls.get())

    def _tick(self) -> float:
        now = time.monotonic()
        due = [now + _LONGEST_WAIT]
        self._guarded(lambda: due.append(self.component.tick(now)))
        gimbal = self.gimbal
        if gimbal is not None:
            self._guarded(lambda: gimbal.tick(now))
        return min(due)

    def _guarded(self, what: Callable[[], Any]) -> None:
        """A fault in the answer to one message must not silence the camera."""
        try:
            what()
        except Exception as error:
            self._log(f"internal error: {type(error).__name__}: {error}")
