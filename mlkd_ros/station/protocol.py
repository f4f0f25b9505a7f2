# SPDX-License-Identifier: Apache-2.0
"""What goes over the WebSocket between server and page.

From the server: JSON texts, and pictures as binary messages: the length of a JSON header as four
bytes, big-endian, that header, the coded picture. Stamps are nanoseconds as a string of digits: a
JavaScript number cannot hold them. A picture brings the statuses of its very image with it.

| text | |
| --- | --- |
| `status` | what the tracker says of a target: at every change of state, and some times a second |
| `link` | who is there and how fast, four times a second |
| `people` | the names at the open pages, and who of them has the control |
| `activity` | what somebody did, at this or another page, or what happened to the recording |
| `recording` | whether there is one, since when, whose |
| `reply` | the answer to a request, by its number |
| `pong` | the answer to a ping |

From the page: JSON texts, checked here; each is a class below. The WebSocket's address may end in
`?tab=` and a secret of the browser's tab: another connection with the same one takes the place of
this one, with its name and the control, and this one is closed with code 4001.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlkd_ros.station.link import Link, Picture, Status
from mlkd_ros.station.picture import Coded

__all__ = [
    "Ack",
    "Control",
    "Hello",
    "Init",
    "Message",
    "Ping",
    "ProtocolError",
    "Record",
    "Snapshot",
    "Stop",
    "Want",
    "event_text",
    "parse",
    "picture_bytes",
    "text_of",
]

#: Characters of a target's name that are accepted; the tracker makes much shorter ones.
_LONGEST_NAME = 128
#: Characters of a person's name.
_LONGEST_PERSON = 24


class ProtocolError(ValueError):
    """A message that the page would not send; says what is wrong with it."""


@dataclass(frozen=True)
class Hello:
    """Who sits there (empty: the server chooses a name), and whether H.264 can be decoded there."""

    name: str
    h264: bool


@dataclass(frozen=True)
class Want:
    """The width in pixels that the page shows pictures at, 0 for a page that nobody sees; and a
    picture that does not depend on those before it, after a failure to decode.
    """

    width: int
    key: bool = False


@dataclass(frozen=True)
class Ack:
    """Picture `number` has been received and decoded; on the screen is the one of `stamp` (ns)."""

    number: int
    stamp: int


@dataclass(frozen=True)
class Init:
    """Designate: a box in pixels of the picture shown, which had `image_size` and `stamp` (ns).

    With `fit` only the box's corner x, y counts, as a point on the target.
    """

    request: int
    stamp: int
    box: tuple[float, float, float, float]
    image_size: tuple[int, int]
    target_id: str
    fit: bool


@dataclass(frozen=True)
class Stop:
    """Stop following a target; empty `target_id`: all of them."""

    request: int
    target_id: str


@dataclass(frozen=True)
class Control:
    """Take the control, or leave it to others."""

    request: int
    take: bool


@dataclass(frozen=True)
class Record:
    """Start or end a recording."""

    request: int
    on: bool


@dataclass(frozen=True)
class Snapshot:
    """Keep the picture of `stamp` (ns) as a file, at full resolution."""

    request: int
    stamp: int


@dataclass(frozen=True)
class Ping:
    """To be answered with the same `t`; `best` is the quickest answer so far, in seconds, 0 before
    the first.
    """

    t: float
    best: float = 0.0


Message = Hello | Want | Ack | Init | Stop | Control | Record | Snapshot | Ping

_REQUEST = 2**53


def parse(text: str) -> Message:
    """A message of the page. Raises ProtocolError."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("not a JSON object")
    kind = fields.get("type")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise ProtocolError(f"unknown type {kind!r:.40}")
    return read(fields)


def _init(fields: dict[str, Any]) -> Init:
    width, height = (_size(value) for value in _list(fields, "image_size", 2))
    x, y, w, h = (_real(value, "box") for value in _list(fields, "box", 4))
    return Init(
        _whole(fields, "request", _REQUEST),
        _stamp(fields),
        (x, y, w, h),
        (width, height),
        _name(fields, "target_id", _LONGEST_NAME),
        _flag(fields, "fit"),
    )


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


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ProtocolError(f"{name}: true or false is expected")
    return value


def _stamp(fields: dict[str, Any]) -> int:
    text = fields.get("stamp")
    digits = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20
    if not digits or int(text) >= 2**31 * 10**9:  # type: ignore[arg-type]
        raise ProtocolError("stamp: nanoseconds as a string of digits are expected")
    return int(text)  # type: ignore[arg-type]


def _name(fields: dict[str, Any], name: str, longest: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ProtocolError(f"{name}: at most {longest} printable characters are expected")
    return value


_READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "hello": lambda f: Hello(_name(f, "name", _LONGEST_PERSON).strip(), _flag(f, "h264")),
    "want": lambda f: Want(_whole(f, "width", 2**16), _flag(f, "key")),
    "ack": lambda f: Ack(_whole(f, "number", _REQUEST), _stamp(f)),
    "init": _init,
    "stop": lambda f: Stop(_whole(f, "request", _REQUEST), _name(f, "target_id", _LONGEST_NAME)),
    "control": lambda f: Control(_whole(f, "request", _REQUEST), _flag(f, "take")),
    "record": lambda f: Record(_whole(f, "request", _REQUEST), _flag(f, "on")),
    "snapshot": lambda f: Snapshot(_whole(f, "request", _REQUEST), _stamp(f)),
    "ping": lambda f: Ping(_number(f, "t"), _real(f.get("best", 0.0), "best")),
}


def text_of(kind: str, **fields: Any) -> str:
    """A message to the page."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def _status_fields(status: Status) -> dict[str, Any]:
    return {**dataclasses.asdict(status), "stamp": str(status.stamp)}


def event_text(event: Status | Link) -> str:
    """A status or the state of the link, to the page."""
    if isinstance(event, Status):
        return text_of("status", **_status_fields(event))
    return text_of("link", **dataclasses.asdict(event))


def picture_bytes(picture: Picture, coded: Coded, number: int, sent: float) -> bytes:
    """A coded picture, to the page; `sent` is now, on the server's steady clock in seconds."""
    header = json.dumps(
        {
            "number": number,
            "stamp": str(picture.stamp),
            "size": coded.size,
            "image_size": coded.image_size,
            "codec": coded.codec,
            "key": coded.key,
            "age": None if picture.age is None else picture.age + sent - picture.received,
            "sent": sent,
            "statuses": [_status_fields(status) for status in list(picture.statuses.values())],
        },
        separators=(",", ":"),
    ).encode()
    return struct.pack(">I", len(header)) + header + coded.data
