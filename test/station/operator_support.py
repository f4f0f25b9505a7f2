# SPDX-License-Identifier: Apache-2.0
"""An operator at the page, in a real browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from browser import Browser, Page
from station_support import SIZE, Box, Observer, wait_for

# Of the pictures on the page, small and few: the browser draws without a graphics card here.
STATION = ("--port", "0", "--width", "400", "--rate", "6")

#: Formats that the page is looked at in: width, height, phone.
FORMATS = {
    "desktop": (1440, 900, False),
    "laptop": (1280, 720, False),
    "upright": (390, 844, True),
    "sideways": (844, 390, True),
}


class Operator:
    """Sees the page, and knows from the ground truth where on it the target is."""

    def __init__(self, page: Page, observer: Observer) -> None:
        self.page = page
        self._observer = observer

    async def ready(self) -> None:
        """Until there are a tracker and a picture."""
        await self.state("IDLE")
        await self.page.wait_for("document.getElementById('stage').dataset.stamp")
        await self.page.wait_for("!station.scene.cannotMark()")
        # The tracker met the camera at its own time, and holds only what came after that.
        while not self._observer.spoken_of_by(await self.shown()):
            await asyncio.sleep(0.05)

    async def shown(self) -> int:
        """The stamp of the picture on the screen."""
        return int(await self.page.evaluate("stage.dataset.held ?? stage.dataset.stamp ?? '0'"))

    async def place(self, x: float, y: float) -> tuple[float, float]:
        """In the window, from shares of the picture's width and height."""
        left, top, u, v = await self.page.evaluate(
            f"(() => {{ const r = stage.getBoundingClientRect();"
            f" return [r.x, r.y, ...station.view.toScreen({x}, {y})]; }})()"
        )
        return left + u, top + v

    async def target(self, stamp: int) -> Box:
        """Left, top, right, bottom of the target in the window, on the picture of that stamp."""
        x, y, w, h = await wait_for(lambda: self._observer.truth.get(stamp), "its ground truth")
        left, top = await self.place(x / SIZE[0], y / SIZE[1])
        right, bottom = await self.place((x + w) / SIZE[0], (y + h) / SIZE[1])
        return left, top, right, bottom

    async def press(self) -> Box:
        """Press the mouse at the target's corner. The target, on the picture that is now held."""
        left, top, _, _ = await self.target(await self.shown())
        await self.page.mouse("mouseMoved", left, top, buttons=0, button="none")
        await self.page.mouse("mousePressed", left, top)
        assert await self.page.evaluate("'held' in stage.dataset")
        return await self.target(await self.shown())

    async def drag_to(self, x: float, y: float) -> None:
        for step in (0.3, 0.7, 1.0):
            await self.page.mouse("mouseMoved", x - 20 * (1 - step), y - 20 * (1 - step))

    async def designate(self) -> dict[str, str]:
        """Drag a box around the target; the answer."""
        before = len(await self.replies("init"))
        _, _, right, bottom = await self.press()
        await self.drag_to(right, bottom)
        await self.page.mouse("mouseReleased", right, bottom)
        return await self.reply("init", before + 1)

    async def replies(self, kind: str) -> list[dict[str, str]]:
        """What the page says of the answers to requests of that kind, the newest first."""
        selector = json.dumps(f"#messages li[data-request={kind}]")
        return await self.page.evaluate(
            f"[...document.querySelectorAll({selector})].map((e) => "
            "({...e.dataset, text: e.textContent}))"
        )

    async def reply(self, kind: str, number: int) -> dict[str, str]:
        await self.page.wait_for(
            f"document.querySelectorAll('#messages li[data-request={kind}]').length >= {number}"
        )
        return (await self.replies(kind))[0]

    async def logged(self, **data: str) -> str:
        """The text of a line in the log with these marks, once it is there."""
        marks = "".join(f"[data-{key}={json.dumps(value)}]" for key, value in data.items())
        found = f"document.querySelector({json.dumps(f'#messages li{marks}')})?.textContent"
        return await self.page.wait_for(found)

    async def state(self, name: str, timeout: float = 120.0) -> None:
        # A page that has just been asked for has no elements yet.
        found = f"document.getElementById('state')?.dataset.state === {json.dumps(name)}"
        await self.page.wait_for(found, timeout)

    async def boxes(self, *selectors: str) -> list[list[float]]:
        """x, y, width, height of elements, in the window."""
        return await self.page.evaluate(
            f"{json.dumps(selectors)}.map((s) => {{ const r ="
            " document.querySelector(s).getBoundingClientRect();"
            " return [r.x, r.y, r.width, r.height]; })"
        )

    async def pixels(self, path: Path) -> np.ndarray:
        """The window as it is seen, BGR."""
        await self.page.screenshot(path)
        return cv2.imread(str(path))


def in_browser(
    act: Callable[[Operator], Coroutine[Any, Any, None]], address: str, observer: Observer
) -> None:
    """Let an operator act on the page; it must not have logged an error by then."""

    async def run() -> None:
        async with Browser() as browser:
            page = await browser.open(address)
            await act(Operator(page, observer))
            assert page.errors == []

    asyncio.run(run())


def overlaps(one: list[float], other: list[float]) -> bool:
    """Whether two x, y, width, height have anything in common."""
    (x, y, w, h), (a, b, c, d) = one, other
    return x < a + c and a < x + w and y < b + d and b < y + h


class Everywhere(dict[int, Box]):
    """The same on every image."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def get(self, stamp: int, default: object = None) -> Box:  # type: ignore[override]
        return self._box


TARGET = (280, 150, 64, 48)


def _picture(target: tuple[int, int, int, int] | None) -> np.ndarray:
    """A place, with a target there or without."""
    rng = np.random.default_rng(5)
    picture = cv2.GaussianBlur(rng.normal(60, 40, (SIZE[1], SIZE[0], 3)), (0, 0), 8)
    if target is not None:
        x, y, w, h = target
        colours = rng.integers(60, 255, (6, 8, 3)).astype(np.uint8)
        picture[y : y + h, x : x + w] = cv2.resize(colours, (w, h), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def still_life(folder: Path, seen: int = 16, gone: int = 0) -> dict[int, Box]:
    """Images in a folder: of a target that stays where it is, then of the place without it; where
    that is, by stamp.
    """
    with_target, without = _picture(TARGET), _picture(None)
    for index in range(seen + gone):
        picture = with_target if index < seen else without
        cv2.imwrite(str(folder / f"{index:03}.png"), picture)
    x, y, w, h = TARGET
    return Everywhere((float(x), float(y), float(w), float(h)))


class Scenery:
    """A folder of four images for `replay --loop`, which reads each when it is due: what is shown
    there changes at once, while the camera goes on.
    """

    def __init__(self, folder: Path, target: tuple[int, int, int, int], sway: int) -> None:
        """The target sways by so many pixels to the right, and back."""
        self._folder = folder
        x, y, w, h = target
        self.still = _picture(target)
        moved = [_picture((x + step * sway // 2, y, w, h)) for step in (0, 1, 2, 1)]
        self._scenes = {"swaying": moved, "still": [self.still] * 4, "gone": [_picture(None)] * 4}
        self.show("still")

    def show(self, scene: str) -> None:
        """From the next image on; each file is replaced as a whole."""
        for index, picture in enumerate(self._scenes[scene]):
            new = self._folder / f"{index}.new"
            new.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            new.replace(self._folder / f"{index}.png")
