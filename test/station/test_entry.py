# SPDX-License-Identifier: Apache-2.0
"""The form with the token in a real browser, and behind a proxy, under a path of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from browser import EXECUTABLE, Browser, Page
from station_support import address_of

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no browser")

TOKEN = "0123456789abcdefghij"


@pytest.fixture
def port(start_node: Callable, tmp_path: Path) -> int:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    options = ("--port", "0", "--bind", "0.0.0.0", "--token-file", str(file))
    station = start_node("ground_station", *options, "--allow-host", "gs.localhost")
    found = urlsplit(address_of(station)).port
    assert found is not None
    return found


async def enter(page: Page) -> None:
    """Type the token into the form, and see the page with its connection."""
    await page.wait_for("!!document.querySelector('input[name=token]')")
    await page.evaluate(f"document.querySelector('input[name=token]').value = '{TOKEN}'")
    await page.evaluate("document.querySelector('button').click()")
    await page.wait_for("!!document.querySelector('script[type=module]')")
    entries = "performance.getEntriesByType('resource').map((e) => e.name)"
    await page.wait_for(f"{entries}.some((name) => name.endsWith('.js'))")
    assert await page.evaluate("!location.search.includes('token')")


def test_the_form(port: int) -> None:
    async def act() -> None:
        async with Browser() as browser:
            page = await browser.open(f"http://127.0.0.1:{port}/")
            await enter(page)
            socket = "new Promise((done) => { const s = new WebSocket(new URL('socket', "
            socket += "location.href).href.replace(/^http/, 'ws')); s.onopen = () => done(true);"
            socket += " s.onerror = () => done(false); })"
            assert await page.evaluate(socket)

    asyncio.run(act())


@pytest.mark.parametrize("own_host", [True, False])
def test_under_a_path_of_a_proxy(port: int, own_host: bool) -> None:
    """`own_host`: the proxy hands on the name in the address bar, without the port."""

    async def act() -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as upstream:

            async def forward(request: web.Request) -> web.StreamResponse:
                url = f"http://127.0.0.1:{port}/{request.match_info['rest']}"
                if request.query_string:
                    url += f"?{request.query_string}"
                dropped = {"host", "connection", "upgrade", "content-length"}
                headers = {
                    k: v
                    for k, v in request.headers.items()
                    if k.lower() not in dropped and not k.lower().startswith("sec-websocket")
                }
                if own_host:
                    headers["Host"] = "gs.localhost"
                if request.headers.get("Upgrade", "").lower() == "websocket":
                    return await bridge(request, url, headers)
                async with upstream.request(
                    request.method, url, headers=headers, data=await request.read()
                ) as answer:
                    kept = {
                        k: v
                        for k, v in answer.headers.items()
                        if k.lower() not in ("transfer-encoding", "content-length", "date")
                    }
                    return web.Response(
                        status=answer.status, body=await answer.read(), headers=kept
                    )

            async def bridge(
                request: web.Request, url: str, headers: dict[str, str]
            ) -> web.StreamResponse:
                async with upstream.ws_connect(url, headers=headers) as inner:
                    outer = web.WebSocketResponse()
                    await outer.prepare(request)
                    message = await inner.receive()
                    await outer.send_str(str(message.data))
                    await outer.close()
                    return outer

            application = web.Application()
            application.router.add_route("*", "/uav/{rest:.*}", forward)
            runner = web.AppRunner(application)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert site._server is not None
            proxy = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
            async with Browser() as browser:
                page = await browser.open(f"http://gs.localhost:{proxy}/uav/")
                await enter(page)
                socket = "new Promise((done) => { const s = new WebSocket(new URL('socket', "
                socket += "location.href).href.replace(/^http/, 'ws')); s.onmessage = (m) => "
                socket += "done(m.data); s.onerror = () => done(''); })"
                assert "type" in await page.evaluate(socket)
            await runner.cleanup()

    asyncio.run(act())
