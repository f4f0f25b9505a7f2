# SPDX-License-Identifier: Apache-2.0
"""A MAVLink camera that tracks: the camera protocol of https://mavlink.io/en/services/camera.html.

`CameraComponent` answers ground stations and tells them where the target is. It knows no ROS and no
sockets: messages come in through `receive`, go out through the peers they came from, and time is
passed in, so that one thread may drive it with `receive` and `tick`. What it asks of the tracker
goes through a `TrackerPort`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from mlkd_ros.mavlink.dialect import mavlink
from mlkd_ros.mavlink.geolocation import GroundPoint
from mlkd_ros.mavlink.tracking_status import (
    camera_tracking_image_status,
    tracking_flags,
)
from mlkd_ros.mavlink.vehicle import Vehicle
from mlkd_ros.tracking import TrackState

__all__ = [
    "CameraComponent",
    "CameraFacts",
    "CameraSettings",
    "Outcome",
    "Station",
    "Target",
    "TrackerPort",
]

_HEARTBEAT_S = 1.0
#: Seconds without a word of the tracker after which it is reported as failed.
STALE_S = 1.0
#: Seconds that a command may take before its sender is told that it is in progress, and between
#: two such acknowledgements; ground stations repeat a command after one second or less.
_PROGRESS_AFTER, _PROGRESS_EVERY = 0.15, 0.4
#: Seconds after which an unanswered command has failed.
_DEADLINE = 10.0
#: Commands in progress at once.
_MOST_PENDING = 8
#: Seconds in which a repeated command is answered again, not executed again.
_REPEATED_WITHIN = 5.0
#: Who may ask for messages at once; the one longest unheard of makes room.
_MOST_REQUESTS = 64
_LEAST_INTERVAL, _GREATEST_INTERVAL = 0.02, 60.0
#: Seconds that the requests of somebody whose connection has ended are kept.
_ORPHANS_KEPT = 600.0
#: What the autopilot is asked for, and how often a second; and seconds between two such requests.
_STREAMS = (
    (mavlink.MAVLINK_MSG_ID_ATTITUDE_QUATERNION, 20.0),
    (mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT, 5.0),
    (mavlink.MAVLINK_MSG_ID_GIMBAL_DEVICE_ATTITUDE_STATUS, 20.0),
)
_STREAMS_EVERY = 10.0
_UNKNOWN_PROGRESS = 255
_TEXT_BYTES = 50

_IMAGE_STATUS = mavlink.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
_GEO_STATUS = mavlink.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS
_STREAMED = (_IMAGE_STATUS, _GEO_STATUS)

_VIDEO_TYPES = {
    "rtsp": mavlink.VIDEO_STREAM_TYPE_RTSP,
    "rtsps": mavlink.VIDEO_STREAM_TYPE_RTSP,
    "udp": mavlink.VIDEO_STREAM_TYPE_RTPUDP,
    "rtp": mavlink.VIDEO_STREAM_TYPE_RTPUDP,
    "tcp": mavlink.VIDEO_STREAM_TYPE_TCP_MPEG,
    "mpegts": mavlink.VIDEO_STREAM_TYPE_MPEG_TS,
}


class Station(Protocol):
    """Another end of a link: what `connections.Peer` is."""

    name: str
    #: The connection has ended, and will not come back as this one.
    closed: bool

    def send(self, message: Any, system: int, component: int) -> None:
        """Send a message as from that system and component."""


@dataclass(frozen=True)
class Outcome:
    """What came of a request to the tracker: a MAV_RESULT, a sentence, and the target's name."""

    result: int
    message: str = ""
    target_id: str = ""


Done = Callable[[Outcome], None]


class TrackerPort(Protocol):
    """The tracker as this component uses it. Every `done` is called once, in this same thread.

    Positions are shares of the image, 0 to 1, from its top-left corner.
    """

    def track_rectangle(self, x: float, y: float, w: float, h: float, done: Done) -> None:
        """Follow what is in that box."""

    def track_point(self, x: float, y: float, radius: float, done: Done) -> None:
        """Follow what is at that point; `radius` is a share of the width, 0 where none is given."""

    def stop(self, done: Done) -> None:
        """Follow nothing any more."""


