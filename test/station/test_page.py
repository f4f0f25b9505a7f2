# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: an operator drags a box on the video, and the tracker follows."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import EXECUTABLE, NAMES, Browser, Page
from station_support import CAMERA, SIZE, TRACKER, Box, Observer, address_of, wait_for

from mlkd_ros.msg import TrackStatus

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason=f"no browser: none of {', '.join(NAMES)}"),
    pytest.mark.timeout(600),
]

# Of the pictures on the page, small and few: the browser draws without a graphics card here.
STATION = ("--port", "0", "--width", "480", "--rate", "6")


class Operator:
    """Sees the page, and knows from the ground truth where on it the target is."""

    def __init__(self, page: Page, observer: Observer) -> None:
        self.page = page
        self._observer = observer

    async def shown(self) -> int:
        """The stamp of the picture on the screen."""
        return int(await self.page.evaluate("view.dataset.held ?? view.dataset.stamp ?? '0'"))

    async def target(self, stamp: int) -> Box:
        """Left, top, right, bottom of the target in the window, on the picture of that stamp."""
        x, y, w, h = await wait_for(lambda: self._observer.truth.get(stamp), "its ground truth")
        left, top, width = await self.page.evaluate(
            "(() => { const r = marks.getBoundingClientRect(); return [r.x, r.y, r.width]; })()"
        )
        scale = width / SIZE[0]
        return left + x * scale, top + y * scale, left + (x + w) * scale, top + (y + h) * scale

    async def press(self) -> Box:
        """Press the mouse at the target's corner. The target, on the picture that is now held."""
        left, top, _, _ = await self.target(await self.shown())
        await self.page.mouse("mouseMoved", left, top, buttons=0, button="none")
        await self.page.mouse("mousePressed", left, top)
        assert await self.page.evaluate("'held' in view.dataset")
        return await self.target(await self.shown())

    async def spot(self, across: float, down: float) -> tuple[float, float]:
        """A place on the picture, by its shares of width and height, once that has its place."""
        await self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        x, y, w, h = await self.page.evaluate(
            "(() => { const r = marks.getBoundingClientRect();"
            " return [r.x, r.y, r.width, r.height]; })()"
        )
        return x + w * across, y + h * down

    async def drag_to(self, x: float, y: float) -> None:
        for step in (0.3, 0.7, 1.0):
            await self.page.mouse("mouseMoved", x - 20 * (1 - step), y - 20 * (1 - step))

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

    async def state(self, name: str) -> None:
        await self.page.wait_for(f"document.getElementById('state').dataset.state === '{name}'")


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


def test_drag_follow_stop(start_node: Callable, observer: Observer) -> None:
    start_node("night_camera", "--ros-args", *CAMERA)
    tracker = start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("night_camera", "tracker")
    address = address_of(start_node("ground_station", *STATION))

    async def act(operator: Operator) -> None:
        page = operator.page
        await operator.state("IDLE")
        await page.wait_for("view.dataset.stamp")

        # The picture is held from the first moment of the drag, while the video goes on.
        _, _, right, bottom = await operator.press()
        held = await operator.shown()
        await operator.drag_to(right, bottom)
        await wait_for(lambda: observer.newest() - held > 1.5e9, "images after the held one")
        assert await operator.shown() == held
        assert await operator.replies("init") == []
        await page.mouse("mouseReleased", right, bottom)

        # The request has the stamp of the held picture, and the tracker follows from there.
        reply = await operator.reply("init", 1)
        assert reply["code"] == "SUCCESS", reply
        assert int(reply["stamp"]) == held
        caught_up = re.search(r"followed through (\d+) images", tracker.output)
        assert caught_up and int(caught_up[1]) >= 3
        target = reply["text"].split("target ")[1].split()[0]
        good = lambda: [  # noqa: E731
            s
            for s in observer.since(held)
            if s.state == TrackStatus.TRACKING and observer.overlap(s) > 0.5
        ]
        await wait_for(lambda: len(good()) >= 5, "five good boxes")
        assert {status.target_id for status in good()} == {target}
        await operator.state("TRACKING")
        assert float(await page.evaluate("confidence.textContent")) > 0.2
        # A box is drawn, where the target is on that very picture.
        await page.wait_for("drawnColours().green > 10".replace("drawnColours()", COLOURS))

        await page.click("#stop")
        assert (await operator.reply("stop", 1))["code"] == "SUCCESS"
        await operator.state("IDLE")
        await wait_for(lambda: observer.statuses[-1].state == TrackStatus.IDLE, "no target")

    in_browser(act, address, observer)


