# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: an operator marks a target on the video, and the tracker follows."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import EXECUTABLE, NAMES, Browser, Page
from operator_support import STATION, Operator, in_browser, overlaps, still_life
from station_support import CAMERA, SIZE, TRACKER, Observer, address_of, wait_for

from mlkd_ros.msg import TrackStatus
from mlkd_ros.station.picture import h264_available

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason=f"no browser: none of {', '.join(NAMES)}"),
    pytest.mark.timeout(600),
]

# Counts the pixels of the marks that have the colour of a state.
DRAWN = (
    "(() => { const [r, g, b] = %s; const c = document.getElementById('marks');"
    " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    " let n = 0; for (let i = 0; i < d.length; i += 4)"
    " if (d[i] === r && d[i + 1] === g && d[i + 2] === b) n++; return n; })()"
)
GREEN, RED = DRAWN % "[90, 230, 120]", DRAWN % "[255, 143, 143]"


def test_drag_follow_stop(start_node: Callable, observer: Observer, tmp_path: Path) -> None:
    start_node("night_camera", "--ros-args", *CAMERA)
    tracker = start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("night_camera", "tracker")
    address = address_of(start_node("ground_station", *STATION, "--recordings", str(tmp_path)))

    async def act(operator: Operator) -> None:
        page = operator.page
        await operator.ready()

        # The picture is held from the first moment of the drag, while the video goes on.
        _, _, right, bottom = await operator.press()
        held = await operator.shown()
        await operator.drag_to(right, bottom)
        await wait_for(lambda: observer.newest() - held > 1.5e9, "images after the held one")
        assert await operator.shown() == held
        assert "Picture held" in await page.wait_for(
            "document.getElementById('standing').innerText"
        )
        assert await operator.replies("init") == []
        await page.mouse("mouseReleased", right, bottom)

        # The request has the stamp of the held picture, and the tracker follows from there.
        reply = await operator.reply("init", 1)
        assert reply["code"] == "SUCCESS", reply
        assert int(reply["stamp"]) == held
        caught_up = re.search(r"followed through (\d+) images", tracker.output)
        assert caught_up and int(caught_up[1]) >= 3
        # In the operator's words.
        target = reply["target"]
        assert re.search(rf"Target {target} marked on the picture of [\d.]+ s ago", reply["text"])
        good = lambda: [  # noqa: E731
            s
            for s in observer.since(held)
            if s.state == TrackStatus.TRACKING and observer.overlap(s) > 0.5
        ]
        await wait_for(lambda: len(good()) >= 5, "five good boxes")
        assert {status.target_id for status in good()} == {target}
        await page.wait_for("['TRACKING', 'WEAK'].includes(stateOf())".replace("stateOf()", STATE))
        # A box is drawn, where the target is on that very picture, and its trail.
        await page.wait_for(f"{GREEN} > 10")
        await page.wait_for("station.scene.targets.values().next().value.trail.length > 4")
        await _one_number(page)
        await _magnifier(page)
        able = h264_available() and await page.evaluate(
            "import('./video.js').then(({ canH264 }) => canH264())"
        )
        assert await page.evaluate("station.scene.shown.codec !== 'jpeg'") == able
        await _keep(operator, tmp_path)

        # A short press does not stop; holding does.
        await page.click("#stop")
        assert await page.wait_for("document.getElementById('message').innerText.includes('Hold')")
        assert await operator.replies("stop") == []
        await page.click("#stop", hold=1.8)
        assert (await operator.reply("stop", 1))["code"] == "SUCCESS"
        await operator.state("IDLE")
        await wait_for(lambda: observer.statuses[-1].state == TrackStatus.IDLE, "no target")
        assert await page.evaluate("document.getElementById('stop').disabled")

    in_browser(act, address, observer)


