# SPDX-License-Identifier: Apache-2.0
"""A whole watch at the page, from the first mark to the end of the tracker, in every format.

On a desk by mouse and keyboard, on a phone by fingers only. What is checked is what is seen: the
window's pixels, what is drawn and written on the video, what a finger can reach.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import EXECUTABLE, NAMES, Browser
from operator_support import FORMATS, STATION, Everywhere, Operator, Scenery, overlaps
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from station_support import SIZE, TRACKER, Observer, address_of, wait_for

from mlkd_ros.tracking.geometry import iou

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason=f"no browser: none of {', '.join(NAMES)}"),
    pytest.mark.timeout(900),
]

#: Small, so that it is enlarged in every format; two steps left of the middle, one up.
TARGET = (296, 164, 24, 18)
#: Elsewhere in the picture, for marks that are about nothing in particular.
GROUND = (100, 60, 60, 45)
#: Colours on the video.
RED, GREEN, AMBER = (255, 143, 143), (90, 230, 120), (255, 190, 60)
#: Longest way of a finger that is still a tap, and of a mouse, in CSS pixels.
TAP = {True: 2.5 * 150 / 25.4, False: 1.2 * 96 / 25.4}
WORDS_OF_MACHINES = ("target_id", "max_targets", "TOO_MANY", "ROS_DOMAIN_ID", "NOT_IN_CONTROL")

# What the page asks of the browser and of the station is noted, and done all the same.
SPY = """
window.spied = { sent: [], shaken: [], tones: [], drawn: [] };
(() => {
  const wrap = (owner, name, note) => {
    const own = owner[name];
    owner[name] = function (...given) { note.apply(this, given); return own.apply(this, given); };
  };
  wrap(WebSocket.prototype, "send", (text) => spied.sent.push(JSON.parse(text).type));
  wrap(Navigator.prototype, "vibrate", (pattern) => spied.shaken.push(pattern));
  wrap(AudioScheduledSourceNode.prototype, "start", function () {
    if (this.context.state === "running") spied.tones.push(this.frequency.value);
  });
  const pen = CanvasRenderingContext2D.prototype;
  wrap(pen, "clearRect", () => { spied.drawn = []; });
  wrap(pen, "fillText", function (text, x, y) {
    spied.drawn.push([text, x, y, this.measureText(text).width, this.fillStyle]);
  });
  // Where on the video marks have a colour, or a thin line of it on its dark outline:
  // y * 10000 + x, in CSS pixels of the stage.
  window.inked = (colour) => {
    const c = document.getElementById("marks"), f = c.width / c.clientWidth;
    const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data, found = new Set();
    const most = Math.max(...colour), at = colour.indexOf(most);
    for (let i = 0; i < c.width * c.height; i++) {
      const share = d[4 * i + at] / most;
      if (share < 0.5 || d[4 * i + 3] < 128) continue;
      if (colour.some((value, k) => Math.abs(d[4 * i + k] - share * value) > 12)) continue;
      found.add(Math.floor(Math.floor(i / c.width) / f) * 10000 + Math.floor((i % c.width) / f));
    }
    return [...found];
  };
})();
"""


def test_a_watch_in_every_format(start_node: Callable, observer: Observer, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    scenery = Scenery(images, TARGET, sway=4)
    observer.truth = Everywhere(tuple(map(float, TARGET)))  # type: ignore[arg-type]
    start_node("replay", str(images), "--loop", "--frame-rate", "6")
    address = address_of(start_node("ground_station", *STATION, "--recordings", str(tmp_path)))

    async def run() -> None:
        async with Browser() as browser:
            ben = Operator(await browser.open(address), observer)
            anna = Operator(await browser.open(address), observer)
            for operator, name in ((ben, "Ben"), (anna, "Anna")):
                await operator.page.evaluate(
                    f"(() => {{ const n = document.getElementById('name'); n.value = '{name}';"
                    " n.dispatchEvent(new Event('change')); })()"
                )
            await anna.page.send("Page.addScriptToEvaluateOnNewDocument", source=SPY)
            for name in FORMATS:
                await _Watch(name, anna, ben, observer, scenery, start_node, tmp_path).all()
            assert anna.page.errors == [] and ben.page.errors == []

    asyncio.run(run())


class _Watch:
    """Anna's watch at the page in one format; Ben's is in another tab."""

    def __init__(
        self,
        name: str,
        anna: Operator,
        ben: Operator,
        observer: Observer,
        scenery: Scenery,
        start_node: Callable,
        folder: Path,
    ) -> None:
        self.name, self.anna, self.ben, self.page = name, anna, ben, anna.page
        self.width, self.height, self.phone = FORMATS[name]
        self.observer, self.scenery, self.start_node = observer, scenery, start_node
        self.folder = folder

    async def all(self) -> None:
        begun = time.monotonic()
        for act in (
            self.begin,
            self.the_picture_is_brightened_and_that_is_remembered,
            self.enlarge_move_and_tap,
            self.one_number_and_one_colour,
            self.trail_and_magnifier,
            self.keep,
            self.another_takes_the_control,
            self.the_preview_goes_when_the_mouse_rests,
            self.lost_and_given_up,
            self.stop_by_holding,
            self.keys,
            self.one_too_many,
            self.the_tracker_dies,
        ):
            await act()
            now = time.monotonic()
            print(f"{self.name}: {act.__name__} {now - begun:.1f} s")
            begun = now

    # --- by mouse or by finger --------------------------------------------------------------------

    async def down(self, x: float, y: float) -> None:
        if self.phone:
            await self.page.touch("touchStart", (x, y))
        else:
            await self.page.mouse("mousePressed", x, y)

    async def move(self, x: float, y: float) -> None:
        if self.phone:
            await self.page.touch("touchMove", (x, y))
        else:
            await self.page.mouse("mouseMoved", x, y)

    async def up(self, x: float, y: float) -> None:
        if self.phone:
            await self.page.touch("touchEnd")
        else:
            await self.page.mouse("mouseReleased", x, y)

    async def press(self, selector: str) -> None:
        """Touch or click what can be seen there, and is not covered."""
        x, y = await self.page.middle(selector)
        there = f"document.elementFromPoint({x}, {y})?.closest({json.dumps(selector)}) !== null"
        assert await self.page.evaluate(there), f"{self.name}: {selector} is covered"
        await self.down(x, y)
        await self.up(x, y)

    async def drag(self, box: Sequence[float]) -> None:
        """From one corner to the other of left, top, right, bottom."""
        left, top, right, bottom = box
        await self.down(left, top)
        for share in (0.4, 0.8, 1.0):
            await self.move(left + share * (right - left), top + share * (bottom - top))
        await self.up(right, bottom)

    async def ground(self, number: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of some ground in the window."""
        x, y, w, h = GROUND
        x += number * 3 * w
        left, top = await self.anna.place(x / SIZE[0], y / SIZE[1])
        right, bottom = await self.anna.place((x + w) / SIZE[0], (y + h) / SIZE[1])
        return left, top, right, bottom

    # --- what is seen -----------------------------------------------------------------------------

    async def drawn(self, expression: str) -> Any:
        """A value as of what is on the canvas: after the page has had its turn in a frame."""
        return await self.page.evaluate(
            "new Promise(requestAnimationFrame).then(() => {"
            f" const {{ scene, view, marks }} = station; return {expression}; }})"
        )

    async def until_drawn(self, expression: str, timeout: float = 60.0) -> Any:
        end = time.monotonic() + timeout
        while not (value := await self.drawn(expression)):
            assert time.monotonic() < end, f"{self.name}: waited {timeout} s for {expression}"
            await asyncio.sleep(0.05)
        return value

    async def readable(self, *selectors: str) -> None:
        """All of the text is in the window, not cut, and nothing lies over it."""
        bad = await self.page.evaluate(
            f"""{json.dumps(selectors)}.flatMap((s) => {{
              const e = document.querySelector(s), r = e.getBoundingClientRect();
              const over = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);
              return [
                r.width && r.height ? "" : "not there",
                r.left >= 0 && r.top >= 0 && r.right <= innerWidth && r.bottom <= innerHeight
                  ? "" : `outside: ${{[r.left, r.top, r.right, r.bottom]}}`,
                e.scrollHeight <= e.clientHeight + 1 && e.scrollWidth <= e.clientWidth + 1
                  ? "" : `cut: ${{[e.scrollWidth, e.scrollHeight, e.clientWidth, e.clientHeight]}}`,
                !over || e.contains(over) || getComputedStyle(e).pointerEvents === "none"
                  ? "" : `under ${{over.id || over.tagName}}`,
              ].filter(Boolean).map((why) => `${{s}} "${{e.textContent}}" ${{why}}`);
            }})"""
        )
        assert bad == [], self.name

    async def message(self, *words: str) -> str:
        """The message with these words, beside the picture, where all of it can be read."""
        element = "document.getElementById('message')"
        has = " && ".join(f"{element}.innerText.includes({json.dumps(word)})" for word in words)
        text = await self.page.wait_for(f"!{element}.hidden && {has} && {element}.innerText")
        assert not any(word in text for word in WORDS_OF_MACHINES), (self.name, text)
        await self.readable("#message")
        return text

    async def window(self, what: str) -> tuple[np.ndarray, float]:
        """The window's pixels, BGR, and how many there are to a CSS pixel."""
        picture = await self.anna.pixels(self.folder / f"{self.name}_{what}.png")
        return picture, picture.shape[1] / self.width

    async def target_is_where_it_should_be(self, what: str) -> None:
        """The picture itself shows the target where a box around it would be drawn."""
        left, top, right, bottom = await self.anna.target(0)
        end = time.monotonic() + 30.0
        while (alike := await self.alike(what, left, top, right, bottom)) < 0.6:
            assert time.monotonic() < end, f"{self.name}, {what}: {alike:.2f} like the target"

    async def alike(self, what: str, left: float, top: float, right: float, bottom: float) -> float:
        """How much like the target that part of the window is, 1 at the most."""
        picture, scale = await self.window(what)
        left, top, right, bottom = (round(scale * value) for value in (left, top, right, bottom))
        x, y, w, h = TARGET
        seen = cv2.resize(picture[top:bottom, left:right], (4 * w, 4 * h))
        target = cv2.resize(self.scenery.still[y : y + h, x : x + w], (4 * w, 4 * h))
        # Without what is drawn at its edges. Brightening is another shade for each.
        inner = np.s_[h // 2 : -h // 2, w // 2 : -w // 2]
        one, other = (cv2.GaussianBlur(part, (0, 0), 3)[inner].ravel() for part in (seen, target))
        return float(np.corrcoef(one, other)[0, 1])

    def noted(self, kind: str) -> Any:
        return self.page.evaluate(f"spied.{kind}")

    async def marks_sent(self) -> int:
        return (await self.noted("sent")).count("init")

    # --- what is done -----------------------------------------------------------------------------

    async def begin(self) -> None:
        """The tracker is there, the log is empty, alarms are switched on where they are tried."""
        self.scenery.show("still")
        self.observer.statuses.clear()
        self.tracker = self.start_node("tracker", "--ros-args", *TRACKER, "-p", "max_targets:=2")
        await self.page.resize(self.width, self.height, phone=self.phone)
        await self.page.send("Page.bringToFront")
        await self.anna.ready()
        await self.press("#more")
        await self.page.wait_for("document.getElementById('settings').open")
        for name in ("sound", "vibrate"):
            on = await self.page.evaluate(f"document.getElementById('{name}').checked")
            if on != self.alarms(name):
                await self.press(f"#{name}")
        await self.press("#tone label:has(input[value=off])")
        await self.press("#settings .close")

    def alarms(self, name: str) -> bool:
        return self.name == {"sound": "desktop", "vibrate": "upright"}[name]

    async def the_picture_is_brightened_and_that_is_remembered(self) -> None:
        page = self.page
        await page.send("Page.reload")
        await page.wait_for("document.documentElement?.dataset.tone === 'off' && window.spied")
        # However slow this machine is, messages are still there when they are looked at.
        await page.wait_for("window.station")
        await page.evaluate("void (station.panel.lasts = { good: 6e4, bad: 6e4, '': 6e4 })")
        await self.anna.ready()
        assert await page.evaluate("station.screen.mode") == "off"
        off = await self.ground_light("off")
        await self.press("#more")
        await self.press("#tone label:has(input[value=auto])")
        await self.press("#settings .close")
        end = time.monotonic() + 30.0
        while (auto := await self.ground_light("auto")) < 1.3 * off:
            assert time.monotonic() < end, f"{self.name}: {auto:.0f}, without {off:.0f}"
        # What was chosen before is chosen now.
        for name in ("sound", "vibrate"):
            assert await page.evaluate(f"station.alarm.{name}") == self.alarms(name)

    async def ground_light(self, what: str) -> float:
        left, top, right, bottom = await self.ground(0)
        picture, scale = await self.window(what)
        left, top, right, bottom = (round(scale * value) for value in (left, top, right, bottom))
        return float(picture[top:bottom, left:right].mean())

    async def enlarge_move_and_tap(self) -> None:
        """The picture goes where mouse or fingers move it; a tap on it is on what is seen there."""
        page = self.page
        before = await self.anna.target(0)
        x, y = (before[0] + before[2]) / 2, (before[1] + before[3]) / 2
        if self.phone:
            await self.fingers([(x, y, 30), (x, y, 60), (x, y, 75)])
            await self.fingers([(x, y, 50), (x + 15, y + 10, 50), (x + 30, y + 20, 50)])
        else:
            wheel = {"x": x, "y": y, "deltaX": 0, "deltaY": -510}
            await page.send("Input.dispatchMouseEvent", type="mouseWheel", **wheel)
            await page.wait_for("station.view.zoom > 2.4")
            # With Shift, or by the middle button.
            how: dict[str, Any] = {"button": "middle", "buttons": 4}
            if self.name == "desktop":
                how = {"modifiers": 8}
            await page.mouse("mousePressed", x, y, **how)
            for share in (0.5, 1.0):
                await page.mouse("mouseMoved", x + 30 * share, y + 20 * share, **how)
            await page.mouse("mouseReleased", x + 30, y + 20, **{**how, "buttons": 0})
        assert await page.evaluate("station.view.zoom") == pytest.approx(2.5, rel=0.02), self.name
        left, top, right, bottom = await self.anna.target(0)
        assert (right - left) / (before[2] - before[0]) == pytest.approx(2.5, rel=0.02), self.name
        moved = [(left + right) / 2 - x, (top + bottom) / 2 - y]
        assert moved == pytest.approx([30, 20], abs=2), self.name
        await self.target_is_where_it_should_be("enlarged")
        assert await self.marks_sent() == 0
        assert not await page.evaluate("'held' in stage.dataset")

        # It rolls on the way, as far as a tap may.
        x, y = (left + right) / 2, (top + bottom) / 2
        roll = 0.9 * TAP[self.phone]
        await self.down(x, y)
        await self.move(x + 0.5 * roll, y + 0.2 * roll)
        await self.move(x + 0.8 * roll, y + 0.6 * roll)
        await self.up(x + 0.8 * roll, y + 0.6 * roll)
        # The tracker fits the box, and the page shows it where the tap was.
        dashed = await page.wait_for("station.fitted()?.box")
        reply = await self.anna.reply("init", 1)
        assert reply["code"] == "SUCCESS", (self.name, reply)
        at, above = (await self.anna.boxes("#stage"))[0][:2]
        shown = (dashed[0] + at, dashed[1] + above, *dashed[2:])
        assert iou(shown, (left, top, right - left, bottom - top)) > 0.4, (self.name, shown)
        assert "marked" in await self.message("Target", "marked")
        self.target = reply["target"]
        await page.wait_for("!('held' in stage.dataset)")
        await self.all_of_the_picture()
        await self.followed()

    async def fingers(self, ways: list[tuple[float, float, float]]) -> None:
        """Two fingers: their middle, and half of how far they are apart."""
        for index, (x, y, apart) in enumerate(ways):
            kind = "touchMove" if index else "touchStart"
            await self.page.touch(kind, (x - apart, y), (x + apart, y))
        await self.page.touch("touchEnd")

    async def all_of_the_picture(self) -> None:
        if self.phone:
            x, y = await self.anna.place(0.5, 0.5)
            x, y = min(max(x, 120), self.width - 120), min(max(y, 80), self.height - 80)
            await self.fingers([(x, y, 100), (x, y, 60), (x, y, 20)])
        else:
            await self.page.key("0")
        assert await self.page.evaluate("station.view.zoom") == 1

    async def followed(self) -> None:
        """The box is on the target, on the picture that is shown."""
        await self.page.wait_for("['TRACKING', 'WEAK'].includes(state.dataset.state)")

        def good() -> bool:
            return self.observer.overlap(self.observer.statuses[-1]) > 0.4

        await wait_for(good, f"{self.name}: a box on the target")

    async def one_number_and_one_colour(self) -> None:
        """State, number and colour are the same on the video, beside it, and in the list."""
        seen: set[str] = set()
        for _ in range(8):
            one = await self.until_drawn(
                """(() => {
                  const s = scene.shown.statuses[0], $ = (id) => document.getElementById(id);
                  const row = document.querySelector('#targets span');
                  const colour = (e) => getComputedStyle(e).color.match(/\\d+/g).map(Number);
                  const news = $('state').dataset.state !== 'NO NEWS'; // all of it was held up
                  return s?.box && news && !scene.behind && {
                    stamp: s.stamp, number: s.confidence.toFixed(2),
                    beside: [$('state-name').textContent, $('confidence').textContent],
                    row: row.offsetHeight ? row.textContent : null,
                    colours: [$('state-name'), $('confidence'), row].map(colour),
                    bar: $('bar').firstElementChild.style.width,
                    video: spied.drawn.map(([text, , , , ink]) => [text, ink]),
                    corners: inked(colour($('state-name'))).length,
                  };
                })()"""
            )
            word, number = one["beside"]
            assert number == one["number"], (self.name, one)
            label = f"{word} {number}"
            hexes = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in one["colours"]]
            assert len(set(hexes)) == 1, (self.name, one)
            assert [label, hexes[0]] in one["video"], (self.name, one)
            assert one["row"] in (None, label), (self.name, one)
            assert float(one["bar"].strip("%")) == pytest.approx(100 * float(number), abs=0.6)
            assert one["corners"] > 10, (self.name, one)
            assert (tuple(one["colours"][0]) == GREEN) == (word == "TRACKING"), (self.name, one)
            seen.add(one["stamp"])
        assert (one["row"] is None) == (self.name == "sideways")
        await self.readable("#state-name", "#confidence", "#state-note")

    async def trail_and_magnifier(self) -> None:
        # It sways, and its way is drawn inside of its box, where nothing else is.
        self.scenery.show("swaying")
        await self.until_drawn(
            """(() => {
              const s = scene.shown.statuses.find((one) => one.box);
              if (!s) return false;
              const [x, y, w, h] = marks.box(s.box, s.image_size), f = devicePixelRatio;
              const inner = [x + w / 4, y + h / 3, w / 2, h / 3].map((value) => value * f);
              const { data: d, width } = marks.pen.getImageData(...inner), across = new Set();
              for (let i = 0; i < d.length; i += 4)
                if (d[i + 3] > 100 && d[i + 1] > d[i] + 40) across.add((i / 4) % width);
              return across.size >= 2 * f;
            })()"""
        )
        self.scenery.show("still")
        # It is small on the screen: enlarged, beside it, inside the video.
        target, (to, part), inside = await self.until_drawn(
            """(() => {
              const s = scene.shown.statuses.find((one) => one.box), inset = station.inset();
              const box = s && marks.box(s.box, s.image_size);
              return s && inset && [box, [inset.to, inset.from], view.inside];
            })()"""
        )
        assert not overlaps(target, to), self.name
        assert to[0] >= inside[0] and to[0] + to[2] <= inside[0] + inside[2], self.name
        assert to[1] >= inside[1] and to[1] + to[3] <= inside[1] + inside[3], self.name
        # What is in there is the target, as large as it says.
        left, top = (await self.anna.boxes("#stage"))[0][:2]
        end, alike = time.monotonic() + 30.0, 0.0
        while alike < 0.6:
            assert time.monotonic() < end, f"{self.name}: {alike:.2f} like the target"
            to, part = await self.until_drawn(
                "station.inset() && [station.inset().to, station.inset().from]"
            )
            across, down = to[2] / part[2], to[3] / part[3]
            x, y, w, h = (value / size for value, size in zip(TARGET, 2 * SIZE, strict=True))
            begin = left + to[0] + (x - part[0]) * across, top + to[1] + (y - part[1]) * down
            alike = await self.alike(
                "magnifier", *begin, begin[0] + w * across, begin[1] + h * down
            )
        assert w * across >= 1.5 * target[2] * 0.8, self.name

    async def keep(self) -> None:
        """A snapshot and a recording, by the buttons."""
        before = set(self.folder.glob("*.json")), set(self.folder.glob("*/metadata.yaml"))
        await self.press("#record")
        pressed = "document.getElementById('record').getAttribute('aria-pressed') === 'true'"
        label = "document.getElementById('record-label').textContent"
        await self.press("#snapshot")
        reply = await self.anna.reply("snapshot", 1)
        assert reply["code"] == "SUCCESS", (self.name, reply)
        await self.message("Snapshot kept")
        (about,) = set(self.folder.glob("*.json")) - before[0]
        told = json.loads(about.read_text())
        assert told["image_size"] == list(SIZE) and told["targets"][0]["box"], self.name
        kept = cv2.imread(str(about.with_suffix(".jpg")))
        assert kept.shape[:2] == SIZE[::-1]
        # How long it runs is on the button.
        await self.page.wait_for(f"{pressed} && parseFloat({label}) > 0.5")
        await self.readable("#record-label")
        await self.press("#record")
        await self.page.wait_for(f"!({pressed}) && {label} === 'Record'")
        await self.message("Recorded: ")
        assert len(set(self.folder.glob("*/metadata.yaml")) - before[1]) == 1, self.name

    async def another_takes_the_control(self) -> None:
        """What Ben does is told here; Anna's orders are refused until she takes it back."""
        page, sent = self.page, await self.marks_sent()
        await self.ben.page.evaluate("document.getElementById('take').click()")
        await self.message("Ben took the control from Anna")
        assert "took the control from Anna" in await self.anna.logged(who="Ben")
        if self.name != "sideways":  # there it is in the sheet
            await page.wait_for(
                "document.getElementById('crew-text').textContent.includes('Ben has the control')"
            )
            await self.readable("#crew-text")
        x, y = await self.anna.place(0.2, 0.3)
        await self.down(x, y)
        await self.up(x, y)
        await self.message("Ben has the control", "Take control")
        await self.page.wait_for("document.getElementById('stop').disabled")
        assert await self.marks_sent() == sent, self.name
        await self.press("#message-action")
        await page.wait_for("station.scene.people.yours")
        crew = "document.getElementById('crew-text').textContent"
        await page.wait_for(f"{crew}.includes('You have the control (Anna)')")
        assert "took the control from Ben" in await self.ben.logged(who="Anna")

    async def the_preview_goes_when_the_mouse_rests(self) -> None:
        if self.phone:
            return
        x, y, _, _ = await self.ground(1)
        at, above = (await self.anna.boxes("#stage"))[0][:2]
        ring = (
            f"marks.pen.getImageData(({x - at} + 14) * devicePixelRatio - 2,"
            f" {y - above} * devicePixelRatio - 2, 5, 5).data.some((value) => value > 100)"
        )
        # It moves until a frame was drawn in time, then it rests.
        end = time.monotonic() + 60.0
        await self.page.mouse("mouseMoved", x, y, buttons=0, button="none")
        while not await self.drawn(ring):
            assert time.monotonic() < end, f"{self.name}: no preview"
            await self.page.mouse("mouseMoved", x - 1, y, buttons=0, button="none")
            await self.page.mouse("mouseMoved", x, y, buttons=0, button="none")
        await self.until_drawn(f"!({ring})")

    async def lost_and_given_up(self) -> None:
        """Out of sight, found again, out of sight, and given up."""
        page = self.page
        await page.evaluate("void (spied.shaken = [], spied.tones = [])")
        await self.anna.logged(state="TRACKING", target=self.target)
        self.scenery.show("gone")
        await self.anna.state("LOST")
        await self.lost()
        assert "lost: searching" in await self.anna.logged(state="LOST", target=self.target)
        await self.alarm([180, 80, 180], [440, 330])
        self.scenery.show("still")
        await self.followed()
        await page.wait_for(
            f"[...document.querySelectorAll('#messages li[data-target=\"{self.target}\"]')]"
            ".some((e) => e.textContent.includes('found again'))"
        )
        await self.until_drawn(f"inked({list(RED)}).length === 0")
        self.scenery.show("gone")
        await self.anna.state("LOST")
        await self.give_up_after(0.1)
        await self.anna.state("GIVEN_UP")
        assert "given up" in await self.anna.logged(state="GIVEN_UP", target=self.target)
        await self.alarm([400], [330, 262, 220])
        # No border: nothing is searched for. What is to be done is said on the video and beside it.
        drawn = await self.until_drawn(
            f"!inked({list(RED)}).length"
            " && spied.drawn.find(([text]) => text.includes('mark it again'))"
        )
        assert drawn[0] == "GIVEN UP: mark it again"
        await self.readable("#state-name", "#state-note")
        if self.name != "sideways":  # there it is in the sheet
            await self.readable("#messages li:first-child")
        await self.give_up_after(30.0)
        self.scenery.show("still")

    async def lost(self) -> None:
        """On the video: a border, the last place, where it may be, for how long and until when."""
        seen = await self.until_drawn(
            f"""(() => {{
              const s = scene.shown.statuses.find((one) => one.state === 'LOST' && one.expected
                && one.covariance), last = scene.targets.values().next().value?.seen;
              return s && last && !scene.behind && {{
                inside: view.inside, scale: view.rect[2] / {SIZE[0]}, origin: view.rect.slice(0, 2),
                expected: s.expected, covariance: s.covariance,
                box: s.box, last: last.box, texts: spied.drawn, red: inked({list(RED)}) }};
            }})()"""
        )
        red = {divmod(place, 10000)[::-1] for place in seen["red"]}

        def share(points: list[tuple[float, float]], reach: int = 1) -> float:
            """Of points of the stage, those that have red near by."""
            around = range(-reach, reach + 1)
            return sum(
                any((int(x) + i, int(y) + j) in red for i in around for j in around)
                for x, y in points
            ) / len(points)

        assert seen["box"] is None
        left, top, w, h = seen["inside"]
        for x0, y0, x1, y1 in (
            (left, top + 2, left + w, top + 2),
            (left, top + h - 2, left + w, top + h - 2),
            (left + 2, top, left + 2, top + h),
            (left + w - 2, top, left + w - 2, top + h),
        ):
            assert share(_line(x0, y0, x1, y1)) > 0.9, (self.name, "border")

        def on_stage(x: float, y: float) -> tuple[float, float]:
            return seen["origin"][0] + x * seen["scale"], seen["origin"][1] + y * seen["scale"]

        assert iou(seen["last"], tuple(map(float, TARGET))) > 0.3, (self.name, seen["last"])
        x, y, w, h = seen["last"]
        (a, b), (c, d) = on_stage(x, y), on_stage(x + w, y + h)
        a, b, c, d = a - 3, b - 3, c + 3, d + 3
        around = [_line(a, b, c, b), _line(a, d, c, d), _line(a, b, a, d), _line(c, b, c, d)]
        for side in around:  # dashed
            assert share(side, 0) > 0.3, (self.name, "last place", share(side, 0))
        x, y = on_stage(*seen["expected"])
        assert share([(x + 9, y), (x - 9, y), (x, y + 9), (x, y - 9)]) == 1.0, (self.name, "cross")
        # An ellipse that holds 95 %: chi squared of two is 5.991.
        values, vectors = np.linalg.eigh(np.reshape(seen["covariance"], (2, 2)))
        angles = np.linspace(0, 2 * np.pi, 200)
        circle = np.stack((np.cos(angles), np.sin(angles)))
        ellipse = vectors @ (np.sqrt(5.991 * values)[:, None] * circle) * seen["scale"]
        left, top, w, h = seen["inside"]
        points = [
            (px, py)
            for px, py in (ellipse + [[x], [y]]).T
            if left < px < left + w and top < py < top + h
        ]
        if len(points) > 20:
            assert share(points) > 0.5, (self.name, "reach", share(points))
        # Above: for how long, and until when. All of it is inside of the video.
        said = [one for one in seen["texts"] if one[0].startswith("LOST ")]
        assert len(said) == 1, (self.name, seen["texts"])
        text, at, _, width, _ = said[0]
        times = re.fullmatch(r"LOST ([\d.]+) s, given up in ([\d.]+) s", text)
        assert times and at > left and at + width < left + w, (self.name, said)
        # Both go on.
        await self.until_drawn(
            "spied.drawn.some(([text]) => {"
            r" const now = text.match(/^LOST ([\d.]+) s, given up in ([\d.]+) s/);"
            f" return now && now[1] > {times[1]} && now[2] < {times[2]}; }})"
        )
        await self.page.wait_for(
            r"/Not seen for [\d.]+ s; searched for, given up in [\d.]+ s/"
            ".test(document.getElementById('state-note').textContent)"
        )
        await self.readable("#state-name", "#state-note")
        # And it is seen: the border is red on the window itself, and nothing lies over the place.
        picture, scale = await self.window("lost")
        at, above = (await self.anna.boxes("#stage"))[0][:2]
        edge = picture[round(scale * (above + top + h / 2)), round(scale * (at + left + 2))]
        assert edge[::-1] == pytest.approx(RED, abs=12), (self.name, edge)
        x, y = at + (a + c) / 2, above + (b + d) / 2
        assert await self.page.evaluate(f"document.elementFromPoint({x}, {y}).id") == "marks"
        message, words = await self.anna.boxes("#message", "#standing")
        for box in (message, words):
            assert not box[2] or not overlaps(box, [at + a, above + b, c - a, d - b]), self.name

    async def alarm(self, shakes: list[int], tones: list[float]) -> None:
        """Heard and felt where it was switched on, and only there."""
        if self.alarms("vibrate"):
            await self.page.wait_for(
                f"spied.shaken.some((one) => `${{one}}` === '{','.join(map(str, shakes))}')"
            )
        else:
            assert await self.noted("shaken") == []
        if self.alarms("sound"):
            await self.page.wait_for(f"`${{spied.tones}}`.endsWith('{','.join(map(str, tones))}')")
        else:
            assert await self.noted("tones") == []

    async def give_up_after(self, seconds: float) -> None:
        client = AsyncParameterClient(self.observer.node, "tracker")
        await wait_for(client.services_are_ready, "the tracker's parameters")
        answer = client.set_parameters([Parameter("presence.give_up_after", value=seconds)])
        await wait_for(answer.done, "presence.give_up_after")
        assert answer.result().results[0].successful

    async def stop_by_holding(self) -> None:
        """A short touch does not stop, and says what does."""
        assert not await self.page.evaluate("document.getElementById('stop').disabled")
        x, y = await self.page.middle("#stop")
        # Both at once: on a busy machine an answer takes longer than what is short.
        await asyncio.gather(self.down(x, y), self.up(x, y))
        await self.message("Hold")
        assert "stop" not in await self.noted("sent")
        await self.down(x, y)
        assert (await self.anna.reply("stop", 1))["code"] == "SUCCESS"
        await self.up(x, y)
        await self.message("no longer followed")
        await self.anna.state("IDLE")
        await self.readable("#state-name", "#state-note")
        assert await self.page.evaluate("document.getElementById('stop').disabled")

    async def keys(self) -> None:
        """The list of keys, which is also that of gestures; and a mark by keyboard."""
        if self.phone:
            await self.press("#more")
            await self.press("#show-keys")
        else:
            await self.page.key("?")
        await self.page.wait_for("document.getElementById('keys').open")
        (x, y, w, h), *entries = await self.anna.boxes(
            "#keys", "#keys dt:first-of-type", "#keys dd:first-of-type", "#keys .close"
        )
        assert x >= 0 and y >= 0 and x + w <= self.width and y + h <= self.height, self.name
        assert all(overlaps(one, [x, y, w, h]) for one in entries), self.name
        words = await self.page.evaluate("document.getElementById('keys').innerText")
        for word in ("mark by keyboard", "stop following", "zoom and move", "Tap"):
            assert word in words
        # To its end, too.
        await self.page.middle("#keys dd:last-of-type")
        await self.readable("#keys dd:last-of-type")
        await self.press("#keys .close")
        await self.page.wait_for("!document.getElementById('keys').open")
        if self.phone:
            return
        await self.page.key("m")
        await self.page.wait_for("document.getElementById('standing').innerText.includes('Arrows')")
        await self.readable("#standing")
        for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", *"---"):
            await self.page.key(key)
        await self.page.key("Enter")
        assert (await self.anna.reply("init", 2))["code"] == "SUCCESS"
        await self.followed()

    async def one_too_many(self) -> None:
        """The first as it is drawn, here by finger; then one more; the third is refused."""
        if self.phone:
            await self.drawn_by_finger()
        before = len(await self.anna.replies("init"))
        await self.drag(await self.ground(0))
        reply = await self.anna.reply("init", before + 1)
        assert reply["code"] == "SUCCESS", (self.name, reply)
        await self.page.wait_for("station.scene.targets.size === 2")
        await self.drag(await self.ground(2))
        reply = await self.anna.reply("init", before + 2)
        assert reply["code"] == "TOO_MANY_TARGETS", (self.name, reply)
        text = await self.message("as many targets as it may")
        assert "Stop one first" in text
        await self.readable("#message span")

    async def drawn_by_finger(self) -> None:
        page = self.page
        x, y = await self.anna.place(0.5, 0.5)
        await self.fingers([(x, y, 25), (x, y, 50), (x, y, 75)])
        before = len(await self.anna.replies("init"))
        box = await self.anna.target(0)
        await self.down(*box[:2])
        await self.move(*box[2:])
        # What is under the finger is shown beside it.
        to = (await self.until_drawn("station.inset()"))["to"]
        at, above = (await self.anna.boxes("#stage"))[0][:2]
        finger = [box[2] - 20, box[3] - 20, 40, 40]
        assert not overlaps([at + to[0], above + to[1], *to[2:]], finger), self.name
        await self.up(*box[2:])
        reply = await self.anna.reply("init", before + 1)
        assert reply["code"] == "SUCCESS", (self.name, reply)
        await self.all_of_the_picture()
        await self.followed()
        assert await page.evaluate("station.fitted()") is None

    async def the_tracker_dies(self) -> None:
        """NO TRACKER within 3 s, and what became of the targets; nothing is sent into the void."""
        page = self.page
        await page.evaluate(
            """void new MutationObserver((_, watch) => {
              if (state.dataset.state !== 'NO TRACKER') return;
              watch.disconnect();
              window.goneAt = Date.now();
            }).observe(state, { attributes: true })"""
        )
        self.tracker.process.kill()
        killed = time.time()
        self.tracker.process.wait()
        await self.anna.state("NO TRACKER")
        told = await page.evaluate("window.goneAt / 1000") - killed
        assert told < 3.0, f"{self.name}: NO TRACKER after {told:.1f} s"
        note = await page.evaluate("document.getElementById('state-note').textContent")
        assert re.search(r"Nobody follows targets \S+, \S+ now", note), note
        assert not any(word in note for word in WORDS_OF_MACHINES)
        logged = await self.anna.logged(state="NO TRACKER")
        assert "stopped" in logged and len(re.findall("was [A-Z]+", logged)) == 2, logged
        await self.readable("#state-name", "#state-note")
        # No box is drawn any more.
        await self.until_drawn(f"!inked({list(GREEN)}).length && !inked({list(AMBER)}).length")
        sent = await self.marks_sent()
        x, y, _, _ = await self.ground(1)
        await self.down(x, y)
        await self.up(x, y)
        await self.message("There is no tracker")
        for id_ in ("stop", "redo"):
            assert await page.evaluate(f"document.getElementById('{id_}').disabled")
        assert await self.marks_sent() == sent, self.name


def _line(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    """Points on it, a pixel apart."""
    count = max(round(np.hypot(x1 - x0, y1 - y0)), 2)
    return list(
        zip(np.linspace(x0, x1, count).tolist(), np.linspace(y0, y1, count).tolist(), strict=True)
    )