@dataclass(frozen=True)
class Target:
    """One target on one image: a mlkd_ros/TrackStatus without ROS. Box in pixels; stamp in ns."""

    target_id: str
    state: int
    x: float
    y: float
    width: float
    height: float
    image_width: int
    image_height: int
    stamp: int = 0


@dataclass(frozen=True)
class CameraSettings:
    """What a user sets. `default_rate`, Hz: of a message whose interval is asked for as 0."""

    component_id: int = mavlink.MAV_COMP_ID_CAMERA
    vendor: str = "mlkd_ros"
    model: str = "night tracker"
    version: tuple[int, int, int] = (0, 1, 0)
    video_uri: str = ""
    video_name: str = "camera"
    video_encoding: int = mavlink.VIDEO_STREAM_ENCODING_UNKNOWN
    default_rate: float = 5.0
    gimbal_device_id: int = 0


@dataclass(frozen=True)
class CameraFacts:
    """What is known of the images: pixels, Hz, and the horizontal field of view in radians."""

    width: int = 0
    height: int = 0
    rate: float = 0.0
    field_of_view: float = 0.0


@dataclass(frozen=True)
class _Sender:
    """Who sent a command, and through which peer."""

    peer: Station
    system: int
    component: int


@dataclass
class _Pending:
    """A command that the tracker has not answered yet."""

    sender: _Sender
    command: int
    begun: float
    next_progress: float
    key: tuple[Any, ...] = ()


@dataclass
class _Request:
    """That somebody wants a message every `interval` seconds. `heard`: when they last spoke."""

    interval: float
    heard: float


@dataclass
class _Answered:
    """Results of commands, for those who ask again because an acknowledgement was lost."""

    results: OrderedDict[tuple[Any, ...], tuple[int, float]] = field(default_factory=OrderedDict)

    def remember(self, key: tuple[Any, ...], result: int, now: float) -> None:
        self.results[key] = (result, now)
        while len(self.results) > _MOST_PENDING:
            self.results.popitem(last=False)

    def recall(self, key: tuple[Any, ...], now: float) -> int | None:
        result, when = self.results.get(key, (0, -math.inf))
        return result if now - when < _REPEATED_WITHIN else None