async def _magnifier(page: Page) -> None:
    """A target that is small on the screen is shown enlarged, beside it."""
    target, place, inside, scale = await page.wait_for(
        """(() => {
          const { marks, scene, view } = station, inset = station.inset();
          const status = scene.shown.statuses.find((one) => one.box);
          return inset && status && [marks.box(status.box, status.image_size), inset.to,
            view.inside, inset.to[2] / (inset.from[2] * view.rect[2])];
        })()"""
    )
    assert scale >= 1.5 and not overlaps(target, place)
    assert place[0] >= inside[0] and place[0] + place[2] <= inside[0] + inside[2]
    assert place[1] >= inside[1] and place[1] + place[3] <= inside[1] + inside[3]


async def _keep(operator: Operator, folder: Path) -> None:
    """A snapshot with the box, and a recording, by the buttons on the page."""
    page = operator.page
    await page.click("#snapshot")
    assert (await operator.reply("snapshot", 1))["code"] == "SUCCESS"
    (about,) = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert about["image_size"] == list(SIZE) and about["targets"][0]["box"]
    assert len(list(folder.glob("*.jpg"))) == 1
    await page.click("#record")
    on = "document.getElementById('record').getAttribute('aria-pressed') === 'true'"
    await page.wait_for(f"{on} && document.getElementById('record-label').textContent !== 'Record'")
    await page.click("#record")
    await page.wait_for(f"!({on})")
    assert "Recorded: " in (await operator.reply("record", 2))["text"]
    assert len(list(folder.glob("*/metadata.yaml"))) == 1


STATE = "document.getElementById('state').dataset.state"


async def _one_number(page: Page) -> None:
    """State, number and colour beside the video are those that are drawn on it, at any moment."""
    for _ in range(20):
        # As it is drawn: after the page has had its turn in a frame, before the next picture.
        seen = await page.evaluate(
            """new Promise(requestAnimationFrame).then(() => {
              const s = station.scene.shown.statuses[0];
              return s && !station.scene.behind && {
                drawn: s.confidence.toFixed(2), box: Boolean(s.box),
                panel: document.getElementById('confidence').textContent,
                row: document.querySelector('#targets span').textContent,
                key: document.getElementById('state').dataset.state,
                word: document.getElementById('state-name').textContent,
                sure: s.confidence >= 0.5, state: s.state,
              };
            })"""
        )
        if seen and seen["box"]:
            assert seen["panel"] == seen["drawn"], seen
            assert seen["row"] == f"{seen['word']} {seen['drawn']}", seen
            # Never green below one half.
            assert (seen["key"] == "TRACKING") == (seen["state"] == "TRACKING" and seen["sure"])
        await asyncio.sleep(0.1)


