# SPDX-License-Identifier: Apache-2.0
"""The open pages, and what waits for each: the newest picture only, texts in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp import web

from mlkd_ros.station.link import Event, Picture
from mlkd_ros.station.protocol import event_text, picture_bytes

__all__ = ["Clients", "Outbox"]

#: Pictures sent and not yet acknowledged. Two keep a line busy; more would queue up in it and be
#: old when they arrive.
_IN_FLIGHT = 2
#: Texts that wait for a slow page: some seconds of statuses, then the oldest are left out.
_TEXTS = 400


class Outbox:
    """What one page is sent. Used in the event loop only."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._texts: deque[str] = deque(maxlen=_TEXTS)
        self._picture: Picture | None = None
        self._in_flight = 0
        self._wake = asyncio.Event()

    def text(self, text: str) -> None:
        """Send a text after those before it."""
        self._texts.append(text)
        self._wake.set()

    def picture(self, picture: Picture) -> None:
        """Send a picture instead of any that still waits."""
        self._picture = picture
        self._wake.set()

    def acknowledged(self) -> None:
        """The page has one picture less under way."""
        self._in_flight = max(0, self._in_flight - 1)
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled, or the connection is lost (ConnectionError)."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._texts:
                await self._socket.send_str(self._texts.popleft())
            picture = self._picture
            if picture is not None and self._in_flight < _IN_FLIGHT:
                self._picture = None
                self._in_flight += 1
                await self._socket.send_bytes(picture_bytes(picture))


class Clients:
    """All open pages. `watched` is called with whether there are any, when that changes."""

    def __init__(self, limit: int, watched: Callable[[bool], None]) -> None:
        self._limit = limit
        self._watched = watched
        self._open: dict[web.WebSocketResponse, Outbox] = {}

    @property
    def full(self) -> bool:
        """Whether there is no room for another page."""
        return len(self._open) >= self._limit

    def add(self, socket: web.WebSocketResponse) -> Outbox:
        """A page has come."""
        outbox = self._open[socket] = Outbox(socket)
        self._watched(True)
        return outbox

    def remove(self, socket: web.WebSocketResponse) -> None:
        """A page has gone."""
        self._open.pop(socket, None)
        self._watched(bool(self._open))

    def tell(self, event: Event) -> None:
        """Send news to every page."""
        if isinstance(event, Picture):
            for outbox in self._open.values():
                outbox.picture(event)
        elif self._open:
            text = event_text(event)
            for outbox in self._open.values():
                outbox.text(text)

    async def close(self) -> None:
        """Say goodbye to all."""
        for socket in list(self._open):
            await socket.close(code=1001, message=b"the ground station ends")
