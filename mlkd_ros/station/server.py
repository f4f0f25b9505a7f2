# SPDX-License-Identifier: Apache-2.0
"""The web server of the ground station: the files of the page, snapshots, and one WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import WSMsgType, web

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.station.access import Access
from mlkd_ros.station.calls import constant_name
from mlkd_ros.station.clients import Client, Clients
from mlkd_ros.station.link import CallError, RosThread
from mlkd_ros.station.protocol import (
    Ack,
    Control,
    Hello,
    Init,
    Ping,
    ProtocolError,
    Record,
    Snapshot,
    Stop,
    Want,
    parse,
    text_of,
)
from mlkd_ros.station.recording import Recording, RecordingError
from mlkd_ros.station.snapshot import save_snapshot

__all__ = ["Server"]

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
#: The page's files by their path in the URL. Nothing else of the package is ever served.
_FILES = {
    "/" if path.name == "index.html" else f"/{path.name}": path
    for path in sorted(_FOLDER.iterdir())
    if path.suffix in _TYPES
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # The first URL has the token in it. With no-referrer, browsers hide where a form is from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "mlkd",
}
#: Characters of the secret by which a tab of a browser is known.
_LONGEST_TAB = 64
#: Why a connection is closed: its tab has made another.
_REPLACED = 4001
#: Bytes of a message of the page, and of the form with the token.
_LARGEST_MESSAGE = 4096
#: Seconds without a sign of life after which a page is taken for gone.
_HEARTBEAT = 10.0
#: Seconds that the tracker may take to answer; it catches up on images before it does.
_ANSWER_TIMEOUT = 10.0
#: Seconds that the browser keeps the token.
_COOKIE_LIFE = 30 * 24 * 3600

_ENTRY = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mlkd ground station</title>
<link rel="stylesheet" href="station.css">
<body class="entry">{body}</body>
</html>"""
_FORM = """<form method="post" action="token">
<h1>Ground station</h1>
<p>{text}</p>
<label>Token <input name="token" type="password" autocomplete="current-password" required></label>
<button>Enter</button>
</form>"""