def test_taps_keys_and_what_is_remembered(
    start_node: Callable, observer: Observer, tmp_path: Path
) -> None:
    """A click is fitted by the tracker; marking, choosing and stopping by keyboard."""
    observer.truth = still_life(tmp_path)
    start_node("replay", str(tmp_path), "--loop", "--frame-rate", "8")
    start_node("tracker", "--ros-args", *TRACKER, "-p", "max_targets:=2")
    observer.meet("tracker")
    address = address_of(start_node("ground_station", *STATION))

    async def act(operator: Operator) -> None:
        page = operator.page
        await operator.ready()
        left, top, right, bottom = await operator.target(0)

        # The preview goes when the mouse rests.
        await page.mouse("mouseMoved", left - 60, top, buttons=0, button="none")
        await page.wait_for("station.pointer.hover")
        await page.wait_for("station.pointer.hover === null", 10)

        # Esc ends a drag: nothing is sent.
        await operator.press()
        await page.key("Escape")
        assert not await page.evaluate("'held' in stage.dataset")
        await page.mouse("mouseReleased", left + 200, top + 100)
        # A box that is too thin is refused before it is sent.
        await page.mouse("mousePressed", left, top)
        await page.mouse("mouseMoved", right, top + 1)
        await page.mouse("mouseReleased", right, top + 1)
        assert "too thin" in await operator.logged(refused="true")
        assert await operator.replies("init") == []

        # One click: the tracker fits the box, the page shows it on the picture clicked on.
        for kind in ("mousePressed", "mouseReleased"):
            await page.mouse(kind, left + 0.4 * (right - left), top + 0.6 * (bottom - top))
        await page.wait_for("station.fitted()?.box")
        reply = await operator.reply("init", 1)
        assert reply["code"] == "SUCCESS", reply
        await page.wait_for("!('held' in stage.dataset)")
        await wait_for(
            lambda: [s for s in observer.statuses if observer.overlap(s) > 0.5], "a fitted box"
        )

        # Marking by keyboard: M, arrows, Enter.
        await page.key("m")
        assert "Arrows move" in await page.wait_for("document.getElementById('standing').innerText")
        before = await page.evaluate("station.pointer.keyed.u")
        for key in ("ArrowLeft", "ArrowUp", "ArrowLeft", "+"):
            await page.key(key)
        assert await page.evaluate("station.pointer.keyed.u") < before
        await page.key("Enter")
        assert (await operator.reply("init", 2))["code"] == "SUCCESS"
        await page.wait_for("document.querySelectorAll('#targets li').length === 2")

        # One too many is refused in the operator's words; the tracker's are kept with them.
        await page.key("m")
        await page.key("Enter")
        reply = await operator.reply("init", 3)
        assert reply["code"] == "TOO_MANY_TARGETS" and "max_targets" in reply["detail"]
        assert "Stop one first" in reply["text"] and "target_id" not in reply["text"]

        # T chooses a target, S held stops that one; then the other.
        await page.key("t")
        chosen = await page.evaluate("station.scene.subject")
        await page.key("s", hold=0.2)
        assert await operator.replies("stop") == []
        await page.key("s", hold=2.5)
        assert (await operator.reply("stop", 1))["code"] == "SUCCESS"
        assert chosen in await operator.logged(request="stop")
        await page.wait_for("document.querySelectorAll('#targets li').length === 1")
        await page.key("s", hold=2.5)
        await operator.reply("stop", 2)
        await operator.state("IDLE")

        # ? lists the keys; brightening is remembered.
        await page.key("?")
        await page.wait_for("document.getElementById('keys').open")
        await page.key("Escape")
        await page.evaluate("document.getElementById('keys').close()")
        assert await page.evaluate("document.documentElement.dataset.tone") == "auto"
        await page.key("b")
        assert await page.evaluate("document.documentElement.dataset.tone") == "strong"
        await page.send("Page.reload")
        # For a moment after it was asked for again, there is not even an empty page.
        await page.wait_for("document.documentElement?.dataset.tone === 'strong'")
        await operator.ready()
        # Zoom by wheel, about where the mouse is; 0 shows all.
        spot = (left, top)
        before = await page.evaluate("station.view.toPicture(300, 300)")
        await page.send(
            "Input.dispatchMouseEvent", type="mouseWheel", x=300, y=300, deltaX=0, deltaY=-400
        )
        await page.wait_for("station.view.zoom > 1.5")
        after = await page.evaluate("station.view.toPicture(300, 300)")
        assert after == pytest.approx(before, abs=0.01), spot
        await page.key("0")
        assert await page.evaluate("station.view.zoom") == 1

    in_browser(act, address, observer)


def test_lost_on_the_video(start_node: Callable, observer: Observer, tmp_path: Path) -> None:
    """A border, the last place, where it is expected and how far from there, and for how long."""
    images = tmp_path / "images"
    images.mkdir()
    observer.truth = still_life(images, seen=40, gone=400)
    start_node("tracker", "--ros-args", *TRACKER, "-p", "presence.give_up_after:=12.0")
    address = address_of(start_node("ground_station", *STATION))
    observer.meet("tracker")

    async def act(operator: Operator) -> None:
        page = operator.page
        await page.evaluate(
            "(() => { station.settings.sound = true; station.alarm.sound = true; })()"
        )
        start_node("replay", str(images), "--frame-rate", "4")
        await operator.ready()
        assert (await operator.designate())["code"] == "SUCCESS"
        await operator.state("LOST")
        # What the log says is what is.
        assert "lost: searching" in await operator.logged(state="LOST")
        assert "LOST" in await page.evaluate("station.alarm.played")
        status = await page.wait_for(
            "station.scene.shown.statuses.find((s) => s.state === 'LOST' && s.expected"
            " && s.covariance)"
        )
        assert status["box"] is None and status["seconds_to_give_up"] > 0
        x, y = status["expected"]
        assert abs(x - 312) < 100 and abs(y - 174) < 100
        await page.wait_for(f"{RED} > 400")  # border, ellipse, cross, last place
        note = await page.evaluate("document.getElementById('state-note').textContent")
        assert re.search(r"Not seen for [\d.]+ s; searched for, given up in [\d.]+ s", note)
        await page.screenshot(tmp_path / "lost.png")
        await operator.state("GIVEN_UP")
        assert "given up" in await operator.logged(state="GIVEN_UP")

    in_browser(act, address, observer)


