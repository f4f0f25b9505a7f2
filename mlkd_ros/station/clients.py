# SPDX-License-Identifier: Apache-2.0
"""The open pages: what waits for each (the newest picture only, texts in order), who sits there,
and who of them has the control.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.video_encoder import CodingError
from mlkd_ros.station.link import Event, Picture, Status
from mlkd_ros.station.pace import Pace, levels
from mlkd_ros.station.picture import (
    BLOCK,
    Coded,
    H264Stream,
    Pictures,
    h264_available,
    jpeg,
)
from mlkd_ros.station.protocol import Ack, Hello, Want, event_text, picture_bytes, text_of

__all__ = ["Client", "Clients", "Watched"]

_LOG = logging.getLogger(__name__)
#: Texts that wait for a slow page: some seconds of statuses, then the oldest are left out.
_TEXTS = 400
#: Seconds between two statuses of a target in the same state.
_STATUS_EVERY = 0.25
#: Seconds between two reports of what is on the screens.
_REPORT_EVERY = 0.2
#: Memory for pictures that were sent and may be asked for as a snapshot, bytes.
_RECENT_BYTES = 128 << 20
#: Picture width of a page that has not said what it shows.
_USUAL_WIDTH = 960
#: Name of those who have given none, before a number.
_UNNAMED = "Operator"

#: Told what was sent since the last time, and the oldest picture on a screen (None: nobody looks).
Watched = Callable[[Sequence[int], "int | None"], None]


class Client:
    """One page. Used in the event loop only."""

    def __init__(
        self, socket: web.WebSocketResponse, clients: Clients, name: str, tab: str
    ) -> None:
        self.name = name
        #: A secret of the browser's tab, the same after a reload; empty: none.
        self.tab = tab
        #: Stamp of the picture on its screen, or the first that may be; None while nobody sees it.
        self.showing: int | None = None
        #: Stamp of the picture that a mark under way was made on. The tracker is to keep it until
        #: it has answered, though the page shows another by then.
        self.asked: int | None = None
        self._socket, self._clients = socket, clients
        self._texts: deque[str] = deque(maxlen=_TEXTS)
        self._picture: Picture | None = None
        self._pace = Pace(clients.levels)
        self._stream: H264Stream | None = None
        self._width = _USUAL_WIDTH
        self._number = 0
        self._wake = asyncio.Event()

    def text(self, text: str) -> None:
        """Send a text after those before it."""
        self._texts.append(text)
        self._wake.set()

    def picture(self, picture: Picture) -> None:
        """Send a picture instead of any that still waits."""
        if self._width:
            self._picture = picture
            self._wake.set()

    def hello(self, message: Hello) -> None:
        """The page can do more than JPEG, perhaps."""
        able = message.h264 and self._clients.h264
        self._stream = H264Stream() if able else None

    def wants(self, message: Want) -> None:
        """Another size, or none at all."""
        self._width = message.width
        if message.key and self._stream is not None:
            self._stream.restart()
        if not message.width:
            self._picture = self.showing = None

    def acknowledged(self, message: Ack) -> None:
        """The page has a picture, and tells which one is on its screen."""
        self._pace.acknowledged(message.number, time.monotonic())
        # A page that has drawn none yet will begin with one that is on its way, the first at the
        # earliest: what `_send` has noted.
        self.showing = message.stamp or self.showing
        self._wake.set()

    def round_trip(self, seconds: float) -> None:
        """The page's quickest exchange took so long."""
        if seconds > 0:
            self._pace.round_trip(seconds, time.monotonic())

    async def run(self) -> None:
        """Send until cancelled, or the connection is lost.

        A page that is sent no more must not wait for it: whatever else goes wrong ends the
        connection, and the page makes another.
        """
        try:
            await self._run()
        except ConnectionError:
            pass  # the listening side finds it out, too
        except Exception:
            _LOG.exception(
                "nothing more can be sent to %s: the page has to connect anew", self.name
            )
            await self._socket.close(code=1011, message=b"a fault of the ground station")

    async def _run(self) -> None:
        while True:
            wait = self._pace.wait(time.monotonic()) if self._picture is not None else None
            patience = wait if wait is not None and wait < 60.0 else None
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), patience)
            self._wake.clear()
            while self._texts:
                await self._socket.send_str(self._texts.popleft())
            if self._picture is not None and self._pace.wait(time.monotonic()) <= 0:
                picture, self._picture = self._picture, None
                await self._send(picture)

    async def _send(self, picture: Picture) -> None:
        loop = asyncio.get_running_loop()
        try:
            # The stream as it is now: the page may ask for another kind while this is coded.
            coded = await loop.run_in_executor(
                self._clients.coder, self._coded, picture, self._stream
            )
        except CodingError as error:
            _LOG.warning("%s. %s is sent JPEGs from now on", error, self.name)
            self._stream = None
            return
        except UnusableImageError as error:
            self._clients.unusable(str(error))
            return
        self._clients.unusable("")
        now = time.monotonic()
        self._number += 1
        self._pace.sent(self._number, now)
        if self.showing is None:
            self.showing = picture.stamp
        self._clients.sent(picture)
        await self._socket.send_bytes(picture_bytes(picture, coded, self._number, now))

    def _coded(self, picture: Picture, stream: H264Stream | None) -> Coded:
        """In the coding thread."""
        level = self._pace.level
        width = min(level.width, max(self._width, 160))
        block = BLOCK if stream is not None else 1
        pixels, image_size = self._clients.pictures.scaled(picture.message, width, block)
        if stream is not None:
            return stream.encode(pixels, image_size, level)
        return jpeg(pixels, image_size, level.quality)


