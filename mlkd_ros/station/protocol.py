# SPDX-License-Identifier: Apache-2.0
"""What goes over the WebSocket between server and page.

From the server: JSON texts (`status`, `link`, `reply`, `pong`), and pictures as binary messages:
the length of a JSON header as four bytes, big-endian, that header, the JPEG. Stamps are nanoseconds
as a string of digits: a JavaScript number cannot hold them.

From the page: JSON texts (`init`, `stop`, `ack`, `ping`), checked here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from mlkd_ros.station.link import Link, Picture, Status

__all__ = [
    "Ack",
    "Init",
    "Ping",
    "ProtocolError",
    "Stop",
    "event_text",
    "parse",
    "picture_bytes",
    "text_of",
]

#: Characters of a target's name that are accepted; the tracker makes much shorter ones.
_LONGEST_NAME = 128


class ProtocolError(ValueError):
    """A message that the page would not send; says what is wrong with it."""


@dataclass(frozen=True)
class Init:
    """Designate: a box in pixels of the picture shown, which had `image_size` and `stamp` (ns)."""

    request: int
    stamp: int
    box: tuple[float, float, float, float]
    image_size: tuple[int, int]
    target_id: str


@dataclass(frozen=True)
class Stop:
    """Stop following a target; empty `target_id`: all of them."""

    request: int
    target_id: str


@dataclass(frozen=True)
class Ack:
    """One picture has been received and decoded."""


@dataclass(frozen=True)
class Ping:
    """To be answered with the same `t`."""

    t: float


def parse(text: str) -> Init | Stop | Ack | Ping:
    """A message of the page. Raises ProtocolError."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("not a JSON object")
    kind = fields.get("type")
    if kind == "ack":
        return Ack()
    if kind == "ping":
        return Ping(_number(fields, "t"))
    if kind == "stop":
        return Stop(_whole(fields, "request", 2**53), _name(fields))
    if kind == "init":
        width, height = (_size(value) for value in _list(fields, "image_size", 2))
        x, y, w, h = (_real(value, "box") for value in _list(fields, "box", 4))
        return Init(
            _whole(fields, "request", 2**53),
            _stamp(fields),
            (x, y, w, h),
            (width, height),
            _name(fields),
        )
    raise ProtocolError(f"unknown type {kind!r:.40}")


def _real(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ProtocolError(f"{name}: numbers are expected")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ProtocolError(f"{name}: finite numbers are expected")
    return number


def _number(fields: dict[str, Any], name: str) -> float:
    return _real(fields.get(name), name)


def _whole(fields: dict[str, Any], name: str, end: int) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
        raise ProtocolError(f"{name}: a whole number, 0 or more, is expected")
    return value


def _size(value: Any) -> int:
    return _whole({"image_size": value}, "image_size", 2**32)


def _list(fields: dict[str, Any], name: str, length: int) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) != length:
        raise ProtocolError(f"{name}: a list of {length} is expected")
    return value


def _stamp(fields: dict[str, Any]) -> int:
    text = fields.get("stamp")
    digits = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20
    if not digits or int(text) >= 2**31 * 10**9:  # type: ignore[arg-type]
        raise ProtocolError("stamp: nanoseconds as a string of digits are expected")
    return int(text)  # type: ignore[arg-type]


def _name(fields: dict[str, Any]) -> str:
    value = fields.get("target_id")
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ProtocolError(f"target_id: at most {_LONGEST_NAME} printable characters are expected")
    return value


def text_of(kind: str, **fields: Any) -> str:
    """A message to the page."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def event_text(event: Status | Link) -> str:
    """A status or the state of the link, to the page."""
    fields = dataclasses.asdict(event)
    if isinstance(event, Status):
        return text_of("status", **{**fields, "stamp": str(event.stamp)})
    return text_of("link", **fields)


def picture_bytes(picture: Picture) -> bytes:
    """A picture, to the page."""
    header = json.dumps(
        {
            "stamp": str(picture.stamp),
            "size": picture.size,
            "image_size": picture.image_size,
            "age": picture.age,
            "sent": picture.sent,
        }
    ).encode()
    return struct.pack(">I", len(header)) + header + picture.jpeg