def test_what_is_missing_is_said_and_not_ordered(start_node: Callable, observer: Observer) -> None:
    address = address_of(start_node("ground_station", *STATION))

    async def act(operator: Operator) -> None:
        page = operator.page
        await operator.state("NO TRACKER")
        await page.wait_for(
            "document.getElementById('notice').innerText.includes('Waiting for video')"
        )
        camera = start_node("night_camera", "--ros-args", *CAMERA)
        await page.wait_for("document.getElementById('notice').hidden && stage.dataset.stamp")
        await _refused(operator, "no tracker")
        tracker = start_node("tracker", "--ros-args", *TRACKER)
        await operator.state("IDLE")
        camera.stop()
        await operator.state("NO VIDEO")
        await page.wait_for(
            r"/No image for [\d.]+ s/.test(document.getElementById('notice').innerText)"
        )
        # Nothing can be marked on a video that is dead.
        await _refused(operator, "camera is silent")
        before = await operator.shown()
        start_node("night_camera", "--ros-args", *CAMERA)
        await page.wait_for(
            f"document.getElementById('notice').hidden && BigInt(stage.dataset.stamp) > {before}n"
        )
        tracker.stop()
        await operator.state("NO TRACKER")
        assert "stopped" in await operator.logged(state="NO TRACKER")
        # Without a tracker, the video goes on.
        before = await operator.shown()
        await page.wait_for(f"BigInt(stage.dataset.stamp) > {before + 2 * 10**9}n")
        assert await operator.replies("init") == []

    in_browser(act, address, observer)


def test_nothing_can_be_marked_before_the_tracker_has_an_image(
    start_node: Callable, observer: Observer
) -> None:
    """There is video, and a tracker that waits for its first image: that is never offered."""
    start_node("night_camera", "--ros-args", *CAMERA)
    address = address_of(start_node("ground_station", *STATION))

    async def act(operator: Operator) -> None:
        page = operator.page
        await page.wait_for("stage.dataset.stamp")
        await page.evaluate(
            """(() => {
              const { scene } = station, hear = scene.hearLink;
              window.refusals = [];
              scene.hearLink = function (link) {
                hear.call(scene, link);
                if (link.tracker !== "missing") window.refusals.push(scene.cannotMark());
              };
            })()"""
        )
        start_node("tracker", "--ros-args", *TRACKER, "-p", "image_topic:=elsewhere")
        await page.wait_for("window.refusals.some((why) => why.includes('no image for'))")
        refusals = await page.evaluate("window.refusals")
        assert all("tracker is not at work" in why for why in refusals), refusals
        assert any("waiting for the first image on /mlkd/elsewhere" in why for why in refusals)

    in_browser(act, address, observer)


