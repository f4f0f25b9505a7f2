# SPDX-License-Identifier: Apache-2.0
"""A bad link between a page and a ground station: a TCP relay that is late, and stands still."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

#: Bytes taken at once; what waits in the relay is bounded by it and the sockets' buffers.
_CHUNK = 1 << 14


class SlowLink:
    """Relays connections to a port. `delay` seconds each way; every `stall_every` seconds nothing
    gets through for `stall` seconds, in either direction; `rate` bytes a second towards the page.
    What is `cut` is swallowed, and nobody is told.

    An asynchronous context manager; `port` is the one to connect to.
    """

    def __init__(
        self,
        port: int,
        delay: float = 0.0,
        stall: float = 0.0,
        stall_every: float = 1e9,
        rate: float = 1e9,
    ) -> None:
        self._to, self._delay, self._rate = port, delay, rate
        self._stall, self._stall_every = stall, stall_every
        self._begin = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._era = 0
        self.stalls = 0
        self.bytes_down = 0

    async def __aenter__(self) -> SlowLink:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Swallow all that comes, of connections that there are and of those that come."""
        self._era += 1

    def mend(self) -> None:
        """Let through what comes on new connections. The others stay as they are: dead."""
        self._era += 1

    def _alive(self, era: int) -> bool:
        """Whether a connection made in that era has been cut by none since."""
        return era == self._era and era % 2 == 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
        for source, sink, rate in ((reader, up_writer, 1e9), (up_reader, writer, self._rate)):
            task = asyncio.create_task(self._relay(source, sink, rate, self._era))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, rate: float, era: int
    ) -> None:
        waiting: deque[tuple[float, bytes]] = deque()
        more = asyncio.Event()
        ended = False

        async def take() -> None:
            nonlocal ended
            with contextlib.suppress(ConnectionError):
                while data := await source.read(_CHUNK):
                    waiting.append((time.monotonic() + self._delay, data))
                    more.set()
                    if rate < 1e9:  # a slow line does not take it faster
                        await asyncio.sleep(len(data) / rate)
            ended = True
            more.set()

        taker = asyncio.create_task(take())
        try:
            with contextlib.suppress(ConnectionError):
                while True:
                    while not waiting:
                        # That one side has closed it is swallowed, too.
                        if ended and self._alive(era):
                            return
                        more.clear()
                        await more.wait()
                    due, data = waiting.popleft()
                    await asyncio.sleep(max(due - time.monotonic(), 0.0))
                    await self._stand_still()
                    if not self._alive(era):
                        continue
                    self.bytes_down += len(data) if rate != 1e9 else 0
                    sink.write(data)
                    await sink.drain()
        finally:
            taker.cancel()
            sink.close()

    async def _stand_still(self) -> None:
        phase = (time.monotonic() - self._begin) % self._stall_every
        if phase > self._stall_every - self._stall:
            self.stalls += 1
            await asyncio.sleep(self._stall_every - phase)