class Server:
    """The application, between the pages and the node.

    `cookie` names the cookie with the token: ports of one host share cookies, so it has the port
    in it.
    """

    def __init__(
        self,
        ros: RosThread,
        access: Access,
        clients: Clients,
        cookie: str,
        folder: Path | None,
        recorder_arguments: Sequence[str] = (),
    ) -> None:
        self._ros, self._access, self._clients = ros, access, clients
        self._cookie = cookie
        self._folder = folder
        self._recording = Recording(folder, recorder_arguments, self._recording_changed)
        self._snapshots: dict[str, Path] = {}
        self._partings: set[asyncio.Task[None]] = set()
        self._files = {
            url: (path.read_bytes(), _TYPES[path.suffix]) for url, path in _FILES.items()
        }
        self._announce_recording()
        self.application = web.Application(
            client_max_size=_LARGEST_MESSAGE, middlewares=[self._guard]
        )
        for path in _FILES:
            self.application.router.add_get(path, self._file)
        self.application.router.add_get("/socket", self._socket)
        self.application.router.add_get("/snapshots/{name}", self._snapshot_file)
        self.application.router.add_post("/token", self._token)
        self.application.on_response_prepare.append(_add_headers)
        self.application.on_startup.append(self._open)
        self.application.on_shutdown.append(self._close)

    async def _open(self, _: web.Application) -> None:
        self._reporter = asyncio.create_task(self._clients.report())

    async def _close(self, _: web.Application) -> None:
        self._reporter.cancel()
        for parting in self._partings:
            parting.cancel()
        if self._recording.on:
            await self._recording.stop()
        await self._clients.close()

    # --- who may come in ------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let a request pass, or answer with what is wrong with it."""
        access = self._access
        if not access.known_host(request.headers.get("Host", "")):
            return web.Response(
                status=403,
                text="This server does not go by the name in the address bar: use its IP address, "
                "or start it with --allow-host.\n",
            )
        changes = request.method != "GET" or request.path == "/socket"
        # No page of another site can send this header.
        program = bool(access.token) and access.may_enter(_bearer(request))
        if changes and not program and not access.own_page(request.headers):
            return web.Response(status=403, text="Only this server's own page may do that.\n")
        if request.path in ("/token", "/station.css", "/icon.svg"):
            return await handler(request)
        if request.path == "/" and "token" in request.query and access.token:
            return self._enter(request.query["token"])
        if not access.may_enter(self._given_token(request)):
            return self._ask_for_token(401, "Enter the token that ground_station printed.")
        return await handler(request)

    def _given_token(self, request: web.Request) -> str:
        return _bearer(request) or request.cookies.get(self._cookie, "")

    def _ask_for_token(self, status: int, text: str) -> web.Response:
        body = _ENTRY.format(body=_FORM.format(text=text))
        return web.Response(status=status, text=body, content_type="text/html")

    def _enter(self, token: str) -> web.Response:
        """The cookie for a good token, and on to the page."""
        if not self._access.may_enter(token):
            return self._ask_for_token(403, "That is not the token of this ground station.")
        # Not a redirect: a strict cookie is not sent with one that began on another site.
        response = web.Response(
            text=_ENTRY.format(body='<meta http-equiv="refresh" content="0;url=./">'),
            content_type="text/html",
        )
        if self._access.token:
            response.set_cookie(
                self._cookie, token, max_age=_COOKIE_LIFE, httponly=True, samesite="Strict"
            )
        return response

    async def _token(self, request: web.Request) -> web.Response:
        token = (await request.post()).get("token", "")
        return self._enter(token if isinstance(token, str) else "")

    # --- what there is --------------------------------------------------------------------------

    async def _file(self, request: web.Request) -> web.Response:
        body, kind = self._files[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _snapshot_file(self, request: web.Request) -> web.StreamResponse:
        path = self._snapshots.get(request.match_info["name"])
        if path is None or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path)

    # --- recording and snapshots ----------------------------------------------------------------

    def _announce_recording(self) -> None:
        recording = self._recording
        self._clients.announce(
            "recording",
            on=recording.on,
            possible=recording.possible,
            path=recording.path,
            since=recording.since,
        )

    def _recording_changed(self, problem: str) -> None:
        self._announce_recording()
        if problem:
            self._clients.activity(None, problem, level="bad")

    async def record(self, on: bool) -> str:
        """Start or end the recording; what came of it. Raises RecordingError."""
        if on:
            return f"recording to {await self._recording.start()}"
        return await self._recording.stop()

    async def snapshot(self, stamp: int) -> str:
        """Save a picture that a page shows; its name. Raises ActionError."""
        picture = self._clients.recent(stamp)
        if self._folder is None:
            raise ActionError("snapshots are switched off here (--recordings is empty)")
        if picture is None:
            raise ActionError("that picture is no longer held at the ground station")
        loop, pictures = asyncio.get_running_loop(), self._clients.pictures
        try:
            path = await loop.run_in_executor(
                self._clients.coder, save_snapshot, picture, pictures, self._folder
            )
        except (UnusableImageError, OSError) as error:
            raise ActionError(str(error)) from error
        self._snapshots[path.name] = path
        return path.name

    # --- one page -------------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        tab = request.query.get("tab", "")
        if len(tab) > _LONGEST_TAB:
            return web.Response(status=400, text="tab: too long.\n")
        before = self._clients.of_tab(tab)
        if before is None and self._clients.full:
            return web.Response(
                status=503, text="As many pages as allowed are open (--max-clients).\n"
            )
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT, max_msg_size=_LARGEST_MESSAGE, compress=False
        )
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, text="This address speaks WebSocket.\n")
        # Reserved before anything is awaited: two pages must not take one place.
        client = self._clients.add(socket, tab)
        if before is not None:
            self._part(before)
        sender: asyncio.Task[None] | None = None
        try:
            await socket.prepare(request)
            sender = asyncio.create_task(client.run())
            await self._listen(socket, _Page(self, self._ros, self._clients, client))
        finally:
            self._clients.remove(socket)
            if sender is not None:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sender
        return socket

    def _part(self, socket: web.WebSocketResponse) -> None:
        """End a connection whose tab has made another. It is most likely dead: nobody waits."""

        async def part() -> None:
            with contextlib.suppress(ConnectionError, RuntimeError):  # it has not even begun
                await socket.close(code=_REPLACED, message=b"another of this tab")

        parting = asyncio.create_task(part())
        self._partings.add(parting)
        parting.add_done_callback(self._partings.discard)

    async def _listen(self, socket: web.WebSocketResponse, page: _Page) -> None:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                page.take(message.data)
            elif message.type == WSMsgType.BINARY:
                await socket.close(code=1003, message=b"texts only")


class ActionError(Exception):
    """What was asked for cannot be done; the message says why."""


