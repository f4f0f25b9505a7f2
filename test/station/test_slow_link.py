# SPDX-License-Identifier: Apache-2.0
"""The page behind a link that is late, narrow, and stands still now and then."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import EXECUTABLE, NAMES, Browser
from operator_support import STATION, Operator, still_life
from slow_link import SlowLink
from station_support import TRACKER, Observer, address_of

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason=f"no browser: none of {', '.join(NAMES)}"),
    pytest.mark.timeout(600),
]


def test_twenty_of_twenty(start_node: Callable, observer: Observer, tmp_path: Path) -> None:
    """300 ms each way, and stalls of 2.5 s: every designation is on the picture that was seen."""
    observer.truth = still_life(tmp_path)
    start_node("replay", str(tmp_path), "--loop", "--frame-rate", "8")
    # The tracker as it is: a history of 3 s, and memory for 30 of these images.
    start_node("tracker", "--ros-args", "-p", "history_megabytes:=21")
    observer.meet("tracker")
    station = address_of(start_node("ground_station", *STATION))

    async def run() -> None:
        port = urlsplit(station).port
        assert port is not None
        async with (
            SlowLink(port, delay=0.3, stall=2.5, stall_every=6.0) as link,
            Browser() as browser,
        ):
            operator = Operator(await browser.open(f"http://127.0.0.1:{link.port}/"), observer)
            page = operator.page
            # The link is what is tested: as little as can be is drawn.
            await page.resize(800, 600)
            await page.evaluate("document.querySelector('#tone input[value=off]').click()")
            await operator.ready()
            await page.wait_for("station.wire.delay > 0.55")
            await page.evaluate("station.wire.socket.first = true")
            waited = 0
            for number in range(1, 21):
                _, _, right, bottom = await operator.press()
                held = await operator.shown()
                await operator.drag_to(right, bottom)
                await page.mouse("mouseReleased", right, bottom)
                standing = "document.getElementById('standing')"
                waited += (
                    await page.wait_for(
                        f"/Sending the mark/.test({standing}.textContent) ? 1 :"
                        f" document.querySelectorAll('#messages li[data-request=init]').length"
                        f" >= {number} ? 2 : 0"
                    )
                    == 1
                )
                reply = await operator.reply("init", number)
                assert reply["code"] == "SUCCESS", (number, reply)
                assert int(reply["stamp"]) == held
            assert waited >= 10  # that it is under way was said
            assert link.stalls > 3
            assert await page.evaluate("station.wire.socket.first")  # a stall is no end
            # The two-way delay is shown, in milliseconds or seconds.
            shown = await page.evaluate("document.getElementById('health-link').textContent")
            assert any(unit in shown for unit in (" ms", " s")), shown
            assert page.errors == []

    asyncio.run(run())


def test_pictures_fit_a_narrow_link(
    start_node: Callable, observer: Observer, tmp_path: Path
) -> None:
    """40 kB/s: smaller and fewer pictures, none of them old."""
    observer.truth = still_life(tmp_path)
    start_node("replay", str(tmp_path), "--loop", "--frame-rate", "10")
    start_node("tracker")
    observer.meet("tracker")
    station = address_of(
        start_node("ground_station", "--port", "0", "--video", "jpeg", "--width", "640")
    )

    async def run() -> None:
        port = urlsplit(station).port
        assert port is not None
        async with SlowLink(port, delay=0.05, rate=40_000.0) as link, Browser() as browser:
            operator = Operator(await browser.open(f"http://127.0.0.1:{link.port}/"), observer)
            await operator.ready()
            page = operator.page
            await page.wait_for("station.scene.shown.size[0] <= 480")
            ages = []
            for _ in range(25):
                await asyncio.sleep(0.2)
                ages.append(await page.evaluate("station.scene.pictureAge(station.wire.offset)"))
            ages = sorted(age for age in ages if age is not None)
            assert ages[len(ages) // 2] < 2.0, ages
            assert page.errors == []

    asyncio.run(run())


def test_a_link_that_swallows_everything(start_node: Callable, observer: Observer) -> None:
    """Neither side is told that the connection is dead: the page gives it up and makes another."""
    station = address_of(start_node("ground_station", *STATION))

    async def run() -> None:
        port = urlsplit(station).port
        assert port is not None
        async with SlowLink(port) as link, Browser() as browser:
            page = await browser.open(f"http://127.0.0.1:{link.port}/")
            operator = Operator(page, observer)
            await operator.state("NO TRACKER")
            link.cut()
            begin = time.monotonic()
            # What was asked for is answered.
            reply = await page.evaluate("station.wire.ask({ type: 'control', take: true })")
            assert (reply["ok"], reply["code"]) == (False, "CLOSED")
            assert 6.0 < time.monotonic() - begin < 15.0
            await operator.state("OFFLINE")
            # One that is accepted and then hears nothing is given up, and tried again.
            hanging = "station.wire.socket?.readyState === WebSocket.CONNECTING"
            await page.wait_for(f"{hanging} && (station.wire.socket.hung = true)")
            await page.wait_for(f"{hanging} && !station.wire.socket.hung", timeout=25.0)
            link.mend()
            await operator.state("NO TRACKER", timeout=30.0)
            assert await page.evaluate("station.wire.delay") < 5.0
            assert page.errors == []

    asyncio.run(run())


def test_a_page_that_connects_anew_is_who_it_was(
    start_node: Callable, observer: Observer, tmp_path: Path
) -> None:
    """Its connection was dead, and nobody was told: it has its name and its control at once."""
    observer.truth = still_life(tmp_path)
    start_node("replay", str(tmp_path), "--loop", "--frame-rate", "6")
    start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("tracker")
    station = address_of(start_node("ground_station", *STATION))

    async def run() -> None:
        port = urlsplit(station).port
        assert port is not None
        async with SlowLink(port) as link, Browser() as browser:
            address = f"http://127.0.0.1:{link.port}/"
            first = await browser.open(address)
            await first.evaluate(
                "(() => { const n = document.getElementById('name'); n.value = 'Anna';"
                " n.dispatchEvent(new Event('change')); })()"
            )
            # It is the same tab after a reload.
            tab = await first.evaluate("station.wire.tab")
            await first.evaluate("window.before = true")
            await first.send("Page.reload")
            await first.wait_for("!window.before && window.station?.wire.open")
            assert await first.evaluate("station.wire.tab") == tab

            # One that was made from it takes its place, and it gets another: both are there.
            page = await browser.open(address)
            await page.evaluate(f"sessionStorage.setItem('mlkd-tab', '{tab}')")
            await page.send("Page.reload")
            await page.wait_for(f"window.station?.wire.tab === '{tab}'")
            await first.wait_for(f"station.wire.tab !== '{tab}'")
            for one, name in ((page, "Anna"), (first, "Anna 2")):
                await one.wait_for(
                    f"station.scene.people?.you === '{name}'"
                    " && station.scene.people.names.length === 2"
                )

            operator = Operator(page, observer)
            await operator.ready()
            assert (await operator.designate())["code"] == "SUCCESS"
            control = "You have the control (Anna) · 1 other here"
            await page.wait_for(f"document.getElementById('crew-text').textContent === '{control}'")
            await page.wait_for("station.scene.targets.size === 1")
            await page.evaluate(WRITTEN)

            # The page gives its connection up, and makes another. The station knows of nothing yet.
            begin = time.monotonic()
            link.cut()
            link.mend()
            await page.wait_for("window.notes.some((one) => one.startsWith('No connection'))")
            notes = await page.evaluate("window.notes")
            (note,) = [one for one in notes if one.startswith("No connection")][:1]
            # Nobody knows what becomes of a target meanwhile.
            assert re.search(r"Last heard: target \S+ [A-Z, a-z]+\.$", note), note
            await page.wait_for("station.scene.people?.you && window.crew.at(-1) !== '–'")
            # Unless this machine was so slow that the station has missed it by then.
            if time.monotonic() - begin < 14.0:
                assert await page.evaluate("window.crew") == ["–", control]
            assert await page.evaluate("station.scene.people.you") == "Anna"
            assert page.errors == first.errors == []

    asyncio.run(run())


#: Notes all that is written of who has the control, and beneath the state.
WRITTEN = """
window.crew = [];
window.notes = [];
for (const [id, list] of [["crew-text", window.crew], ["state-note", window.notes]])
  new MutationObserver(() => list.push(document.getElementById(id).textContent))
    .observe(document.getElementById(id), { childList: true, characterData: true, subtree: true });
"""
