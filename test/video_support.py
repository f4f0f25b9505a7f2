# SPDX-License-Identifier: Apache-2.0
"""A moving scene as packets of video, by real encoders, and as the messages that carry them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")

#: Encoder, B frames in a row, its options; a key frame every 15 pictures.
ENCODERS: dict[str, tuple[str, int, dict[str, str]]] = {
    "h264": ("libx264", 0, {"preset": "veryfast", "tune": "zerolatency"}),
    "h264 with B frames": ("libx264", 2, {"preset": "veryfast"}),
    "h265": ("libx265", 0, {"preset": "ultrafast", "x265-params": "bframes=0:keyint=15"}),
    "h265 with B frames": ("libx265", 2, {"preset": "ultrafast", "x265-params": "keyint=15"}),
    "av1": ("libsvtav1", 0, {"preset": "12", "svtav1-params": "pred-struct=1"}),
}
KEY_EVERY = 15


@dataclass(frozen=True)
class Coded:
    """A packet: of which picture, and whether a key frame."""

    data: bytes
    picture: int
    key: bool


@contextlib.contextmanager
def own_priority() -> Iterator[None]:
    """Give this thread the priority back that it had before.

    SVT-AV1, where root runs it, makes the thread that opens it a real-time one and leaves it so.
    Whatever that starts afterwards inherits it, and a browser with two busy processes then shuts
    out the test that drives it, for ever.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@own_priority()
def coded(kind: str, pictures: list[np.ndarray]) -> list[Coded]:
    """BGR pictures as packets in the order of coding; `kind` is one of ENCODERS."""
    encoder, b_frames, options = ENCODERS[kind]
    context = av.CodecContext.create(encoder, "w")
    context.height, context.width = pictures[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 30), 30
    context.gop_size, context.max_b_frames = KEY_EVERY, b_frames
    options = dict(options)
    if "x265-params" in options:
        options["x265-params"] += ":repeat-headers=1:log-level=none"
    context.options = options
    packets: list[Any] = []
    for index, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts = index
        packets += context.encode(frame)
    packets += context.encode(None)
    return [Coded(bytes(packet), int(packet.pts), packet.is_keyframe) for packet in packets]