class CameraComponent:
    """The camera. All of it belongs to one thread.

    peers: gives those that can be spoken to now. vehicle: whose camera it is; nothing is sent
    before its system id is known, because a camera has that of its vehicle. log: takes lines for
    people. boot: when the process began, seconds of the clock that `now` is of.
    """

    def __init__(
        self,
        settings: CameraSettings,
        tracker: TrackerPort,
        vehicle: Vehicle,
        peers: Callable[[], Sequence[Station]],
        log: Callable[[str], None] = lambda line: None,
        boot: float = 0.0,
    ) -> None:
        self.settings = settings
        self.facts = CameraFacts()
        #: Takes a target and the time, gives its place on the ground if that is known.
        self.geolocate: Callable[[Target, float], GroundPoint | None] = lambda target, now: None
        #: Whether the vehicle's attitude is wanted for other reasons than a place on the ground.
        self.needs_attitude = False
        #: Commands that were carried out or refused, by MAV_RESULT, for diagnostics.
        self.answered_commands = 0
        self._tracker = tracker
        self._vehicle = vehicle
        self._peers = peers
        self._log = log
        self._boot = boot
        self._targets: dict[str, Target] = {}
        self._image_stamp = -1
        self._heard_tracker = -math.inf
        self._followed = ""
        self._by_point: set[str] = set()
        self._pending: list[_Pending] = []
        self._answered = _Answered()
        self._requests: dict[tuple[Station, int, int, int], _Request] = {}
        #: Of those whose connection has ended: they do not ask again when they come back.
        self._orphans: dict[tuple[int, int, int], _Request] = {}
        self._sent: dict[tuple[Station, int], float] = {}
        self._next_streams = -math.inf
        self._next_heartbeat = -math.inf
        self._greeted: set[Station] = set()
        self._text_id = 0
        self._commands: dict[int, Callable[[_Sender, list[float], float, _Pending], int]] = {
            mavlink.MAV_CMD_REQUEST_MESSAGE: self._request_message,
            mavlink.MAV_CMD_SET_MESSAGE_INTERVAL: self._set_interval,
            mavlink.MAV_CMD_GET_MESSAGE_INTERVAL: self._get_interval,
            mavlink.MAV_CMD_CAMERA_TRACK_POINT: self._track_point,
            mavlink.MAV_CMD_CAMERA_TRACK_RECTANGLE: self._track_rectangle,
            mavlink.MAV_CMD_CAMERA_STOP_TRACKING: self._stop_tracking,
            # Before MAV_CMD_REQUEST_MESSAGE each message had a command of its own; some still ask.
            521: self._older(mavlink.MAVLINK_MSG_ID_CAMERA_INFORMATION),
            522: self._older(mavlink.MAVLINK_MSG_ID_CAMERA_SETTINGS),
            527: self._older(mavlink.MAVLINK_MSG_ID_CAMERA_CAPTURE_STATUS),
            2504: self._older(mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION),
            2505: self._older(mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS),
        }
        self._messages: dict[int, Callable[[float], Any]] = {
            mavlink.MAVLINK_MSG_ID_HEARTBEAT: self._heartbeat,
            mavlink.MAVLINK_MSG_ID_CAMERA_INFORMATION: self._camera_information,
            mavlink.MAVLINK_MSG_ID_CAMERA_SETTINGS: self._camera_settings,
            mavlink.MAVLINK_MSG_ID_CAMERA_CAPTURE_STATUS: self._capture_status,
            mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION: self._stream_information,
            mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS: self._stream_status,
            _IMAGE_STATUS: self._image_status,
            _GEO_STATUS: self._geo_status,
        }

    @property
    def wants_geo(self) -> bool:
        """Whether somebody has asked for places on the ground. Any thread may ask."""
        return any(key[3] == _GEO_STATUS for key in list(self._requests))

    # --- what the tracker says ------------------------------------------------------------------

    def report(self, target: Target, now: float) -> None:
        """The tracker said this of one target on an image, or that there is none (IDLE)."""
        self._heard_tracker = now
        if target.stamp != self._image_stamp:
            # Who was not spoken of on the image before is followed no longer.
            self._targets = {n: t for n, t in self._targets.items() if t.stamp == self._image_stamp}
            self._image_stamp = target.stamp
        if target.state == TrackState.IDLE:
            self._targets.clear()
            self._by_point.clear()
        else:
            self._targets[target.target_id] = target

    def target(self) -> Target | None:
        """The one of which ground stations are told: there is room for one. None while idle.

        It is the last that a ground station designated, else the one that was followed first.
        """
        found = self._targets.get(self._followed)
        return found or next(iter(self._targets.values()), None)

    # --- what comes in --------------------------------------------------------------------------

    def receive(self, peer: Station, message: Any, now: float) -> None:
        """Take in a message that somebody sent."""
        source = (message.get_srcSystem(), message.get_srcComponent())
        if source == (self._vehicle.system, self.settings.component_id):
            return  # our own, sent back by a router
        known = self._vehicle.system
        self._vehicle.take(message, now)
        if not known and self._vehicle.system:
            self._log(f"the vehicle is system {self._vehicle.system}; its camera answers now")
        if not self._vehicle.system:
            return
        self._hear(peer, source, now)
        kind = message.get_type()
        if kind in ("COMMAND_LONG", "COMMAND_INT") and self._is_for_us(message):
            self._take_command(_Sender(peer, *source), message, now)

    def _hear(self, peer: Station, source: tuple[int, int], now: float) -> None:
        """Who asked for messages is still there, or is there again by another connection."""
        orphans = {k: r for k, r in self._orphans.items() if k[:2] == source}
        for (system, component, identity), request in orphans.items():
            del self._orphans[(system, component, identity)]
            self._requests.setdefault((peer, system, component, identity), request)
        for (_, system, component, _), request in self._requests.items():
            if (system, component) == source:
                request.heard = now

    def _is_for_us(self, message: Any) -> bool:
        return message.target_system in (
            0,
            self._vehicle.system,
        ) and message.target_component in (0, self.settings.component_id)

    def _take_command(self, sender: _Sender, message: Any, now: float) -> None:
        command = int(message.command)
        handler = self._commands.get(command)
        if handler is None:
            # What goes to everybody is somebody else's.
            if message.target_component == self.settings.component_id:
                self._acknowledge(sender, command, mavlink.MAV_RESULT_UNSUPPORTED)
            return
        parameters = _parameters(message)
        key = (sender.system, sender.component, command, tuple(map(repr, parameters)))
        if self._is_repeated(sender, command, key, message, now):
            return
        pending = _Pending(sender, command, now, now + _PROGRESS_AFTER, key)
        result = handler(sender, parameters, now, pending)
        if result != mavlink.MAV_RESULT_IN_PROGRESS:
            self._acknowledge(sender, command, result)
            if command == mavlink.MAV_CMD_REQUEST_MESSAGE or command in _OLDER_REQUESTS:
                self._send_requested(sender, parameters, command, result, now)

    def _is_repeated(
        self, sender: _Sender, command: int, key: tuple[Any, ...], message: Any, now: float
    ) -> bool:
        """Whether this very command is being carried out, or was and the answer got lost."""
        if command not in _SLOW:
            return False
        if any(pending.key == key for pending in self._pending):
            self._acknowledge(sender, command, mavlink.MAV_RESULT_IN_PROGRESS)
            return True
        result = self._answered.recall(key, now)
        if result is not None and getattr(message, "confirmation", 0) > 0:
            self._acknowledge(sender, command, result)
            return True
        return False

    # --- commands: each gives a MAV_RESULT ------------------------------------------------------

    def _request_message(
        self, sender: _Sender, given: list[float], now: float, pending: _Pending
    ) -> int:
        identity = _whole(given[0])
        if identity not in self._messages or self._messages[identity](now) is None:
            return int(mavlink.MAV_RESULT_DENIED)
        return int(mavlink.MAV_RESULT_ACCEPTED)

    def _older(self, identity: int) -> Callable[[_Sender, list[float], float, _Pending], int]:
        def handle(sender: _Sender, given: list[float], now: float, pending: _Pending) -> int:
            return self._request_message(sender, [identity], now, pending)

        return handle

    def _send_requested(
        self, sender: _Sender, given: list[float], command: int, result: int, now: float
    ) -> None:
        if result == mavlink.MAV_RESULT_ACCEPTED:
            identity = _OLDER_REQUESTS.get(command, _whole(given[0]))
            self._send(sender.peer, self._messages[identity](now))

    def _set_interval(
        self, sender: _Sender, given: list[float], now: float, pending: _Pending
    ) -> int:
        identity, microseconds = _whole(given[0]), given[1]
        if identity not in _STREAMED or not math.isfinite(microseconds) or microseconds < -1:
            return int(mavlink.MAV_RESULT_DENIED)
        key = (sender.peer, sender.system, sender.component, identity)
        if -1 <= microseconds < 0:
            self._requests.pop(key, None)
            return int(mavlink.MAV_RESULT_ACCEPTED)
        wanted = microseconds * 1e-6 if microseconds > 0 else 1 / self.settings.default_rate
        interval = min(max(wanted, _LEAST_INTERVAL), _GREATEST_INTERVAL)
        if key not in self._requests and len(self._requests) >= _MOST_REQUESTS:
            del self._requests[min(self._requests, key=lambda k: self._requests[k].heard)]
        self._requests[key] = _Request(interval, now)
        return int(mavlink.MAV_RESULT_ACCEPTED)

    def _get_interval(
        self, sender: _Sender, given: list[float], now: float, pending: _Pending
    ) -> int:
        identity = _whole(given[0])
        if identity not in _STREAMED:
            return int(mavlink.MAV_RESULT_DENIED)
        interval = self._intervals(sender.peer).get(identity)
        microseconds = -1 if interval is None else round(interval * 1e6)
        self._send(sender.peer, mavlink.MAVLink_message_interval_message(identity, microseconds))
        return int(mavlink.MAV_RESULT_ACCEPTED)

    def _track_point(
        self, sender: _Sender, given: list[float], now: float, pending: _Pending
    ) -> int:
        x, y, radius = given[0], given[1], given[2]
        radius = 0.0 if math.isnan(radius) else radius
        if not self._ours(given[3]) or not all(0 <= v <= 1 for v in (x, y, radius)):
            return self._refused("point", "x, y and radius must be from 0 to 1")
        return self._begin(pending, True, self._tracker.track_point, x, y, radius)

    def _track_rectangle(
        self, sender: _Sender, given: list[float], now: float, pending: _Pending
    ) -> int:
        left, top, right, bottom = given[:4]
        inside = all(0 <= v <= 1 for v in (left, top, right, bottom))
        if not self._ours(given[4]) or not inside or right <= left or bottom <= top:
            return self._refused(
                "rectangle", "corners must be from 0 to 1, the second right of and below the first"
            )
        return self._begin(
            pending, False, self._tracker.track_rectangle, left, top, right - left, bottom - top
        )

    def _stop_tracking(
        self, sender: _Sender, given: list[float], now: float, pending: _Pending
    ) -> int:
        if not self._ours(given[0]):
            return self._refused("stop", "another camera is meant")
        return self._begin(pending, False, self._tracker.stop)

    def _ours(self, camera: float) -> bool:
        """Whether a parameter that names a camera names this one: not at all, all, or by id."""
        return math.isnan(camera) or camera in (0, self.settings.component_id)

    def _refused(self, what: str, why: str) -> int:
        self._log(f"refused a {what}: {why}")
        self._say(f"tracker: {what} refused, {why}")
        return int(mavlink.MAV_RESULT_DENIED)

    def _begin(
        self, pending: _Pending, point: bool, call: Callable[..., None], *values: float
    ) -> int:
        """Ask the tracker; the result comes later."""
        if len(self._pending) >= _MOST_PENDING:
            return int(mavlink.MAV_RESULT_TEMPORARILY_REJECTED)
        self._pending.append(pending)
        call(*values, lambda outcome: self._finish(pending, point, outcome))
        return int(mavlink.MAV_RESULT_IN_PROGRESS)

    def _finish(self, pending: _Pending, point: bool, outcome: Outcome) -> None:
        if pending not in self._pending:
            return  # too late: it has been given up
        self._pending.remove(pending)
        self._answered.remember(pending.key, outcome.result, pending.begun)
        if outcome.target_id:
            self._followed = outcome.target_id
            (self._by_point.add if point else self._by_point.discard)(outcome.target_id)
        if outcome.result != mavlink.MAV_RESULT_ACCEPTED:
            self._log(f"command {pending.command} not carried out: {outcome.message}")
            self._say(f"tracker: {outcome.message}")
        self._acknowledge(pending.sender, pending.command, outcome.result)

    # --- time -----------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Send what is due. Returns the time of the next such call, at the latest."""
        if not self._vehicle.system:
            return now + _HEARTBEAT_S
        due = now >= self._next_heartbeat
        for peer in self._peers():
            if due or peer not in self._greeted:
                self._send(peer, self._heartbeat(now))
                self._greeted.add(peer)
        if due:
            self._next_heartbeat = now + _HEARTBEAT_S
            self._greeted.intersection_update(self._peers())
            self._set_aside_the_gone(now)
            self._ask_vehicle(now)
        next_call = self._next_heartbeat
        for pending in list(self._pending):
            next_call = min(next_call, self._attend(pending, now))
        for peer in {key[0] for key in self._requests}:
            for identity, interval in self._intervals(peer).items():
                next_call = min(next_call, self._stream(peer, identity, interval, now))
        return next_call

    def _attend(self, pending: _Pending, now: float) -> float:
        """Tell who waits; give up what takes too long."""
        if now - pending.begun >= _DEADLINE:
            self._finish(
                pending,
                False,
                Outcome(mavlink.MAV_RESULT_FAILED, f"no answer of the tracker in {_DEADLINE:g} s"),
            )
        elif now >= pending.next_progress:
            self._acknowledge(pending.sender, pending.command, mavlink.MAV_RESULT_IN_PROGRESS)
            pending.next_progress = now + _PROGRESS_EVERY
        return pending.next_progress

    def _stream(self, peer: Station, identity: int, interval: float, now: float) -> float:
        """Send a message that is wanted again and again. Returns when it is due next."""
        due = self._sent.get((peer, identity), -math.inf) + interval
        if now < due:
            return due
        # On the beat, unless that was missed by more than one.
        self._sent[(peer, identity)] = due if now - due < interval else now
        message = self._messages[identity](now)
        if message is not None:
            self._send(peer, message)
        return self._sent[(peer, identity)] + interval

    def _intervals(self, peer: Station) -> dict[int, float]:
        """Seconds between two messages to a peer: the least that anybody behind it asked for."""
        found: dict[int, float] = {}
        for (one, _, _, identity), request in self._requests.items():
            if one is peer:
                found[identity] = min(found.get(identity, math.inf), request.interval)
        return found

    def _set_aside_the_gone(self, now: float) -> None:
        """A link that is lost comes back as the same peer; a connection that has ended does not."""
        for key in [key for key in self._requests if key[0].closed]:
            self._orphans[key[1:]] = self._requests.pop(key)
        self._orphans = {k: r for k, r in self._orphans.items() if now - r.heard <= _ORPHANS_KEPT}
        self._sent = {key: time for key, time in self._sent.items() if not key[0].closed}

    def _ask_vehicle(self, now: float) -> None:
        """Ask the autopilot for what places on the ground are reckoned from, while wanted."""
        wanted = self.wants_geo or self.needs_attitude
        if not wanted or now < self._next_streams:
            return
        self._next_streams = now + _STREAMS_EVERY
        for identity, rate in _STREAMS:
            command = mavlink.MAVLink_command_long_message(
                self._vehicle.system,
                self._vehicle.autopilot_component,
                mavlink.MAV_CMD_SET_MESSAGE_INTERVAL,
                0,
                identity,
                1e6 / rate,
                *(0.0,) * 5,
            )
            for peer in self._peers():
                self._send(peer, command)

    # --- what goes out --------------------------------------------------------------------------

    def _send(self, peer: Station, message: Any) -> None:
        if message is not None:
            peer.send(message, self._vehicle.system, self.settings.component_id)

    def _acknowledge(self, sender: _Sender, command: int, result: int) -> None:
        if result != mavlink.MAV_RESULT_IN_PROGRESS:
            self.answered_commands += 1
        progress = _UNKNOWN_PROGRESS if result == mavlink.MAV_RESULT_IN_PROGRESS else 0
        self._send(
            sender.peer,
            mavlink.MAVLink_command_ack_message(
                command, result, progress, 0, sender.system, sender.component
            ),
        )

    def _say(self, text: str) -> None:
        """A warning for every operator, in as many pieces as it takes."""
        self._text_id = self._text_id % 65535 + 1
        data = text.encode("ascii", "replace")[: 4 * _TEXT_BYTES]
        pieces = [data[i : i + _TEXT_BYTES] for i in range(0, len(data), _TEXT_BYTES)]
        identity = self._text_id if len(pieces) > 1 else 0
        for peer in self._peers():
            for number, piece in enumerate(pieces):
                self._send(
                    peer,
                    mavlink.MAVLink_statustext_message(
                        mavlink.MAV_SEVERITY_WARNING, piece, identity, number
                    ),
                )

    def _boot_ms(self, now: float) -> int:
        return int((now - self._boot) * 1000) & 0xFFFFFFFF

    def _heartbeat(self, now: float) -> Any:
        alive = now - self._heard_tracker <= STALE_S
        return mavlink.MAVLink_heartbeat_message(
            mavlink.MAV_TYPE_CAMERA,
            mavlink.MAV_AUTOPILOT_INVALID,
            0,
            0,
            mavlink.MAV_STATE_ACTIVE if alive else mavlink.MAV_STATE_STANDBY,
            3,
        )

    def _camera_information(self, now: float) -> Any:
        major, minor, patch = self.settings.version
        flags = (
            mavlink.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT
            | mavlink.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
            | mavlink.CAMERA_CAP_FLAGS_HAS_TRACKING_GEO_STATUS
        )
        if self.settings.video_uri:
            flags |= mavlink.CAMERA_CAP_FLAGS_HAS_VIDEO_STREAM
        return mavlink.MAVLink_camera_information_message(
            self._boot_ms(now),
            _text_field(self.settings.vendor, 32),
            _text_field(self.settings.model, 32),
            patch << 16 | minor << 8 | major,
            math.nan,
            math.nan,
            math.nan,
            self.facts.width,
            self.facts.height,
            0,
            flags,
            0,
            b"",
            self.settings.gimbal_device_id,
        )

    def _camera_settings(self, now: float) -> Any:
        return mavlink.MAVLink_camera_settings_message(
            self._boot_ms(now), mavlink.CAMERA_MODE_VIDEO, math.nan, math.nan
        )

    def _capture_status(self, now: float) -> Any:
        # It captures nothing; ground stations ask every camera all the same.
        return mavlink.MAVLink_camera_capture_status_message(self._boot_ms(now), 0, 0, 0.0, 0, 0.0)

    def _stream_information(self, now: float) -> Any:
        uri = self.settings.video_uri
        if not uri:
            return None
        facts = self.facts
        return mavlink.MAVLink_video_stream_information_message(
            1,
            1,
            _VIDEO_TYPES.get(urlsplit(uri).scheme, mavlink.VIDEO_STREAM_TYPE_RTSP),
            mavlink.VIDEO_STREAM_STATUS_FLAGS_RUNNING,
            facts.rate,
            facts.width,
            facts.height,
            0,
            0,
            round(math.degrees(facts.field_of_view)),
            self.settings.video_name.encode()[:31],
            uri.encode()[:159],
            self.settings.video_encoding,
        )

    def _stream_status(self, now: float) -> Any:
        if not self.settings.video_uri:
            return None
        facts = self.facts
        return mavlink.MAVLink_video_stream_status_message(
            1,
            mavlink.VIDEO_STREAM_STATUS_FLAGS_RUNNING,
            facts.rate,
            facts.width,
            facts.height,
            0,
            0,
            round(math.degrees(facts.field_of_view)),
        )

    def _seen_now(self, now: float) -> Target:
        """The target as of now; an IDLE one if there is none, GIVEN_UP of a silent tracker."""
        found = self.target()
        if found is None:
            return _nobody(TrackState.IDLE)
        return found if now - self._heard_tracker <= STALE_S else _nobody(TrackState.GIVEN_UP)

    def _image_status(self, now: float) -> Any:
        target = self._seen_now(now)
        point = target.target_id in self._by_point
        return mavlink.MAVLink_camera_tracking_image_status_message(
            **camera_tracking_image_status(target, point)
        )

    def _geo_status(self, now: float) -> Any:
        seen, unknown = self._seen_now(now), math.nan
        place = self.geolocate(seen, now) if seen.target_id else None
        latitude = longitude = 0
        values = [unknown] * 10
        if place is not None:
            latitude, longitude = round(place.latitude * 1e7), round(place.longitude * 1e7)
            values[:3] = [place.altitude, place.horizontal_accuracy, place.vertical_accuracy]
            values[7:] = [place.distance, place.heading, place.heading_accuracy]
        flags = tracking_flags(seen)
        if place is None and flags == mavlink.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE:
            # It is followed in the image, but nobody knows where that is.
            flags = mavlink.CAMERA_TRACKING_STATUS_FLAGS_ERROR
        return mavlink.MAVLink_camera_tracking_geo_status_message(
            flags, latitude, longitude, *values
        )