# Counts the pixels of the overlay that have the colour of TRACKING.
COLOURS = (
    "(() => { const d = marks.getContext('2d').getImageData(0, 0, marks.width, marks.height).data;"
    " let green = 0; for (let i = 0; i < d.length; i += 4)"
    " if (d[i] === 90 && d[i + 1] === 230 && d[i + 2] === 120) green++; return {green}; })()"
)


def test_click_keys_and_touch(start_node: Callable, observer: Observer) -> None:
    start_node("night_camera", "--ros-args", *CAMERA)
    start_node("tracker", "--ros-args", *TRACKER, "-p", "max_targets:=2")
    observer.meet("night_camera", "tracker")
    address = address_of(start_node("ground_station", *STATION))

    async def act(operator: Operator) -> None:
        page = operator.page
        await operator.state("IDLE")
        await page.wait_for("view.dataset.stamp")

        # Esc ends a drag: nothing is sent.
        await operator.press()
        await page.key("Escape")
        assert not await page.evaluate("'held' in view.dataset")
        await page.mouse("mouseReleased", 300, 300)

        # A click designates a box of the size chosen, in pixels of the camera.
        await page.evaluate("document.getElementById('click-size').value = 40")
        left, top, right, bottom = await operator.target(await operator.shown())
        for kind in ("mousePressed", "mouseReleased"):
            await page.mouse(kind, (left + right) / 2, (top + bottom) / 2)
        assert (await operator.reply("init", 1))["code"] == "SUCCESS"
        assert len(await operator.replies("init")) == 1  # and none of the drag that was ended
        await wait_for(lambda: [s for s in observer.statuses if s.width > 0], "a box")

        # The second target by touch, on the screen of a phone.
        await page.resize(390, 844, phone=True)
        await page.wait_for("view.clientWidth <= 390")
        x, y = await operator.spot(0.25, 0.25)
        await page.touch("touchStart", (x, y))
        await page.touch("touchMove", (x + 25, y + 15))
        await page.touch("touchMove", (x + 40, y + 30))
        await page.touch("touchEnd")
        assert (await operator.reply("init", 2))["code"] == "SUCCESS"
        await page.wait_for("document.querySelectorAll('#targets li').length === 2")

        # One of them is stopped by its button, a third is refused in the tracker's words.
        await page.resize(1280, 800)
        await page.wait_for("view.clientWidth > 390")
        x, y = await operator.spot(0.5, 0.5)
        for kind in ("mousePressed", "mouseReleased"):
            await page.mouse(kind, x, y)
        assert (await operator.reply("init", 3))["code"] == "TOO_MANY_TARGETS"
        await page.click("#targets li:last-child button:last-child")
        assert (await operator.reply("stop", 1))["code"] == "SUCCESS"
        await page.wait_for("document.querySelectorAll('#targets li').length === 1")

        # S stops what is left.
        await page.key("s")
        assert (await operator.reply("stop", 2))["code"] == "SUCCESS"
        await operator.state("IDLE")

    in_browser(act, address, observer)


def test_the_page_says_what_is_missing(start_node: Callable, observer: Observer) -> None:
    address = address_of(start_node("ground_station", *STATION))

    async def act(operator: Operator) -> None:
        page = operator.page
        await operator.state("NO TRACKER")
        await page.wait_for("notice.innerText.includes('Waiting for video on /mlkd/image')")
        camera = start_node("night_camera", "--ros-args", *CAMERA)
        await page.wait_for("notice.hidden && view.dataset.stamp")
        tracker = start_node("tracker", "--ros-args", *TRACKER)
        await operator.state("IDLE")
        camera.stop()
        await page.wait_for(r"/No image for [\d.]+ s on \/mlkd\/image/.test(notice.innerText)")
        before = await operator.shown()
        start_node("night_camera", "--ros-args", *CAMERA)
        await page.wait_for(f"notice.hidden && BigInt(view.dataset.stamp) > {before}n")
        tracker.stop()
        await operator.state("NO TRACKER")
        # Without a tracker, the video goes on.
        before = await operator.shown()
        await page.wait_for(f"BigInt(view.dataset.stamp) > {before + 2 * 10**9}n")

    in_browser(act, address, observer)


