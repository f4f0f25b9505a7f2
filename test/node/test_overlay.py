# SPDX-License-Identifier: Apache-2.0
"""The picture for people: what is drawn, and that it is published only on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import cv2
import numpy as np
import pytest
from input_support import InputGround, running
from node_support import Scene, TrackerProcess, image_of, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.imaging.drawing import STATE_COLOURS
from mlkd_ros.imaging.encode import compressed_message
from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.imaging.messages import TRANSPORTS
from mlkd_ros.imaging.packets import is_key
from mlkd_ros.node.graph import message_class
from mlkd_ros.node.messages import nanoseconds
from mlkd_ros.node.overlay import Overlay
from mlkd_ros.session.targets import TargetReport
from mlkd_ros.tracking import TrackResult, TrackState

BOX = (300.0, 150.0, 80.0, 60.0)


def report(state: TrackState, name: str = "1") -> TargetReport:
    box = BOX if state in (TrackState.TRACKING, TrackState.UNCERTAIN) else None
    return TargetReport(name, TrackResult(box, 0.8, state), 0.01)


def grey(level: int = 120, size: tuple[int, int] = (640, 360)) -> BgrFrame:
    return BgrFrame(np.full((size[1], size[0], 3), level, np.uint8))


def pixels_of(canvas: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Places (row, column) of a colour."""
    return np.argwhere((np.abs(canvas.astype(int) - colour) < 12).all(-1))


@pytest.mark.parametrize("state", [s for s in TrackState if s != TrackState.IDLE])
def test_each_state_has_its_colour(state: TrackState) -> None:
    canvas = Overlay().draw(grey(), [report(state)], float("nan"), 640)
    places = pixels_of(canvas, STATE_COLOURS[state])
    assert len(places) > 30
    near = np.abs(places - (180, 340)).max(1) < 80
    # A lost target is named at the top; nothing is drawn where it was.
    assert near.any() == (state in (TrackState.TRACKING, TrackState.UNCERTAIN))
    # Greys are in every smoothed line.
    plain = (state, TrackState.IDLE, TrackState.GIVEN_UP)
    others = [colour for other, colour in STATE_COLOURS.items() if other not in plain]
    assert all(len(pixels_of(canvas, colour)) < 5 for colour in others)


