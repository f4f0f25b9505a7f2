# SPDX-License-Identifier: Apache-2.0
"""Links that MAVLink frames go over: UDP, TCP and serial, framed, signed, and opened again.

Every other end is a `Peer` with a parser, a sequence number and signing of its own, so that what
one sends cannot spoil what another does. One thread polls them all; nothing here blocks, and a link
that is down is tried again with growing pauses.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlkd_ros.mavlink.dialect import mavlink

__all__ = ["Connections", "Endpoint", "Peer", "parse_endpoint", "signing_key"]

#: Seconds after which a UDP peer that says nothing is forgotten; it comes back with its next frame.
_UDP_SILENCE = 60.0
#: Most peers of one listening endpoint: more are a scan, not ground stations.
_MOST_PEERS = 16
#: Seconds between two attempts to open a link: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
#: Bytes that may wait for a slow link. What does not fit is left out, whole frames at a time.
_MOST_WAITING = 32768
_READ_SIZE = 65536
#: Bytes that may wait to be read: a burst of one peer is not to cost another its command.
_RECEIVE_BUFFER = 1 << 20
#: Seconds from the Unix epoch to that of signatures, 2015-01-01.
_SIGNING_EPOCH = 1420070400
_DEFAULT_PORT, _DEFAULT_BAUD = 14550, 57600
_KINDS = ("udpin", "udpout", "tcp", "tcpin", "serial")


@dataclass(frozen=True)
class Endpoint:
    """Where a link goes: `kind` with `host` and `port`, or with `device` and `baud`."""

    kind: str
    host: str = ""
    port: int = 0
    device: str = ""
    baud: int = 0

    def __str__(self) -> str:
        if self.kind == "serial":
            return f"serial:{self.device}:{self.baud}"
        return f"{self.kind}:{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """An endpoint as people write it; ValueError says what would be right.

    ``udpin:ADDRESS:PORT`` listens, ``udpout:HOST:PORT`` speaks first, ``tcp:HOST:PORT`` connects,
    ``tcpin:ADDRESS:PORT`` listens, ``serial:DEVICE:BAUD`` is a serial port.
    """
    kind, _, rest = text.partition(":")
    if kind not in _KINDS or not rest:
        raise ValueError(
            f"connection '{text}' is none: it must be udpin:ADDRESS:PORT, udpout:HOST:PORT, "
            "tcp:HOST:PORT, tcpin:ADDRESS:PORT or serial:DEVICE:BAUD"
        )
    name, separator, last = rest.rpartition(":")
    if not separator:
        name, last = rest, ""
    if kind == "serial":
        baud = _number(text, last, "baud rate", 4_000_000) if last else _DEFAULT_BAUD
        return Endpoint(kind, device=name, baud=baud)
    port = _number(text, last, "port", 65535) if last else _DEFAULT_PORT
    return Endpoint(kind, host=name.strip("[]"), port=port)


def _number(text: str, digits: str, what: str, most: int) -> int:
    if not digits.isdecimal() or not 1 <= int(digits) <= most:
        raise ValueError(f"connection '{text}': '{digits}' is not a {what} from 1 to {most}")
    return int(digits)


def signing_key(passphrase: str) -> bytes:
    """The 32 bytes that ground stations make of a passphrase: its SHA-256. ValueError if empty."""
    text = passphrase.strip()
    if not text:
        raise ValueError("the passphrase for signing is empty")
    return hashlib.sha256(text.encode()).digest()


class _Framing(mavlink.MAVLink):
    """Frames of one peer. Unlike its base it believes a signature's time only after the signature.

    The base class remembers the time of a frame before it checks the frame: a forged one from the
    far future would silence the true sender for good.
    """

    def check_signature(self, msgbuf: bytearray, srcSystem: int, srcComponent: int) -> bool:  # noqa: N803
        key = (msgbuf[-13], srcSystem, srcComponent)
        known = self.signing.stream_timestamps.get(key)
        good = bool(super().check_signature(msgbuf, srcSystem, srcComponent))
        if not good:
            if known is None:
                self.signing.stream_timestamps.pop(key, None)
            else:
                self.signing.stream_timestamps[key] = known
        return good

    def drop_rest(self) -> None:
        """Forget a frame that was begun: with datagrams its end will never come."""
        self.buf = bytearray()
        self.buf_index = 0
        self.expected_length = mavlink.HEADER_LEN_V1 + 2


def _only_radio_status(_mav: Any, message_id: int) -> bool:
    """What is taken in without a signature: the radios of the link itself cannot sign."""
    return bool(message_id == mavlink.MAVLINK_MSG_ID_RADIO_STATUS)


class Peer:
    """Another end. `name` is for people; `bad` counts the frames of it that could not be read.
    `closed`: it will not come back as this peer.
    """

    def __init__(
        self, name: str, write: Callable[[bytes], None], key: bytes | None, link_id: int
    ) -> None:
        self.name = name
        self.bad = 0
        self.closed = False
        self.last_heard = time.monotonic()
        self._write = write
        self._framing = _Framing(None)
        self._framing.robust_parsing = True
        if key is not None:
            signing = self._framing.signing
            signing.secret_key, signing.link_id, signing.sign_outgoing = key, link_id % 256, True
            signing.allow_unsigned_callback = _only_radio_status

    def __repr__(self) -> str:
        return f"Peer({self.name})"

    def parse(self, data: bytes, datagram: bool) -> list[Any]:
        """The messages in `data`. What is not MAVLink, or not signed as it must be, is counted."""
        self.last_heard = time.monotonic()
        self._stamp()
        found = []
        for message in self._framing.parse_buffer(data) or ():
            if message.get_type() == "BAD_DATA":
                self.bad += 1
            elif not message.get_type().startswith("UNKNOWN"):
                found.append(message)
        if datagram:
            self._framing.drop_rest()
        return found

    def send(self, message: Any, system: int, component: int) -> None:
        """Frame it as from that system and component, and send it if the link takes it."""
        framing = self._framing
        self._stamp()
        framing.srcSystem, framing.srcComponent = system, component
        frame = message.pack(framing)
        framing.seq = (framing.seq + 1) % 256
        self._write(bytes(frame))

    def _stamp(self) -> None:
        signing = self._framing.signing
        if signing.secret_key is not None:
            now = int((time.time() - _SIGNING_EPOCH) * 1e5)
            signing.timestamp = max(signing.timestamp, now)


class _Link:
    """One endpoint: opened, read, written and opened again by `Connections`."""

    datagram = False

    def __init__(self, owner: Connections, endpoint: Endpoint, link_id: int) -> None:
        self.endpoint = endpoint
        self.problem = ""
        self._owner = owner
        self._link_id = link_id
        self._next_attempt, self._pause = -math.inf, _FIRST_PAUSE

    def peers(self) -> list[Peer]:
        raise NotImplementedError

    def tend(self, now: float) -> None:
        """Open what is closed, when it is time."""
        if self._closed() and now >= self._next_attempt:
            self._next_attempt = now + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            try:
                self._open()
            except (OSError, ValueError) as error:
                self._fail(f"{self.endpoint}: {error}")

    def _closed(self) -> bool:
        raise NotImplementedError

    def _open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def _opened(self) -> None:
        self.problem, self._pause = "", _FIRST_PAUSE
        self._owner.log(f"{self.endpoint}: open")

    def _fail(self, problem: str) -> None:
        if problem != self.problem:
            self._owner.log(problem)
        self.problem = problem

    def _peer(self, name: str, write: Callable[[bytes], None]) -> Peer:
        return Peer(name, write, self._owner.key, self._link_id)


class _Udp(_Link):
    """A datagram socket: with one peer that it speaks to first, or with all that speak to it."""

    datagram = True

    def __init__(self, owner: Connections, endpoint: Endpoint, link_id: int) -> None:
        super().__init__(owner, endpoint, link_id)
        self._socket: socket.socket | None = None
        self._peers: dict[Any, Peer] = {}

    def peers(self) -> list[Peer]:
        return list(self._peers.values())

    def tend(self, now: float) -> None:
        super().tend(now)
        if self.endpoint.kind == "udpin":
            silent = [a for a, p in self._peers.items() if now - p.last_heard > _UDP_SILENCE]
            for address in silent:
                gone = self._peers.pop(address)
                gone.closed = True
                self._owner.log(f"{self.endpoint}: {gone.name} went silent")

    def _closed(self) -> bool:
        return self._socket is None

    def _open(self) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            self.endpoint.host, self.endpoint.port, type=socket.SOCK_DGRAM
        )[0]
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        try:
            if self.endpoint.kind == "udpin":
                opened.bind(address)
        except OSError:
            opened.close()
            raise
        self._socket = opened
        if self.endpoint.kind == "udpout":
            self._add(address)
        self._owner.watch(opened, self._read)
        self._opened()

    def _add(self, address: Any) -> Peer:
        opened = self._socket

        def write(frame: bytes) -> None:
            # Nobody there, no route, a full queue: datagrams get lost, and the next may not be.
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.sendto(frame, address)

        peer = self._peers[address] = self._peer(f"{address[0]}:{address[1]}", write)
        return peer

    def _read(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data, address = self._socket.recvfrom(_READ_SIZE)
            except BlockingIOError:
                return
            except OSError:  # what an earlier datagram met; the socket is as good as before
                continue
            peer = self._peers.get(address)
            if peer is None:
                if self.endpoint.kind == "udpout" or len(self._peers) >= _MOST_PEERS:
                    continue
                peer = self._add(address)
                self._owner.log(f"{self.endpoint}: {peer.name} speaks")
            self._owner.receive(peer, data, True)

    def close(self) -> None:
        if self._socket is not None:
            self._owner.unwatch(self._socket)
            self._socket.close()
            self._socket = None
            self._peers.clear()


class _Stream:
    """Bytes of one file that may be slow: what cannot be written yet waits, within bounds."""

    def __init__(self, owner: Connections, file: Any, closed: Callable[[str], None]) -> None:
        self.file = file
        self.peer: Peer | None = None
        self._owner, self._tell_closed = owner, closed
        self._waiting = bytearray()
        owner.watch(file, self._read, self._flush)

    def write(self, frame: bytes) -> None:
        if self.file is not None and len(self._waiting) + len(frame) <= _MOST_WAITING:
            self._waiting += frame
            self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                sent = self._send(bytes(self._waiting))
                del self._waiting[:sent]
                if not sent:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.end(str(error))
            return
        self._owner.want_write(self.file, bool(self._waiting))

    def _send(self, data: bytes) -> int:
        # By its number: pyserial's own write() spins while a port is busy.
        return os.write(self.file.fileno(), data)

    def _read(self) -> None:
        try:
            data = os.read(self.file.fileno(), _READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.end(str(error))
            return
        if not data:  # a socket's end; of a serial port, that its plug was pulled
            self.end("the other end closed it")
        elif self.peer is not None:
            self._owner.receive(self.peer, data, False)

    def end(self, reason: str) -> None:
        if self.file is not None:
            self._owner.unwatch(self.file)
            self.file.close()
            self.file = None
            self._tell_closed(reason)


class _Fixed(_Link):
    """A stream to one other end that stays the same peer, however often the link is lost."""

    def __init__(self, owner: Connections, endpoint: Endpoint, link_id: int) -> None:
        super().__init__(owner, endpoint, link_id)
        self._stream: _Stream | None = None
        self._only = self._peer(str(endpoint), self._write)

    def peers(self) -> list[Peer]:
        return [self._only] if self._stream is not None else []

    def _write(self, frame: bytes) -> None:
        if self._stream is not None:
            self._stream.write(frame)

    def _closed(self) -> bool:
        return self._stream is None

    def _take(self, file: Any) -> None:
        self._stream = _Stream(self._owner, file, self._lost)
        self._stream.peer = self._only
        self._opened()

    def _lost(self, reason: str) -> None:
        self._stream = None
        self._next_attempt = time.monotonic() + self._pause
        self._fail(f"{self.endpoint}: lost, {reason}")

    def close(self) -> None:
        if self._stream is not None:
            self._stream.end("closed")


class _TcpTo(_Fixed):
    """A connection that is made, and made again."""

    def __init__(self, owner: Connections, endpoint: Endpoint, link_id: int) -> None:
        super().__init__(owner, endpoint, link_id)
        self._connecting: socket.socket | None = None

    def tend(self, now: float) -> None:
        if self._connecting is not None and now >= self._next_attempt:
            self._give_up("no answer")
        super().tend(now)

    def _closed(self) -> bool:
        return self._stream is None and self._connecting is None

    def _open(self) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM
        )[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = opened.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            opened.close()
            raise OSError(code, errno.errorcode.get(code, str(code)))
        self._connecting = opened
        self._owner.watch(opened, lambda: None, self._finish)
        self._owner.want_write(opened, True)

    def _finish(self) -> None:
        opened = self._connecting
        if opened is None:
            return
        code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._give_up(errno.errorcode.get(code, str(code)))
            return
        self._connecting = None
        self._owner.unwatch(opened)
        self._take(opened)

    def _give_up(self, reason: str) -> None:
        if self._connecting is not None:
            self._owner.unwatch(self._connecting)
            self._connecting.close()
            self._connecting = None
            self._fail(f"{self.endpoint}: cannot connect, {reason}")

    def close(self) -> None:
        self._give_up("closed")
        super().close()


class _Serial(_Fixed):
    """A serial port, which may come and go with its plug."""

    def _open(self) -> None:
        try:
            import serial
        except ImportError as error:
            raise ValueError(
                "a serial port needs pyserial: pip install 'mlkd-ros[mavlink]'"
            ) from error
        # SerialException is an OSError.
        self._take(
            serial.Serial(self.endpoint.device, self.endpoint.baud, timeout=0, write_timeout=0)
        )


class _TcpListen(_Link):
    """A listening socket; everybody who connects is a peer until the connection ends."""

    def __init__(self, owner: Connections, endpoint: Endpoint, link_id: int) -> None:
        super().__init__(owner, endpoint, link_id)
        self._socket: socket.socket | None = None
        self._streams: list[_Stream] = []

    def peers(self) -> list[Peer]:
        return [stream.peer for stream in self._streams if stream.peer is not None]

    def _closed(self) -> bool:
        return self._socket is None

    def _open(self) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM
        )[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setblocking(False)
        try:
            opened.bind(address)
            opened.listen()
        except OSError:
            opened.close()
            raise
        self._socket = opened
        self._owner.watch(opened, self._accept)
        self._opened()

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            accepted, address = self._socket.accept()
        except OSError:
            return
        if len(self._streams) >= _MOST_PEERS:
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = f"{address[0]}:{address[1]}"

        def lost(reason: str) -> None:
            self._streams.remove(stream)
            if stream.peer is not None:
                stream.peer.closed = True
            self._owner.log(f"{self.endpoint}: {name} has gone, {reason}")

        stream = _Stream(self._owner, accepted, lost)
        stream.peer = self._peer(name, stream.write)
        self._streams.append(stream)
        self._owner.log(f"{self.endpoint}: {name} connected")

    def close(self) -> None:
        for stream in list(self._streams):
            stream.end("closed")
        if self._socket is not None:
            self._owner.unwatch(self._socket)
            self._socket.close()
            self._socket = None


_LINKS: dict[str, type[_Link]] = {
    "udpin": _Udp,
    "udpout": _Udp,
    "tcp": _TcpTo,
    "tcpin": _TcpListen,
    "serial": _Serial,
}


class Connections:
    """All links of a component; every method but `wake` is for the one thread that polls.

    take: called with a peer and a message for each one that is received. log: takes a line for
    people whenever a link opens, fails or gains a peer. key: for signing, 32 bytes; None: unsigned
    frames are sent and taken in. first: called before what has been received is handed on.
    """

    def __init__(
        self,
        endpoints: list[Endpoint],
        take: Callable[[Peer, Any], None],
        log: Callable[[str], None] = lambda line: None,
        key: bytes | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        self._first = first
        self.log, self.key = log, key
        self._take = take
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._watched: set[int] = set()
        self.watch(self._woken, self._drain)
        self._links = [_LINKS[e.kind](self, e, i) for i, e in enumerate(endpoints)]

    @property
    def peers(self) -> list[Peer]:
        """Every other end that can be spoken to now."""
        return [peer for link in self._links for peer in link.peers()]

    @property
    def problems(self) -> list[str]:
        """What is wrong with links, in words."""
        return [link.problem for link in self._links if link.problem]

    def poll(self, timeout: float) -> None:
        """Open, read and write what can be; returns after `timeout` seconds or the first events."""
        now = time.monotonic()
        for link in self._links:
            link.tend(now)
        ready = self._selector.select(timeout)
        self._first()
        for key, events in ready:
            read, write = key.data
            watched = id(key.fileobj) in self._watched
            if events & selectors.EVENT_WRITE and write is not None and watched:
                write()
            # Something else that was called for meanwhile may have closed it.
            if events & selectors.EVENT_READ and id(key.fileobj) in self._watched:
                read()

    def wake(self) -> None:
        """Have `poll` return at once. Any thread may call it."""
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def close(self) -> None:
        """Close everything."""
        for link in self._links:
            link.close()
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    # --- for the links ------------------------------------------------------------------------

    def watch(
        self, file: Any, read: Callable[[], None], write: Callable[[], None] | None = None
    ) -> None:
        """Call `read` whenever `file` can be read, and `write` when it can be and is wanted."""
        self._selector.register(file, selectors.EVENT_READ, (read, write))
        self._watched.add(id(file))

    def want_write(self, file: Any, wanted: bool) -> None:
        """Whether to be told when `file` can be written."""
        key = self._selector.get_key(file)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        if key.events != events:
            self._selector.modify(file, events, key.data)

    def unwatch(self, file: Any) -> None:
        """No more calls for `file`."""
        self._selector.unregister(file)
        self._watched.discard(id(file))

    def receive(self, peer: Peer, data: bytes, datagram: bool) -> None:
        """Hand on what is in some bytes of a peer."""
        for message in peer.parse(data, datagram):
            self._take(peer, message)