class _Page:
    """What one page asks for."""

    def __init__(self, server: Server, ros: RosThread, clients: Clients, client: Client) -> None:
        self._server, self._ros, self._clients, self._client = server, ros, clients, client
        self._tasks: dict[type, asyncio.Task[None]] = {}

    def take(self, text: str) -> None:
        """Act on a message of the page."""
        try:
            message = parse(text)
        except ProtocolError as error:
            self._client.text(text_of("reply", request=None, ok=False, code="", message=str(error)))
            return
        if isinstance(message, Ack):
            self._client.acknowledged(message)
        elif isinstance(message, Ping):
            self._client.round_trip(message.best)
            self._client.text(text_of("pong", t=message.t, now=time.monotonic()))
        elif isinstance(message, Want):
            self._client.wants(message)
        elif isinstance(message, Hello):
            self._client.hello(message)
            self._clients.introduce(self._client, message.name)
        elif isinstance(message, Control):
            self._clients.control(self._client, message.take)
            self._reply(message.request, True, "SUCCESS", "")
        else:
            self._begin(message)

    def _begin(self, message: Init | Stop | Record | Snapshot) -> None:
        """One request of a kind at a time: a page that floods gets nothing but refusals."""
        kind = type(message)
        if kind in self._tasks and not self._tasks[kind].done():
            self._reply(message.request, False, "BUSY", "the request before is not answered yet")
        elif not isinstance(message, Snapshot) and not self._clients.may_act(self._client):
            holder = self._clients.holder()
            self._reply(message.request, False, "NOT_IN_CONTROL", f"{holder} has the control")
        else:
            self._tasks[kind] = asyncio.create_task(self._act(message))

    async def _act(self, message: Init | Stop | Record | Snapshot) -> None:
        try:
            if isinstance(message, Init):
                await self._designate(message)
            elif isinstance(message, Stop):
                await self._stop(message)
            elif isinstance(message, Record):
                text = await self._server.record(message.on)
                self._reply(message.request, True, "SUCCESS", text)
                did = "started recording" if message.on else "ended the recording"
                self._clients.activity(self._client, did)
            else:
                name = await self._server.snapshot(message.stamp)
                self._reply(message.request, True, "SUCCESS", name, file=f"snapshots/{name}")
                self._clients.activity(self._client, f"took a snapshot ({name})")
        except CallError as error:
            self._reply(message.request, False, "NO_ANSWER", str(error))
        except (ActionError, RecordingError) as error:
            self._reply(message.request, False, "FAILED", str(error))

    def _reply(self, request: int, ok: bool, code: str, text: str, **fields: object) -> None:
        self._client.text(
            text_of("reply", request=request, ok=ok, code=code, message=text, **fields)
        )

    async def _designate(self, message: Init) -> None:
        x, y, width, height = message.box
        request = InitTarget.Request(
            stamp=time_message(message.stamp),
            x=x,
            y=y,
            width=width,
            height=height,
            image_width=message.image_size[0],
            image_height=message.image_size[1],
            target_id=message.target_id,
            fit=message.fit,
        )
        self._client.asked = message.stamp or None
        try:
            response = await self._ros.call(self._ros.node.init_target, request, _ANSWER_TIMEOUT)
        finally:
            self._client.asked = None
        ok = response.code == InitTarget.Response.SUCCESS
        status = response.status
        self._reply(
            message.request,
            ok,
            constant_name(response, response.code),
            response.message,
            stamp=str(nanoseconds(response.stamp)),
            now=str(nanoseconds(status.header.stamp)),
            target_id=response.target_id,
            state=constant_name(status, status.state),
            confidence=float(status.confidence),
            box=[float(value) for value in response.box],
            image_size=[status.image_width, status.image_height],
        )
        if ok:
            again = "again " if message.target_id else ""
            what = f"marked target {response.target_id} {again}".strip()
            self._clients.activity(self._client, what, target_id=response.target_id)

    async def _stop(self, message: Stop) -> None:
        request = StopTarget.Request(target_id=message.target_id)
        response = await self._ros.call(self._ros.node.stop, request, _ANSWER_TIMEOUT)
        self._reply(
            message.request,
            response.code == StopTarget.Response.SUCCESS,
            constant_name(response, response.code),
            response.message,
            stopped=list(response.stopped),
        )
        for name in response.stopped:
            self._clients.activity(self._client, f"stopped target {name}", target_id=name)


def _bearer(request: web.Request) -> str:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value if kind.lower() == "bearer" else ""


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