#: Commands that the tracker takes time for.
_SLOW = (
    mavlink.MAV_CMD_CAMERA_TRACK_POINT,
    mavlink.MAV_CMD_CAMERA_TRACK_RECTANGLE,
    mavlink.MAV_CMD_CAMERA_STOP_TRACKING,
)
_OLDER_REQUESTS = {
    521: mavlink.MAVLINK_MSG_ID_CAMERA_INFORMATION,
    522: mavlink.MAVLINK_MSG_ID_CAMERA_SETTINGS,
    527: mavlink.MAVLINK_MSG_ID_CAMERA_CAPTURE_STATUS,
    2504: mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION,
    2505: mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS,
}


def _nobody(state: TrackState) -> Target:
    return Target("", int(state), 0.0, 0.0, 0.0, 0.0, 0, 0)


def _parameters(message: Any) -> list[float]:
    """The seven parameters of a command of either kind."""
    given = [float(getattr(message, f"param{i}")) for i in range(1, 5)]
    if message.get_type() == "COMMAND_INT":
        return [*given, float(message.x), float(message.y), float(message.z)]
    return [*given, *(float(getattr(message, f"param{i}")) for i in range(5, 8))]


def _whole(value: float) -> int:
    """A parameter that is a whole number; -1 if it is none."""
    return int(value) if math.isfinite(value) and value == int(value) else -1


def _text_field(text: str, length: int) -> list[int]:
    data = text.encode()[: length - 1]
    return list(data.ljust(length, b"\0"))