class Clients:
    """All open pages.

    `watch` is called with whether there are any, when that changes; `watched` is told what is on
    their screens; `unusable` what is wrong with the latest image, empty if nothing is.
    """

    def __init__(
        self,
        limit: int,
        picture: tuple[int, float, int],
        watch: Callable[[bool], None],
        watched: Watched,
        unusable: Callable[[str], None],
        h264: bool = True,
    ) -> None:
        self._limit = limit
        self.levels = levels(*picture)
        self.unusable = unusable
        self.h264 = h264 and h264_available()
        self.pictures = Pictures()
        #: One thread, so that coding takes one core at the most.
        self.coder = ThreadPoolExecutor(1, "coder")
        self._watch, self._watched = watch, watched
        self._open: dict[web.WebSocketResponse, Client] = {}
        self._in_control: Client | None = None
        self._recent: OrderedDict[int, Picture] = OrderedDict()
        self._recent_bytes = 0
        self._sent: list[int] = []
        self._told: dict[str, tuple[float, str]] = {}
        self._count = 0
        #: Told to pages that open later, by their type.
        self._standing: dict[str, str] = {}

    @property
    def full(self) -> bool:
        """Whether there is no room for another page."""
        return len(self._open) >= self._limit

    def of_tab(self, tab: str) -> web.WebSocketResponse | None:
        """The connection that a tab already has."""
        return next((socket for socket, one in self._open.items() if tab and one.tab == tab), None)

    def add(self, socket: web.WebSocketResponse, tab: str = "") -> Client:
        """A page has come. Of a tab that was here already, it takes the place of the one before:
        that is dead, and nobody has been told.
        """
        self._count += 1
        old = self.of_tab(tab)
        before = self._open.pop(old) if old is not None else None
        name = before.name if before is not None else self._free_name("")
        client = self._open[socket] = Client(socket, self, name, tab)
        for text in self._standing.values():
            client.text(text)
        if before is not None and self._in_control is before:
            self._in_control = client
        self._watch(True)
        return client

    def remove(self, socket: web.WebSocketResponse) -> None:
        """A page has gone."""
        client = self._open.pop(socket, None)
        if client is None:
            return
        if self._in_control is client:
            self._in_control = None
            self.activity(client, "has left, and the control is free", key="left")
        self._tell_people()
        self._watch(bool(self._open))

    # --- who is there ---------------------------------------------------------------------------

    def introduce(self, client: Client, name: str) -> None:
        """A page says who sits there. Two of one name are told apart by a number."""
        if name or not client.name.startswith(_UNNAMED):
            client.name = self._free_name(name, client)
        self._tell_people()

    def _free_name(self, wanted: str, of: Client | None = None) -> str:
        taken = {one.name for one in self._open.values() if one is not of}
        name, number = wanted or _UNNAMED, 1 if wanted else self._count
        while True:
            full = name if wanted and number == 1 else f"{name} {number}"
            if full not in taken:
                return full
            number += 1

    def holder(self) -> str:
        """Name of who has the control; empty: nobody."""
        return self._in_control.name if self._in_control is not None else ""

    def may_act(self, client: Client) -> bool:
        """Whether a page may give orders. The control that nobody has is its own then."""
        if self._in_control is None:
            self._in_control = client
            self._tell_people()
        return self._in_control is client

    def control(self, client: Client, take: bool) -> None:
        """A page takes the control, or leaves it."""
        if take and self._in_control is not client:
            before = self.holder()
            self._in_control = client
            self.activity(client, "took the control" + (f" from {before}" if before else ""))
        elif not take and self._in_control is client:
            self._in_control = None
            self.activity(client, "left the control to others")
        self._tell_people()

    def _tell_people(self) -> None:
        names = [one.name for one in self._open.values()]
        for client in self._open.values():
            client.text(
                text_of(
                    "people",
                    you=client.name,
                    names=names,
                    control=self.holder(),
                    yours=self._in_control is client,
                )
            )

    def activity(self, client: Client | None, what: str, **fields: Any) -> None:
        """Tell every page what somebody did (None: this ground station)."""
        who = client.name if client is not None else ""
        for one in self._open.values():
            one.text(text_of("activity", who=who, yours=one is client, what=what, **fields))

    def announce(self, kind: str, **fields: Any) -> None:
        """Tell every page, also those that open later."""
        text = self._standing[kind] = text_of(kind, **fields)
        for client in self._open.values():
            client.text(text)

    # --- what they are shown --------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Send news to every page."""
        if isinstance(event, CameraSettings):
            self.coder.submit(self.pictures.use, event)
        elif isinstance(event, Picture):
            for client in self._open.values():
                client.picture(event)
        elif self._open and not (isinstance(event, Status) and self._known(event)):
            text = event_text(event)
            for client in self._open.values():
                client.text(text)

    def _known(self, status: Status) -> bool:
        """Whether a status says little new. A picture brings its own anyway."""
        now = time.monotonic()
        at, state = self._told.get(status.target_id, (0.0, ""))
        if state == status.state and now - at < _STATUS_EVERY:
            return True
        if status.state == "IDLE":
            self._told.clear()
        self._told[status.target_id] = now, status.state
        return False

    def sent(self, picture: Picture) -> None:
        """A picture is on its way to a page."""
        self._sent.append(picture.stamp)
        if picture.stamp in self._recent:
            return
        self._recent[picture.stamp] = picture
        self._recent_bytes += len(picture.message.data)
        while len(self._recent) > 1 and self._recent_bytes > _RECENT_BYTES:
            _, old = self._recent.popitem(last=False)
            self._recent_bytes -= len(old.message.data)

    def recent(self, stamp: int) -> Picture | None:
        """A picture that was sent a short while ago."""
        return self._recent.get(stamp)

    async def report(self) -> None:
        """Tell what is on the screens, until cancelled."""
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            stamps = [stamp for one in self._open.values() for stamp in (one.showing, one.asked)]
            shown = [stamp for stamp in stamps if stamp is not None]
            sent, self._sent = self._sent, []
            if sent or shown:
                self._watched(sent, min(shown, default=None))

    async def close(self) -> None:
        """Say goodbye to all."""
        for socket in list(self._open):
            await socket.close(code=1001, message=b"the ground station ends")
        self.coder.shutdown(wait=False)