class Everywhere(dict[int, Box]):
    """The same on every image."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def get(self, stamp: int, default: object = None) -> Box:  # type: ignore[override]
        return self._box


def still_life(folder: Path) -> dict[int, Box]:
    """Images of a target that stays where it is, in a folder; where that is, by stamp."""
    rng = np.random.default_rng(5)
    image = cv2.GaussianBlur(rng.normal(60, 40, (SIZE[1], SIZE[0], 3)), (0, 0), 8)
    x, y, w, h = 280, 150, 64, 48
    colours = rng.integers(60, 255, (6, 8, 3)).astype(np.uint8)
    image[y : y + h, x : x + w] = cv2.resize(colours, (w, h), interpolation=cv2.INTER_CUBIC)
    for index in range(16):
        cv2.imwrite(str(folder / f"{index:02}.png"), image.astype(np.uint8))
    return Everywhere((float(x), float(y), float(w), float(h)))


def test_the_tracker_dies_and_comes_back(
    start_node: Callable, observer: Observer, tmp_path: Path
) -> None:
    """Killed in flight, and started again to resume its target: the page goes on, not reloaded."""
    # A target that is found again for certain, however long that takes on a busy machine.
    observer.truth = still_life(tmp_path)
    start_node("replay", str(tmp_path), "--loop", "--frame-rate", "8")
    resume = ("-p", "resume:=true", "-p", f"resume_file:={tmp_path / 'targets.npz'}")
    tracker = start_node("tracker", "--ros-args", *TRACKER, *resume)
    observer.meet("tracker")
    address = address_of(start_node("ground_station", *STATION))

    async def act(operator: Operator) -> None:
        page = operator.page
        await page.evaluate("window.loadedOnce = true")
        await operator.state("IDLE")
        await page.wait_for("view.dataset.stamp")
        _, _, right, bottom = await operator.press()
        await operator.drag_to(right, bottom)
        await page.mouse("mouseReleased", right, bottom)
        reply = await operator.reply("init", 1)
        assert reply["code"] == "SUCCESS", reply
        name = reply["text"].split("target ")[1].split()[0]
        await operator.state("TRACKING")
        await wait_for((tmp_path / "targets.npz").is_file, "the saved target")

        tracker.process.kill()
        tracker.process.wait()
        # At first silence: DDS takes its time to miss who did not say good-bye.
        await page.wait_for(
            "document.getElementById('state').dataset.state === 'NO NEWS' && "
            "document.getElementById('state-note').textContent.includes('Nothing heard of the')"
        )
        await page.wait_for("document.querySelector('#targets li').dataset.state === 'OLD'")
        # No box is drawn on pictures that the tracker has not seen; the video goes on without it.
        before = await operator.shown()
        await page.wait_for(f"BigInt(view.dataset.stamp) > {before + 2 * 10**9}n")
        assert await page.evaluate("drawnColours().green".replace("drawnColours()", COLOURS)) == 0
        await operator.state("NO TRACKER")
        assert await page.evaluate("document.getElementById('stop').disabled")

        before = await operator.shown()
        start_node("tracker", "--ros-args", *TRACKER, *resume)
        # It is resumed without the operator, under its name.
        await operator.state("TRACKING")
        await wait_for(
            lambda: [s for s in observer.since(before) if observer.overlap(s) > 0.5], "the target"
        )
        assert await page.evaluate("document.querySelector('#targets li').dataset.target") == name
        await page.wait_for("drawnColours().green > 10".replace("drawnColours()", COLOURS))
        # And it listens to the page again.
        await page.click("#stop")
        assert (await operator.reply("stop", 1))["code"] == "SUCCESS"
        await operator.state("IDLE")
        assert len(await operator.replies("init")) == 1
        assert await page.evaluate("window.loadedOnce")

    in_browser(act, address, observer)
