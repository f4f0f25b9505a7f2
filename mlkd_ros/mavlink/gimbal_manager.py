# SPDX-License-Identifier: Apache-2.0
"""Drives a gimbal through its manager: https://mavlink.io/en/services/gimbal_v2.html. No ROS.

Control is taken by MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE before the first rate and given back after
the last. When the manager says that somebody else is in control, nothing more is sent until the
follower begins anew: an operator who takes the gimbal keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mlkd_ros.mavlink.dialect import mavlink
from mlkd_ros.mavlink.vehicle import Vehicle

__all__ = ["GimbalManager"]

#: Seconds without a rate after which the gimbal is stopped and given back.
_WATCHDOG = 0.5
_ASK_EVERY = 1.0
#: Values of MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE.
_LEAVE, _RELEASE = -1, -3
_LEAST_COSINE = 0.25
_FLAGS = (
    mavlink.GIMBAL_MANAGER_FLAGS_ROLL_LOCK
    | mavlink.GIMBAL_MANAGER_FLAGS_PITCH_LOCK
    | mavlink.GIMBAL_MANAGER_FLAGS_YAW_LOCK
)


class _Peer(Protocol):
    def send(self, message: Any, system: int, component: int) -> None: ...


class GimbalManager:
    """The client of a gimbal manager. All of it belongs to one thread.

    overridden: whether somebody else has taken the gimbal since the follower began.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        component_id: int,
        peers: Callable[[], Sequence[_Peer]],
        device_id: int = 0,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.overridden = False
        self._vehicle = vehicle
        self._component = component_id
        self._peers = peers
        self._device = device_id
        self._log = log
        self._manager = 0
        self._in_control = False
        self._last_rate = -math.inf
        self._next_ask = -math.inf

    @property
    def in_control(self) -> bool:
        """Whether the manager has given control to this component."""
        return self._in_control

    def receive(self, message: Any, now: float) -> None:
        """Take in what the manager says."""
        if message.get_srcSystem() != self._vehicle.system:
            return
        kind = message.get_type()
        if kind in ("GIMBAL_MANAGER_INFORMATION", "GIMBAL_MANAGER_STATUS"):
            if self._device in (0, message.gimbal_device_id):
                self._manager = message.get_srcComponent()
            if kind == "GIMBAL_MANAGER_STATUS":
                self._take_status(message, now)
        elif (
            kind == "COMMAND_ACK"
            and message.command == mavlink.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE
            and message.result != mavlink.MAV_RESULT_ACCEPTED
        ):
            self._log(f"the gimbal manager refused control (MAV_RESULT {message.result})")

    def _take_status(self, message: Any, now: float) -> None:
        mine = (message.primary_control_sysid, message.primary_control_compid) == (
            self._vehicle.system,
            self._component,
        )
        following = now - self._last_rate <= _WATCHDOG
        if mine and not self._in_control and following:
            self._log("the gimbal is ours")
        if self._in_control and not mine:
            self.overridden = True
            self._log(
                f"the gimbal was taken by system {message.primary_control_sysid}, component "
                f"{message.primary_control_compid}; following stops"
            )
        self._in_control = mine and following

    def rate(self, yaw: float, pitch: float, now: float) -> None:
        """Turn the camera, radians a second to the right and up as it sees it."""
        if now - self._last_rate > _WATCHDOG:
            self.overridden = False  # the follower began anew
        self._last_rate = now
        if self.overridden or not self._vehicle.system:
            return
        if not self._in_control:
            self._ask(now)
            return
        self._send_rate(yaw / self._cosine(now), pitch)

    def tick(self, now: float) -> None:
        """Stop it and give it back when the follower has stopped."""
        if self._in_control and now - self._last_rate > _WATCHDOG:
            self._send_rate(0.0, 0.0)
            self._configure(_RELEASE, _RELEASE)
            self._in_control = False
            self._log("the gimbal is given back")

    def _cosine(self, now: float) -> float:
        """Of its pitch: the yaw axis is upright, the camera is not."""
        turn = self._vehicle.gimbal(now, self._device)
        if turn is None:
            return 1.0
        return max(math.sqrt(max(1 - float(turn[2, 0]) ** 2, 0.0)), _LEAST_COSINE)

    def _ask(self, now: float) -> None:
        if now < self._next_ask:
            return
        self._next_ask = now + _ASK_EVERY
        if not self._manager:
            self._command(
                0,
                mavlink.MAV_CMD_REQUEST_MESSAGE,
                mavlink.MAVLINK_MSG_ID_GIMBAL_MANAGER_INFORMATION,
            )
            return
        self._configure(self._vehicle.system, self._component)
        # Its status says whether that worked, and comes but every few seconds by itself.
        self._command(
            self._manager,
            mavlink.MAV_CMD_REQUEST_MESSAGE,
            mavlink.MAVLINK_MSG_ID_GIMBAL_MANAGER_STATUS,
        )

    def _configure(self, system: int, component: int) -> None:
        self._command(
            self._manager,
            mavlink.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE,
            system,
            component,
            _LEAVE,
            _LEAVE,
            0,
            0,
            self._device,
        )

    def _send_rate(self, yaw: float, pitch: float) -> None:
        self._send(
            mavlink.MAVLink_gimbal_manager_set_pitchyaw_message(
                self._vehicle.system,
                self._manager,
                _FLAGS,
                self._device,
                math.nan,
                math.nan,
                pitch,
                yaw,
            )
        )

    def _command(self, component: int, command: int, *given: float) -> None:
        values = [*given, *(0.0,) * (7 - len(given))]
        self._send(
            mavlink.MAVLink_command_long_message(
                self._vehicle.system, component, command, 0, *values
            )
        )

    def _send(self, message: Any) -> None:
        for peer in self._peers():
            peer.send(message, self._vehicle.system, self._component)
