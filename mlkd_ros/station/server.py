# SPDX-License-Identifier: Apache-2.0
"""The web server of the ground station: four files and one WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import WSMsgType, web

from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.station.access import Access
from mlkd_ros.station.calls import constant_name
from mlkd_ros.station.clients import Clients, Outbox
from mlkd_ros.station.link import CallError, RosThread
from mlkd_ros.station.protocol import Init, Ping, ProtocolError, Stop, parse, text_of

__all__ = ["Server"]

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FOLDER = Path(__file__).parent / "page"
#: Path in the URL: file and its type. Nothing else is ever served.
_FILES = {
    "/": ("index.html", "text/html"),
    "/station.css": ("station.css", "text/css"),
    "/station.js": ("station.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
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

    def __init__(self, ros: RosThread, access: Access, clients: Clients, cookie: str) -> None:
        self._ros, self._access, self._clients = ros, access, clients
        self._cookie = cookie
        self._files = {
            path: ((_FOLDER / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }
        self.application = web.Application(
            client_max_size=_LARGEST_MESSAGE, middlewares=[self._guard]
        )
        for path in _FILES:
            self.application.router.add_get(path, self._file)
        self.application.router.add_get("/socket", self._socket)
        self.application.router.add_post("/token", self._token)
        self.application.on_response_prepare.append(_add_headers)
        self.application.on_shutdown.append(self._close)

    async def _close(self, _: web.Application) -> None:
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

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if self._clients.full:
            return web.Response(
                status=503, text="As many pages as allowed are open (--max-clients).\n"
            )
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT, max_msg_size=_LARGEST_MESSAGE, compress=False
        )
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, text="This address speaks WebSocket.\n")
        # Reserved before anything is awaited: two pages must not take one place.
        outbox = self._clients.add(socket)
        sender: asyncio.Task[None] | None = None
        try:
            await socket.prepare(request)
            sender = asyncio.create_task(outbox.run())
            await self._listen(socket, _Page(self._ros, outbox))
        finally:
            self._clients.remove(socket)
            if sender is not None:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError, RuntimeError):
                    await sender
        return socket

    async def _listen(self, socket: web.WebSocketResponse, page: _Page) -> None:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                page.take(message.data)
            elif message.type == WSMsgType.BINARY:
                await socket.close(code=1003, message=b"texts only")


class _Page:
    """What one page asks for."""

    def __init__(self, ros: RosThread, outbox: Outbox) -> None:
        self._ros, self._outbox = ros, outbox
        self._tasks: dict[type, asyncio.Task[None]] = {}

    def take(self, text: str) -> None:
        """Act on a message of the page."""
        try:
            message = parse(text)
        except ProtocolError as error:
            self._outbox.text(text_of("reply", request=None, ok=False, code="", message=str(error)))
            return
        if isinstance(message, Ping):
            self._outbox.text(text_of("pong", t=message.t, now=time.monotonic()))
        elif isinstance(message, (Init, Stop)):
            self._begin(message)
        else:
            self._outbox.acknowledged()

    def _begin(self, message: Init | Stop) -> None:
        """One request of a kind at a time: a page that floods gets nothing but refusals."""
        kind = type(message)
        if kind in self._tasks and not self._tasks[kind].done():
            self._reply(message.request, False, "", "the request before is not answered yet")
            return
        act = self._designate(message) if isinstance(message, Init) else self._stop(message)
        self._tasks[kind] = asyncio.create_task(act)

    def _reply(self, request: int, ok: bool, code: str, text: str, **fields: object) -> None:
        self._outbox.text(
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
        )
        try:
            response = await self._ros.call(self._ros.node.init_target, request, _ANSWER_TIMEOUT)
        except CallError as error:
            self._reply(message.request, False, "", str(error))
            return
        self._reply(
            message.request,
            response.code == InitTarget.Response.SUCCESS,
            constant_name(response, response.code),
            response.message,
            stamp=str(nanoseconds(response.stamp)),
            target_id=response.target_id,
            state=constant_name(response.status, response.status.state),
        )

    async def _stop(self, message: Stop) -> None:
        request = StopTarget.Request(target_id=message.target_id)
        try:
            response = await self._ros.call(self._ros.node.stop, request, _ANSWER_TIMEOUT)
        except CallError as error:
            self._reply(message.request, False, "", str(error))
            return
        self._reply(
            message.request,
            response.code == StopTarget.Response.SUCCESS,
            constant_name(response, response.code),
            response.message,
        )


def _bearer(request: web.Request) -> str:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value if kind.lower() == "bearer" else ""


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