def test_the_target_itself_is_not_drawn_over() -> None:
    canvas = Overlay().draw(grey(180), [report(TrackState.TRACKING)], 0.02, 640)
    x, y, w, h = map(int, BOX)
    inside = canvas[y + h // 4 : y + 3 * h // 4, x + w // 4 : x + 3 * w // 4]
    assert (inside == 180).all()


def test_the_trail_follows_and_ends_after_two_seconds() -> None:
    overlay, frame = Overlay(), grey(180)

    def drawn_left() -> int:
        canvas = overlay.draw(frame, [report(TrackState.TRACKING)], 0.02, 640)
        return int((canvas[170:190, 60:280] != 180).any(-1).sum())

    for step in range(30):
        result = TrackResult((10.0 + 10 * step, 150.0, 80.0, 60.0), 0.8, TrackState.TRACKING)
        overlay.note(step / 30, frame, [TargetReport("1", result, 0.01)])
    assert drawn_left() > 20
    for step in range(90):
        overlay.note(1 + step / 30, frame, [report(TrackState.TRACKING)])
    assert drawn_left() == 0
    overlay.note(0.5, frame, [report(TrackState.TRACKING)])  # a replay that began again
    assert drawn_left() == 0
    overlay.note(5.0, frame, [])
    assert overlay._trails == {}


def test_a_dark_picture_is_lifted_and_a_bright_one_is_not() -> None:
    dark = NightFlight("low_light", seed=3).render(30).image
    canvas = Overlay().draw(BgrFrame(dark), [], 0.02, 640)
    assert canvas.mean() > 1.6 * dark.mean()
    assert (Overlay().draw(grey(170), [], 0.02, 640)[100:200] == 170).all()


def test_a_lamp_that_comes_into_view_does_not_make_it_flicker() -> None:
    overlay = Overlay()
    before = overlay.draw(grey(30), [], 0.02, 640)[100, 500].mean()
    lamp = np.full((360, 640, 3), 30, np.uint8)
    lamp[:120, :320] = 255
    after = overlay.draw(BgrFrame(lamp), [], 0.02, 640)[200, 500].mean()
    assert after > 0.5 * before


def test_a_small_target_is_enlarged() -> None:
    image = np.full((720, 1280, 3), 160, np.uint8)
    image[400:412, 500:510] = (40, 40, 250)
    small = TrackResult((498.0, 398.0, 14.0, 16.0), 0.9, TrackState.TRACKING)
    canvas = Overlay().draw(BgrFrame(image), [TargetReport("1", small, 0.01)], 0.02, 640)
    corner = canvas[8:98, 542:632]
    assert ((corner[..., 2] > 180) & (corner[..., 0] < 110)).mean() > 0.05
    large = Overlay().draw(BgrFrame(image), [report(TrackState.TRACKING)], 0.02, 320)
    assert len(pixels_of(large[8:90, -90:], (40, 40, 250))) == 0


def test_the_latency_is_left_out_when_it_is_not_known() -> None:
    known = Overlay().draw(grey(180), [], 0.02, 640)[-40:]
    unknown = Overlay().draw(grey(180), [], float("nan"), 640)[-40:]
    assert (known != 180).any()
    assert (unknown == 180).all()


def test_the_jpeg_is_as_good_as_asked_for() -> None:
    canvas = NightFlight("crossing", seed=3, size=(320, 240)).render(30).image
    sizes = []
    for quality in (20, 90):
        message = compressed_message(canvas, Header(), quality)
        assert message.format == "bgr8; jpeg compressed bgr8"
        decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == canvas.shape
        sizes.append(len(message.data))
    assert sizes[0] < 0.6 * sizes[1]


# --- the node -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[TrackerProcess, InputGround]]:
    with running("painted", overlay_rate=200.0, overlay_width=160) as started:
        yield started


def test_both_kinds_of_overlay(tracker: tuple[TrackerProcess, InputGround], scene: Scene) -> None:
    _, ground = tracker
    ground.follow(scene)
    raw = ground.subscribe(Image, "overlay")
    compressed = ground.subscribe(CompressedImage, "overlay/compressed")
    index = 0

    def shown() -> bool:
        nonlocal index
        index += 1
        ground.show(image_of(scene.image(index), ground.now()))
        return bool(raw and compressed)

    wait_until(shown, 60, "both overlays")
    assert (raw[0].width, raw[0].height, raw[0].encoding) == (160, 120, "bgr8")
    assert raw[0].header.frame_id == "camera_optical"

    def stamps(messages: list) -> set[int]:
        return {nanoseconds(message.header.stamp) for message in messages}

    wait_until(lambda: shown() and bool(stamps(raw) & stamps(compressed)), 60, "one as both")
    decoded = cv2.imdecode(np.frombuffer(compressed[0].data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (120, 160, 3)


def test_quality_and_width_change_in_flight(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    _, ground = tracker
    pictures = ground.subscribe(CompressedImage, "overlay/compressed")

    def picture() -> CompressedImage:
        pictures.clear()

        def shown() -> bool:
            ground.show(image_of(scene.image(0), ground.now()))
            return len(pictures) > 1

        wait_until(shown, 60, "overlays")
        return pictures[-1]

    size = len(picture().data)
    assert ground.set_parameter("overlay_quality", 10).successful
    assert len(picture().data) < size
    assert ground.set_parameter("overlay_width", 96).successful
    decoded = cv2.imdecode(np.frombuffer(picture().data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (72, 96, 3)
    assert not ground.set_parameter("overlay_quality", 101).successful


def whole_pictures(packets: list[Any]) -> list[np.ndarray]:
    """What libavcodec makes of packets, one picture of each."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    pictures = []
    for packet in list(packets):
        (picture,) = decoder.decode(av.Packet(bytes(packet.data)))
        pictures.append(picture.to_ndarray(format="bgr24"))
    return pictures


@pytest.mark.parametrize("transport", ["ffmpeg", "foxglove"])
def test_the_overlay_as_video(scene: Scene, transport: str) -> None:
    # 51 rows: H.264 has none but even ones.
    settings = {"overlay_rate": 200.0, "overlay_width": 68, "overlay_video": transport}
    with running(f"filmed_{transport}", **settings) as (_, ground):
        ground.follow(scene)
        raw = ground.subscribe(Image, "overlay")
        kind, topic = message_class(TRANSPORTS[transport]), f"overlay/{transport}"
        video = ground.subscribe(kind, topic)

        def show_until(condition: Any, what: str) -> None:
            def shown() -> bool:
                ground.show(image_of(scene.image(0), ground.now()))
                return bool(condition())

            wait_until(shown, 60, what)

        def stamps(messages: list[Any]) -> list[int]:
            found = [getattr(m, "timestamp", None) or m.header.stamp for m in messages]
            return [nanoseconds(stamp) for stamp in found]

        show_until(lambda: len(video) > 20 and set(stamps(raw)) & set(stamps(video)), "a video")
        video, raw = list(video), list(raw)  # more of them come meanwhile
        pictures = whole_pictures(video)
        assert pictures[0].shape == (52, 68, 3)
        stamp = (set(stamps(raw)) & set(stamps(video))).pop()
        picture = pictures[stamps(video).index(stamp)][:51].astype(int)
        painted = next(m for m in raw if nanoseconds(m.header.stamp) == stamp)
        painted = np.frombuffer(painted.data, np.uint8).reshape(51, 68, 3)
        assert np.abs(picture - painted).mean() < 12
        assert len(video[0].data) > 2 * np.median([len(m.data) for m in video])  # it is a video
        if transport == "ffmpeg":
            assert (video[0].width, video[0].height, video[0].flags) == (68, 51, 1)
            assert video[0].encoding.split(";")[0] == "h264"
            assert video[0].header.frame_id == "camera_optical"
            first = video[0].pts
            assert [m.pts for m in video] == list(range(first, first + len(video)))
        else:
            assert (video[0].format, video[0].frame_id) == ("h264", "camera_optical")

        # Who joins in the middle need not wait for the next key frame that is due.
        late = ground.subscribe(kind, topic)
        show_until(lambda: len(late) > 3, "a video that was joined")
        keys = [is_key("h264", bytes(m.data)) for m in late[:3]]
        assert any(keys)
        assert len(whole_pictures(late[keys.index(True) :])) > 1


def test_a_video_of_the_overlay_that_cannot_be() -> None:
    process = TrackerProcess("unfilmed", device="cpu", overlay_video="vp9")
    assert process.process.wait(60) == 2
    assert "'overlay_video' is 'vp9', it must be one of none, ffmpeg, foxglove" in process.log
