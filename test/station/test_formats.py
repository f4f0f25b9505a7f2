# SPDX-License-Identifier: Apache-2.0
"""The page as it is seen: on a desk, on a phone upright and on its side, by night."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import EXECUTABLE, NAMES
from operator_support import FORMATS, STATION, Operator, in_browser, overlaps, still_life
from station_support import SIZE, TRACKER, Observer, address_of

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason=f"no browser: none of {', '.join(NAMES)}"),
    pytest.mark.timeout(600),
]

CONTROLS = ("#stop", "#redo", "#snapshot", "#record", "#whole", "#more")
#: Text that has to be read at once, in the dark.
NUMBERS = ["#state-name", "#confidence", "#state-note", "#figures dd", "#health span", "#targets"]

#: What is drawn on the video (boxes, their labels, the picture's age) and lies under the message.
COVERED = """(() => {
  const m = document.getElementById('message').getBoundingClientRect();
  const s = stage.getBoundingClientRect();
  return station.marks.taken.filter(([x, y, w, h]) => m.left < s.left + x + w
    && m.right > s.left + x && m.top < s.top + y + h && m.bottom > s.top + y);
})()"""


def test_every_format(start_node: Callable, observer: Observer, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    observer.truth = still_life(images)
    start_node("replay", str(images), "--loop", "--frame-rate", "6")
    start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("tracker")
    address = address_of(start_node("ground_station", *STATION, "--recordings", str(tmp_path)))

    async def act(operator: Operator) -> None:
        page = operator.page
        await page.evaluate(_axe())
        # However slow this machine is, the messages are still there when they are looked at.
        await page.evaluate("void (station.panel.lasts = { good: 6e4, bad: 6e4 })")
        await operator.ready()
        for name, (width, height, phone) in FORMATS.items():
            await page.resize(width, height, phone=phone)
            idle = await operator.boxes("#stage", *CONTROLS)
            await _sizes(operator, name, width, height)
            await _words(operator, name)
            if phone:
                await _tap(operator)
            else:
                assert (await operator.designate())["code"] == "SUCCESS"
            # The message does not cover the target, whatever the format.
            assert await page.evaluate("!document.getElementById('message').hidden")
            await page.wait_for("station.marks.taken.length > 2 && !station.fitted()")
            await page.frame()
            assert await page.evaluate(COVERED) == [], name
            message = (await operator.boxes("#message"))[0]
            left, top, right, bottom = await operator.target(0)
            assert not overlaps(message, [left, top, right - left, bottom - top]), name
            # Controls and video stay where they are, whatever the state.
            await page.wait_for("['TRACKING', 'WEAK', 'UNCERTAIN'].includes(state.dataset.state)")
            assert await operator.boxes("#stage", *CONTROLS) == idle, name
            await _contrast(operator, name)
            await _does_not_blind(operator, tmp_path / f"{name}.png")
            if phone:
                await _pinch(operator)
            await page.evaluate("station.stop()")
            await operator.state("IDLE")
        await _sheets(operator)
        await _full_screen(operator)

    in_browser(act, address, observer)


def _axe() -> str:
    """The source of axe-core."""
    spec = importlib.util.find_spec("axe_core_python")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


async def _violations(page: Any, rule: str, include: list[str]) -> list[str]:
    options = {"runOnly": {"type": "rule", "values": [rule]}}
    context = {"include": [[selector] for selector in include]}
    return await page.evaluate(
        f"axe.run({json.dumps(context)}, {json.dumps(options)}).then((r) => "
        "r.violations.flatMap((v) => v.nodes.map((n) => n.html + ': ' + n.failureSummary)))"
    )


async def _contrast(operator: Operator, name: str) -> None:
    """4.5 everywhere, 7 for state and numbers; by day's colours and by night's."""
    for night in (False, True):
        await operator.page.evaluate(
            f"document.documentElement.toggleAttribute('data-night', {json.dumps(night)})"
        )
        found = await _violations(operator.page, "color-contrast", ["body"])
        shown = [
            one
            for one in NUMBERS
            if await operator.page.evaluate(
                f"Boolean(document.querySelector('{one}').offsetHeight)"
            )
        ]
        found += await _violations(operator.page, "color-contrast-enhanced", shown)
        assert found == [], (name, night)
    await operator.page.evaluate("document.documentElement.removeAttribute('data-night')")


async def _does_not_blind(operator: Operator, path: Path) -> None:
    """No large bright area, the video included; by night half of that, and no blue."""
    picture = await operator.pixels(path)
    assert picture.mean() < 128, f"{path.stem}: {picture.mean():.0f} of 255"
    bright = (picture.min(axis=2) > 200).mean()
    assert bright < 0.03, f"{path.stem}: {bright:.1%} of the window is white"
    await operator.page.evaluate("document.documentElement.toggleAttribute('data-night', true)")
    await operator.page.frame()
    night = await operator.pixels(path.with_stem(f"{path.stem}_night"))
    assert night.mean() < 0.65 * picture.mean(), path.stem
    blue, _, red = night.reshape(-1, 3).mean(axis=0)
    assert blue < 0.75 * red, path.stem
    await operator.page.evaluate("document.documentElement.removeAttribute('data-night')")


async def _sizes(operator: Operator, name: str, width: int, height: int) -> None:
    """The video first, everything in the window, what is touched large enough, and by the thumb."""
    stage, *controls = await operator.boxes("#stage", *CONTROLS)
    shown = await operator.page.evaluate("station.view.inside")
    share = {"desktop": 0.4, "laptop": 0.5, "upright": 0.2, "sideways": 0.7}[name]
    assert shown[2] * shown[3] > share * width * height, f"{name}: video {shown}"
    if name == "upright":
        assert shown[2] == width
    for box in (stage, *controls):
        assert box[0] >= 0 and box[1] >= 0, name
        assert box[0] + box[2] <= width and box[1] + box[3] <= height, name
    if name == "upright":
        assert all(box[1] > height - 90 for box in controls)
    if name == "sideways":
        assert all(box[0] > width - 160 for box in controls)
    small = await operator.page.evaluate(
        "[...document.querySelectorAll('button, input, a')].map((e) => [e.id || e.outerHTML,"
        " e.getBoundingClientRect()]).filter(([, r]) => r.width && (r.width < 44 || r.height < 44))"
        ".map(([id, r]) => `${id} ${r.width}x${r.height}`)"
    )
    assert small == [], name


async def _words(operator: Operator, name: str) -> None:
    """Every state is written whole, and so is what became of a target."""
    cut = await operator.page.evaluate(
        """(() => {
          const write = (id, text, side) => {
            const element = document.getElementById(id), before = element.textContent;
            element.textContent = text;
            const cut = element[`scroll${side}`] > element[`client${side}`] + 1;
            element.textContent = before;
            return cut ? [text] : [];
          };
          document.getElementById('confidence').textContent = '0.98';
          const states = ['TRACKING', 'TRACKING, weak', 'UNCERTAIN', 'LOST', 'GIVEN UP',
            'NO TARGET', 'NO TRACKER', 'NO VIDEO', 'NO NEWS', 'OFFLINE', 'WAITING'];
          const notes = [
            'It has stopped answering. Target 12 was UNCERTAIN: nobody follows it now.',
            'It has stopped answering. Nobody follows targets 12, 13 and 3 more now.',
            'No connection to the ground station; trying again. Last heard of targets 12, 13.',
            'No connection to the ground station; trying again. '
              + 'Last heard: target 12 TRACKING, weak.',
            'Target 12. Not seen for 12 s; searched for, given up in 18 s.',
          ];
          const cut = [...states.flatMap((one) => write('state-name', one, 'Width')),
            ...notes.flatMap((one) => write('state-note', one, 'Height'))];
          station.refresh();
          return cut;
        })()"""
    )
    assert cut == [], f"{name}: not all of it can be read"


async def _tap(operator: Operator) -> None:
    """A finger that rolls by 6 x 3 px when it taps: the tracker fits the box."""
    page = operator.page
    before = len(await operator.replies("init"))
    left, top, right, bottom = await operator.target(0)
    x, y = (left + right) / 2, (top + bottom) / 2
    await page.touch("touchStart", (x, y))
    await page.touch("touchMove", (x + 6, y + 3))
    await page.touch("touchEnd")
    reply = await operator.reply("init", before + 1)
    assert reply["code"] == "SUCCESS", reply
    box = await page.wait_for("station.scene.targets.values().next().value?.seen?.box")
    assert box[2] > 20 and box[3] > 15, box


async def _pinch(operator: Operator) -> None:
    """Two fingers enlarge the picture, mark nothing, and bring it back."""
    page, before = operator.page, len(await operator.replies("init"))
    x, y = await operator.place(0.5, 0.5)
    for kind, apart in (("touchStart", 30), ("touchMove", 60), ("touchMove", 90)):
        await page.touch(kind, (x - apart, y), (x + apart, y))
    await page.touch("touchEnd")
    assert await page.evaluate("station.view.zoom") > 2
    await page.frame()
    # A drag by one finger marks again, with what is under it enlarged.
    await page.key("0")
    assert await page.evaluate("station.view.zoom") == 1
    assert len(await operator.replies("init")) == before
    assert not await page.evaluate("'held' in stage.dataset")


async def _sheets(operator: Operator) -> None:
    """The settings on a phone on its side: details are in there, and all of it can be touched."""
    page = operator.page
    await page.click("#more")
    await page.wait_for("document.getElementById('settings').open")
    assert await page.evaluate("document.getElementById('messages').offsetHeight > 0")
    small = await page.evaluate(
        "[...document.querySelectorAll('#settings button, .switch, .choice label, #name')]"
        ".map((e) => [e.id || e.textContent, e.getBoundingClientRect()])"
        ".filter(([, r]) => r.width && (r.width < 44 || r.height < 44)).map(([id]) => id)"
    )
    assert small == []
    assert await _violations(page, "color-contrast", ["#settings"]) == []
    await page.evaluate("document.getElementById('settings').close()")
    # The panel is back beside the video.
    await page.wait_for("document.getElementById('panel').parentElement.id === 'app'")


async def _full_screen(operator: Operator) -> None:
    await operator.page.resize(1280, 720)
    before = await operator.page.evaluate("station.view.inside")
    await operator.page.click("#whole")
    await operator.page.wait_for(f"station.view.inside[2] > {before[2]} + 100")
    await _words(operator, "full screen")
    stage, stop = await operator.boxes("#stage", "#stop")
    assert stage[3] >= 700 and stop[0] + stop[2] <= 1280 and stop[1] + stop[3] <= 720


def test_brightening_lifts_shadows_and_keeps_lamps_apart(
    start_node: Callable, observer: Observer, tmp_path: Path
) -> None:
    """Of a dark picture: the ground comes up, with less noise, and a lamp is brighter than another.

    Nobody has to switch it on.
    """
    rng = np.random.default_rng(3)
    width, height = SIZE
    picture = rng.normal(14, 4, (height, width, 3))
    for left, value in LAMPS.items():
        picture[LAMP_TOP : LAMP_TOP + LAMP, left : left + LAMP] = value
    for name in ("0.png", "1.png"):
        cv2.imwrite(str(tmp_path / name), np.clip(picture, 0, 255).astype(np.uint8))
    start_node("replay", str(tmp_path), "--loop", "--frame-rate", "4")
    address = address_of(
        start_node("ground_station", "--port", "0", "--video", "jpeg", "--quality", "95")
    )

    async def act(operator: Operator) -> None:
        await operator.page.wait_for("station.screen.white !== null")
        assert await operator.page.evaluate("station.settings.tone") == "auto"
        auto = await _shades(operator, tmp_path / "auto.png", "auto")
        off = await _shades(operator, tmp_path / "off.png", "off")
        (mean, noise), (dim, bright) = auto["ground"], auto["lamps"]
        assert mean > 2.0 * off["ground"][0], (auto, off)
        assert noise / mean < 0.7 * off["ground"][1] / off["ground"][0], (auto, off)
        # Times the same number as the ground, both would be white.
        assert bright - dim > 8, (auto, off)

    in_browser(act, address, observer)


#: Brightness of two lamps by their left edge, in pixels of the image.
LAMPS, LAMP_TOP, LAMP = {100: 150, 440: 235}, 140, 40


async def _shades(operator: Operator, path: Path, tone: str) -> dict[str, tuple[float, float]]:
    """Mean and noise of the ground, and both lamps, as they are on the screen."""
    page = operator.page
    # At its best, however slow this machine is.
    await page.evaluate(
        f"(() => {{ station.screen.reach = 2;"
        f" document.querySelector('#tone input[value={tone}]').click(); }})()"
    )
    await page.frame()
    seen = cv2.cvtColor(await operator.pixels(path), cv2.COLOR_BGR2GRAY).astype(float)

    async def part(x: int, y: int, side: int) -> np.ndarray:
        (left, top), (right, bottom) = [
            await operator.place(u / SIZE[0], v / SIZE[1])
            for u, v in ((x, y), (x + side, y + side))
        ]
        return seen[round(top) : round(bottom), round(left) : round(right)]

    ground = await part(280, 240, 80)
    lamps = [float((await part(x + 10, LAMP_TOP + 10, 20)).mean()) for x in sorted(LAMPS)]
    return {"ground": (ground.mean(), ground.std()), "lamps": (lamps[0], lamps[1])}