async def _refused(operator: Operator, words: str) -> None:
    """A drag now is refused, before it is sent."""
    x, y = await operator.place(0.4, 0.4)
    await operator.page.mouse("mousePressed", x, y)
    await operator.page.mouse("mouseReleased", x, y)
    await operator.page.wait_for(
        f"document.getElementById('message').innerText.includes({words!r})"
    )
    assert not await operator.page.evaluate("'held' in stage.dataset")


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
        await operator.ready()
        reply = await operator.designate()
        assert reply["code"] == "SUCCESS", reply
        name = reply["target"]
        await page.wait_for(f"['TRACKING', 'WEAK'].includes({STATE})")
        await wait_for((tmp_path / "targets.npz").is_file, "the saved target")

        await _watch_the_end(page)
        tracker.process.kill()
        killed = time.time()
        tracker.process.wait()
        await operator.state("NO TRACKER")
        told = await page.evaluate("window.goneAt / 1000") - killed
        assert told < 3.0, f"NO TRACKER after {told:.1f} s"
        note = await page.evaluate("document.getElementById('state-note').textContent")
        assert f"Target {name} was" in note and "nobody follows it now" in note
        assert "ROS_DOMAIN_ID" not in await page.evaluate("document.body.innerText")
        # No box is drawn on pictures that the tracker has not seen; the video goes on without it.
        before = await operator.shown()
        await page.wait_for(f"BigInt(stage.dataset.stamp) > {before + 2 * 10**9}n")
        assert await page.evaluate(GREEN) == 0
        assert await page.evaluate("document.getElementById('stop').disabled")

        before = await operator.shown()
        start_node("tracker", "--ros-args", *TRACKER, *resume)
        # It is resumed without the operator, under its name.
        await page.wait_for(f"['TRACKING', 'WEAK'].includes({STATE})")
        await wait_for(
            lambda: [s for s in observer.since(before) if observer.overlap(s) > 0.5], "the target"
        )
        assert await page.evaluate("document.querySelector('#targets li').dataset.target") == name
        await operator.logged(state="TRACKER")
        # And it listens to the page again.
        await page.click("#stop", hold=1.8)
        assert (await operator.reply("stop", 1))["code"] == "SUCCESS"
        await operator.state("IDLE")
        assert len(await operator.replies("init")) == 1
        assert await page.evaluate("window.loadedOnce")

    in_browser(act, address, observer)


async def _watch_the_end(page: Page) -> None:
    """Note the moment at which the page first says NO TRACKER."""
    await page.evaluate(
        """void new MutationObserver(() => {
          const { state } = document.getElementById('state').dataset;
          if (state === 'NO TRACKER') window.goneAt ??= Date.now();
        }).observe(document.getElementById('state'), { attributes: true })"""
    )


def test_two_pages_two_trackers(start_node: Callable, observer: Observer) -> None:
    """What another does is shown; one has the control, by name; two trackers are named as two."""
    start_node("night_camera", "--ros-args", *CAMERA)
    start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("night_camera", "tracker")
    address = address_of(start_node("ground_station", *STATION))

    async def run() -> None:
        async with Browser() as browser:
            anna, ben = [Operator(await browser.open(address), observer) for _ in range(2)]
            for operator, name in ((anna, "Anna"), (ben, "Ben")):
                await operator.page.evaluate(
                    f"(() => {{ const n = document.getElementById('name'); n.value = '{name}';"
                    " n.dispatchEvent(new Event('change')); })()"
                )
            await anna.page.send("Page.bringToFront")
            await anna.ready()
            assert (await anna.designate())["code"] == "SUCCESS"
            assert "Anna marked target" in await ben.logged(who="Anna")
            crew = "document.getElementById('crew-text').textContent"
            await ben.page.wait_for(f"{crew}.includes('Anna has the control')")
            await anna.page.wait_for(f"{crew}.includes('You have the control (Anna)')")
            assert await ben.page.evaluate("document.getElementById('stop').disabled")
            # Ben takes it, from the message that says why not.
            await ben.page.send("Page.bringToFront")
            await _refused(ben, "Anna has the control")
            await ben.page.click("#message-action")
            await ben.page.wait_for(f"{crew}.includes('You have the control (Ben)')")
            assert "took the control from Anna" in await anna.logged(who="Ben")
            await ben.page.click("#stop", hold=1.8)
            assert (await ben.reply("stop", 1))["code"] == "SUCCESS"
            await anna.page.wait_for(
                "document.getElementById('messages').innerText.includes('Ben stopped target')"
            )
            start_node("tracker", "--ros-args", *TRACKER)
            await ben.page.wait_for(
                "document.getElementById('conflict').textContent.startsWith('Two trackers answer')"
            )
            for operator in (anna, ben):
                assert operator.page.errors == []

    asyncio.run(run())
