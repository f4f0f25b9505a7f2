# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven over its DevTools protocol: what the user's browser does, no less."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
#: Seconds to wait for a browser that draws without a graphics card, on a machine that is busy.
PATIENCE = 120.0
EXECUTABLE = next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. Coordinates are in CSS pixels of its window."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self.errors: list[str] = []

    async def _read(self) -> None:
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            elif content["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(content["params"]["exceptionDetails"]))
            elif content["method"] == "Log.entryAdded":
                entry = content["params"]["entry"]
                if entry["level"] == "error" and entry.get("source") != "network":
                    self.errors.append(entry["text"])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        message = {"id": self._number, "method": method, "params": params}
        await self._socket.send_str(json.dumps(message))
        content = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in content, f"{method}: {content['error']}"
        return content["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def wait_for(self, expression: str, timeout: float = PATIENCE) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + timeout
        while not (value := await self.evaluate(expression)):
            if time.monotonic() > end:
                text = await self.evaluate("document.body.innerText")
                raise AssertionError(f"waited {timeout} s for {expression}. The page says:\n{text}")
            await asyncio.sleep(0.05)
        return value

    async def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        more.setdefault("button", "left")
        more.setdefault("buttons", 0 if kind == "mouseReleased" else 1)
        await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, clickCount=1, **more)

    async def touch(self, kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": x, "y": y} for x, y in points]
        await self.send("Input.dispatchTouchEvent", type=kind, touchPoints=places)

    async def key(self, key: str, hold: float = 0.0) -> None:
        """Press a key, for so many seconds."""
        await self.send("Input.dispatchKeyEvent", type="keyDown", key=key)
        await asyncio.sleep(hold)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def middle(self, selector: str) -> tuple[float, float]:
        """The middle of an element."""
        x, y = await self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return x, y

    async def click(self, selector: str, hold: float = 0.0) -> None:
        """A click of the mouse on the middle of an element, held down for so many seconds."""
        x, y = await self.middle(selector)
        await self.mouse("mousePressed", x, y)
        await asyncio.sleep(hold)
        await self.mouse("mouseReleased", x, y)

    async def frame(self) -> None:
        """Until what has happened so far is drawn."""
        await self.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    async def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        factor = 2 if phone else 1
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=factor,
            mobile=phone,
        )
        await self.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        await self.frame()

    async def screenshot(self, path: Path) -> None:
        result = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(result["data"]))

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()


class Browser:
    """The browser as a process of its own; an asynchronous context manager."""

    async def __aenter__(self) -> Browser:
        assert EXECUTABLE is not None
        self._folder = tempfile.mkdtemp(prefix="mlkd_ros_browser_")
        self._process = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            "--headless=new",
            "--no-sandbox",  # tests may run as root, in a container
            # WebGL without a graphics card, as the page's tone mapping wants it.
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            # Nobody looks at it, and it is to work all the same.
            "--disable-renderer-backgrounding",
            "--disable-backgrounding-occluded-windows",
            "--disable-background-timer-throttling",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._folder}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._http = aiohttp.ClientSession()
        self._pages: list[Page] = []
        self._address = f"http://127.0.0.1:{await self._port()}"
        return self

    async def _port(self) -> int:
        """The port that it has chosen; it writes it into a file."""
        path = Path(self._folder) / "DevToolsActivePort"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self._process.returncode is None, f"{EXECUTABLE} does not start"
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(path.read_text().splitlines()[0])
            await asyncio.sleep(0.05)
        raise AssertionError(f"{EXECUTABLE} did not open its DevTools port in 60 s")

    async def open(self, url: str) -> Page:
        """A new tab at that address."""
        async with self._http.put(f"{self._address}/json/new?about:blank") as response:
            target = await response.json(content_type=None)
        socket = await self._http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        page = Page(socket)
        self._pages.append(page)
        for domain in ("Page", "Runtime", "Log"):
            await page.send(f"{domain}.enable")
        await page.resize(1280, 800)
        result = await page.send("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        await page.wait_for("location.protocol !== 'about:' && document.readyState === 'complete'")
        return page

    async def __aexit__(self, *_: object) -> None:
        for page in self._pages:
            await page.close()
        await self._http.close()
        with contextlib.suppress(ProcessLookupError):
            # It has children of its own, all of one session.
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
