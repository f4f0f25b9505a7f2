# SPDX-License-Identifier: Apache-2.0
"""Video decoded packet by packet: joined anywhere, with losses, damaged, in order."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_support import SECOND, START, header, make, write_bag
from video_support import ENCODERS, KEY_EVERY, Coded, coded

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.frame import I420Frame
from mlkd_ros.imaging.images import whole
from mlkd_ros.imaging.packets import PacketDecoder, codec_of, is_key
from mlkd_ros.imaging.sources import open_source

WIDTH, HEIGHT, COUNT = 320, 240, 60
#: The same decoder on the same packets gives the same values; a smear is tens of them.
SAME = 3


def scene(index: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    small = rng.integers(20, 120, (60, 90, 3)).astype(np.uint8)
    ground = cv2.resize(small, (900, 600), interpolation=cv2.INTER_CUBIC)
    image = ground[2 * index : 2 * index + HEIGHT, 3 * index : 3 * index + WIDTH].copy()
    cv2.circle(image, (50 + 2 * index, 100), 12, (255, 255, 255), -1)
    return image


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [scene(index) for index in range(COUNT)]


@pytest.fixture(scope="module", params=ENCODERS)
def stream(request: pytest.FixtureRequest, pictures: list[np.ndarray]) -> tuple[str, list[Coded]]:
    return request.param.split()[0], coded(request.param, pictures)


def decoded(
    kind: str, packets: list[tuple[int, Coded]]
) -> tuple[dict[int, np.ndarray], Counter[str]]:
    """Pixels by picture, and errors by reason. Packets come with their count."""
    decoder = PacketDecoder(codec_of(kind))
    found: list[tuple[Any, int]] = []
    errors: Counter[str] = Counter()
    for count, packet in packets:
        try:
            found += decoder.decode(packet.data, packet.picture, count=count + 1)
        except UnusableImageError as error:
            errors[error.reason] += 1
    found += decoder.flush()
    order = [picture for _, picture in found]
    assert order == sorted(set(order))
    return {picture: whole(frame) for frame, picture in found}, errors


def wrong(found: dict[int, np.ndarray], reference: dict[int, np.ndarray]) -> list[int]:
    return [
        picture
        for picture, pixels in found.items()
        if np.abs(pixels.astype(int) - reference[picture]).max() > SAME
    ]


def test_every_picture_comes_with_what_belongs_to_its_packet(
    stream: tuple[str, list[Coded]], pictures: list[np.ndarray]
) -> None:
    kind, packets = stream
    found, errors = decoded(kind, list(enumerate(packets)))
    assert sorted(found) == list(range(COUNT))
    assert not errors
    for index, pixels in found.items():
        assert np.abs(pixels.astype(int) - pictures[index]).mean() < 8, index


def test_a_stream_is_joined_at_the_next_key_frame(stream: tuple[str, list[Coded]]) -> None:
    kind, packets = stream
    reference, _ = decoded(kind, list(enumerate(packets)))
    keys = [index for index, packet in enumerate(packets) if packet.key]
    assert [is_key(codec_of(kind), packet.data) for packet in packets] == [
        packet.key for packet in packets
    ]
    found, errors = decoded(kind, list(enumerate(packets))[4:])
    assert errors == {"joining": keys[1] - 4}
    assert min(found) >= KEY_EVERY
    assert len(found) >= COUNT - KEY_EVERY - 2
    assert wrong(found, reference) == []


@pytest.mark.parametrize("seed", range(4))
def test_with_lost_packets_only_whole_pictures_are_given(
    stream: tuple[str, list[Coded]], seed: int
) -> None:
    kind, packets = stream
    reference, _ = decoded(kind, list(enumerate(packets)))
    chance = random.Random(seed)
    left = [pair for pair in enumerate(packets) if chance.random() > 0.05]
    found, errors = decoded(kind, left)
    assert wrong(found, reference) == []
    assert len(found) > COUNT // 4
    in_order = all(packet.picture == count for count, packet in enumerate(packets))
    if in_order:  # else some are held back at a loss, or lead a key frame that was joined at
        assert errors.total() == len(left) - len(found)
    assert errors["lost"] + errors["pixels"] + errors["joining"] > 0


@pytest.mark.parametrize("kind", ["h264", "av1"])
def test_packets_that_were_cut_off_are_named(kind: str, pictures: list[np.ndarray]) -> None:
    packets = list(enumerate(coded(kind, pictures)))
    reference, _ = decoded(kind, packets)
    count, packet = packets[20]
    packets[20] = count, Coded(packet.data[: len(packet.data) // 2], packet.picture, packet.key)
    found, errors = decoded(kind, packets)
    assert wrong(found, reference) == []
    assert 20 not in found and 30 in found
    assert errors["pixels"] == 1


def test_what_is_no_video_is_refused() -> None:
    decoder = PacketDecoder("h264")
    with pytest.raises(UnusableImageError, match="the packet is empty") as empty:
        decoder.decode(b"")
    assert empty.value.reason == "empty"
    with pytest.raises(UnusableImageError, match="joined at its next key frame"):
        decoder.decode(bytes(range(256)))
    with pytest.raises(UnusableImageError, match="must be h264, h265 or av1; .* 'theora'"):
        codec_of("theora")


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264", "h264"),
        ("libx264;yuv420p;bgr8;bgr8", "h264"),
        ("hevc_nvenc;nv12;bgr8;bgr8", "hevc"),
        ("h265", "hevc"),
        ("libsvtav1", "av1"),
    ],
)
def test_codecs_by_the_names_in_messages(name: str, codec: str) -> None:
    assert codec_of(name) == codec


def test_random_bytes_after_a_key_frame_end_nothing(pictures: list[np.ndarray]) -> None:
    rng = np.random.default_rng(3)
    packets = list(enumerate(coded("h264", pictures)))
    decoder = PacketDecoder("h264")
    given = 0
    for index in range(500):
        data = packets[index % COUNT][1].data
        if rng.random() < 0.3:
            data = data[:5] + rng.bytes(len(data))
        try:
            given += len(decoder.decode(data))
        except UnusableImageError as error:
            assert str(error)
    assert given


def test_a_window_is_that_of_the_whole_picture() -> None:
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, 256, sides).astype(np.uint8) for sides in ((48, 64), (24, 32))]
    frame = I420Frame(planes[0], planes[1], planes[1][::-1])
    full = whole(frame)
    for x0, y0, x1, y1 in ((0, 0, 64, 48), (3, 5, 40, 22), (63, 47, 64, 48)):
        assert np.array_equal(frame.window(x0, y0, x1, y1), full[y0:y1, x0:x1])
    with pytest.raises(ValueError, match="even sides"):
        I420Frame(planes[0][:, :63], planes[1], planes[1])


def message(transport: str, kind: str, packet: Coded, stamp: int) -> Any:
    data = np.frombuffer(packet.data, np.uint8).copy()
    if transport == "foxglove":
        return make(
            "foxglove_msgs/msg/CompressedVideo",
            timestamp=header(stamp).stamp,
            frame_id="camera",
            data=data,
            format=kind,
        )
    return make(
        "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
        header=header(stamp),
        width=WIDTH,
        height=HEIGHT,
        encoding=f"{kind};yuv420p;bgr8;bgr8",
        pts=packet.picture,
        flags=int(packet.key),
        is_bigendian=False,
        data=data,
    )


@pytest.mark.parametrize("transport", ["foxglove", "ffmpeg"])
def test_a_bag_of_video_is_footage_like_any_other(
    tmp_path: Path, stream: tuple[str, list[Coded]], transport: str
) -> None:
    kind, packets = stream
    reference, _ = decoded(kind, list(enumerate(packets)))
    stamps = [START + index * SECOND // 30 for index in range(COUNT)]
    bag = write_bag(
        tmp_path / "bag",
        [
            (
                f"/camera/{transport}",
                stamps[index],
                message(transport, kind, packet, stamps[packet.picture]),
            )
            for index, packet in enumerate(packets)
        ],
    )
    with open_source(bag) as source:
        frames = list(source)
        assert source.notes == []
    assert [frame.stamp for frame in frames] == stamps
    for index, frame in enumerate(frames):
        assert np.array_equal(frame.image, reference[index])


def test_without_the_library_it_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[np.ndarray]
) -> None:
    packet = coded("h264", pictures[:1])[0]
    images = [("/camera/foxglove", START, message("foxglove", "h264", packet, START))]
    bag = write_bag(tmp_path / "bag", images)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'mlkd-ros\[video\]'"):
        open_source(bag)


def test_the_tracker_says_so_too_and_imports_the_library_only_when_asked() -> None:
    code = (
        "import sys; from mlkd_ros.node.tracker_node import main; "
        "assert 'av' not in sys.modules; sys.modules['av'] = None; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "--ros-args", "-p", "image_transport:=foxglove"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert "parameter 'image_transport' is 'foxglove': decoding video needs PyAV" in ended.stderr
