# SPDX-License-Identifier: Apache-2.0
"""night-flights-v1: a rendered benchmark that needs no download and stays as it is.

Sixteen flights of :mod:`mlkd_ros.data.night_flight`, fixed by scenario, seed and range of frames,
1280x720 at 30 Hz; none of their seeds is used in training (which takes 100 and above). A target of
which no more than a tenth is seen counts as absent.

Each entry holds a fingerprint of its first frame, so that a change of the renderer is noticed: the
grey values of a thumbnail, which sensor noise and the rounding of another platform move by less
than :data:`FINGERPRINT_TOLERANCE`, and another picture by far more. (An exact hash would differ
between versions of NumPy and OpenCV without a visible difference.)
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mlkd_ros.data.flights import target_boxes
from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.data.sequences import DatasetError, Sequence, read_boxes

NAME = "night-flights-v1"
VISIBLE_FROM = 0.1
"""A target of which no larger fraction is seen counts as absent."""
FINGERPRINT_SIZE = (12, 6)
FINGERPRINT_TOLERANCE = 2
"""Largest difference of grey values, of 255, between fingerprints of the same frame."""


@dataclass(frozen=True)
class FlightEntry:
    """One sequence of the benchmark: frames ``start`` to ``start + frames`` of a flight."""

    scenario: str
    seed: int
    start: int
    frames: int
    attributes: tuple[str, ...]
    fingerprint: str
    """Of the first frame, see :func:`fingerprint`."""

    @property
    def name(self) -> str:
        """Name of the sequence, ``<scenario>_<seed>``."""
        return f"{self.scenario}_{self.seed}"

    def flight(self) -> NightFlight:
        """The whole flight."""
        return NightFlight(self.scenario, self.seed)


ENTRIES: tuple[FlightEntry, ...] = (
    FlightEntry(
        "crossing",
        1,
        150,
        270,
        ("illumination", "distractors"),
        "060a152a160a0e2b37302f382b3a41200f1a2c3848422e2b3a20232130333d3b3f391c21"
        "0f244243443120324224140c263a3639271b1a161615120e2a3927191a1f120e0f0f0d0d",
    ),
    FlightEntry(
        "crossing",
        2,
        120,
        270,
        ("illumination", "distractors"),
        "0c102e130b1d2e342f1c202b224321141d3130392d110b0d23151c402a332d2a120e0b0a"
        "0f1a3e38372f27140c0909080f292f262618200d0a07060725241e1d1622110c0a070607",
    ),
    FlightEntry(
        "low_light",
        1,
        150,
        270,
        ("illumination", "noise"),
        "090a10210e08080a0a090f0f1c323816090d181820351b0c231419141a2616182811090a"
        "0913292318100a0e0b080807172b2015140d0d080808080835301b1010140b0808080808",
    ),
    FlightEntry(
        "low_light",
        2,
        120,
        270,
        ("illumination", "noise"),
        "0917280c080c0e251f0f1217153f1a0e0d0b1b200e09090a140d1120110f261009080808"
        "0a0d1e1a15161a0b090808080c1411120f1110090808080812121f0f0d120a0908080808",
    ),
    FlightEntry(
        "occlusion",
        1,
        200,
        270,
        ("occlusion",),
        "161421211a462f10070f090f141f240a2d392c0f100e0505170e0a2d323f1b1121060505"
        "170b263c322a14141e0b0e06142b352f18080e0e0b0b0e0b2b333e211a150a0a08050304",
    ),
    FlightEntry(
        "occlusion",
        2,
        1030,
        270,
        ("occlusion",),
        "08070b2a111d382e1115110505082e0a142231300e1c0d050825202736271c0f0a251405"
        "431c1c3f3a1e17080b2f0d04180f2b3e3c211b0c0d2e1209081e27372d1a0d080e241b0a",
    ),
    FlightEntry(
        "fast_motion",
        1,
        60,
        270,
        ("fast motion",),
        "0a141f3a230c182431212a2b274331231e2b303a392b1f240c1026402e252128341a0f0f"
        "13273127282c221011100d0d1e231d1823140b0b0b0a0a0c28252612110a0a0908080809",
    ),
    FlightEntry(
        "fast_motion",
        2,
        60,
        270,
        ("fast motion",),
        "080c29190b111e2b3526222d1c412d0f121e21383b1b0f15231a1c34241a282c28120f0b"
        "11163a39371b2b240f0d0b0a112c2b35242020100b0908081b1d2a2017201a0d0a070607",
    ),
    FlightEntry(
        "small_target",
        1,
        60,
        270,
        ("small target", "distractors"),
        "19352d260e0b07091a222b1410263341150b08081727321c122630312827231d1c2b372e"
        "22373c3e382127303b2f28252c2a26253a2942483b21130a2d1f2533362a201c11090606",
    ),
    FlightEntry(
        "small_target",
        2,
        60,
        270,
        ("small target", "distractors"),
        "2b260e131612121620282416262a31141e1a3b21132f3e2821333e2a121a151f2230371f"
        "222723332029342f313a1d1b2627423f49392c2b3f493d162e3a36333733233042462213",
    ),
    FlightEntry(
        "distractors",
        1,
        60,
        270,
        ("distractors",),
        "2011173d361e1e232d381e23070c29192340312d1e23150e0606091b45383728120d0c0a"
        "070d2034433319110a090907151c32433534190e0b0908071c2a2c2d462b160f0b080605",
    ),
    FlightEntry(
        "distractors",
        2,
        60,
        270,
        ("distractors",),
        "1118102825112e1c2f30110c11151a1c11334531341a0c08070708091133322b28140b08"
        "0607070f31364935220e0c0806070b26333c3a4331120d0907081b393f3d2b3e2d170f0b",
    ),
    FlightEntry(
        "out_of_view",
        1,
        100,
        270,
        ("out of view",),
        "1e131533422a101b2a312f25070b32231935332f3a48411b0607091c383f352a27201c15"
        "081324291a2b271c130d0e0d202929222a211d0b0a0a09091e273a3435180d0b0a090907",
    ),
    FlightEntry(
        "out_of_view",
        2,
        100,
        270,
        ("out of view",),
        "070c2f3a1c141c2e2f2310131521211230281d2a27110d0b10120f2c3223262a110b0808"
        "080b181e36222b1d0c0a07070b1f1d3234171c100c0a0706231f2b422b321f100c090707",
    ),
    FlightEntry(
        "scale_change",
        1,
        60,
        270,
        ("scale change",),
        "060e2b0b0c1f17112a35252e0506080e2e2726353233222a0706060b1c35332d1c170e12"
        "0d11141c3031150b0a090a0c3b2616263b1e0e0908060708341a1317110e0a0705050505",
    ),
    FlightEntry(
        "scale_change",
        2,
        400,
        270,
        ("scale change",),
        "231d100b07141a1d3e1b060519180b0c1c2342261f1005051c151e221f2632280d0f1106"
        "2a3d28172b2d3f1f0c060b052426314146452d1b0a0708041d283d3f2e372b1d1c150b06",
    ),
)
"""The benchmark."""


@dataclass(frozen=True)
class RenderedFrames:
    """The frames of an entry, rendered when asked for; light enough to be sent to a process."""

    scenario: str
    seed: int
    start: int
    count: int

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        """Render frame ``index``, uint8 BGR."""
        return _flight(self.scenario, self.seed).render(self.start + index).image

    def __iter__(self) -> Iterator[np.ndarray]:
        """Render one frame after another."""
        return (self[index] for index in range(self.count))


@lru_cache(maxsize=1)
def _flight(scenario: str, seed: int) -> NightFlight:
    """The flight rendered last: building its town takes a second."""
    return NightFlight(scenario, seed)


def fingerprint(image: np.ndarray) -> str:
    """Grey values of a thumbnail of an image, as 144 hexadecimal digits."""
    small = cv2.resize(image.astype(np.float32), FINGERPRINT_SIZE, interpolation=cv2.INTER_AREA)
    return np.round(small.mean(axis=2)).astype(np.uint8).tobytes().hex()


def fingerprint_distance(one: str, other: str) -> int:
    """Largest difference of grey values between two fingerprints."""
    a, b = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(int) for text in (one, other))
    return int(np.abs(a - b).max())


def renderer_version() -> str:
    """Hash of the renderer's code: annotations and results of another one are not the same."""
    from mlkd_ros.data import lowlight, night_flight

    digest = hashlib.sha256()
    folder = Path(night_flight.__file__).parent
    for path in (*sorted(folder.glob("*.py")), Path(lowlight.__file__)):
        digest.update(path.read_bytes())
    digest.update(repr((VISIBLE_FROM, ENTRIES)).encode())
    return digest.hexdigest()


def frames_to_render(annotations: Path) -> int:
    """Number of frames that :func:`load_night_flights` has to render for their annotation."""
    _drop_outdated(annotations)
    return sum(entry.frames for entry in ENTRIES if not _table(annotations, entry).is_file())


def load_night_flights(
    annotations: Path, jobs: int = 1, on_frames: Callable[[int], object] | None = None
) -> list[Sequence]:
    """The benchmark's sequences.

    A flight is rendered once for its annotation (some ten seconds for each), which is then kept as
    a file.

    Args:
        annotations: Folder where the annotations are kept, ``<sequence>.txt``. Those of another
            version of the renderer are made anew.
        jobs: Number of processes that render.
        on_frames: Called with the number of frames of each flight that had to be rendered.
    """
    _drop_outdated(annotations)
    missing = [entry for entry in ENTRIES if not _table(annotations, entry).is_file()]
    tables = [_table(annotations, entry) for entry in missing]
    processes = min(jobs, len(missing))
    with ProcessPoolExecutor(max(processes, 1), multiprocessing.get_context("spawn")) as pool:
        done = (pool.map if processes > 1 else map)(write_annotation, missing, tables)
        for entry, _ in zip(missing, done, strict=True):
            if on_frames is not None:
                on_frames(entry.frames)
    return [_load(entry, _table(annotations, entry)) for entry in ENTRIES]


def _table(annotations: Path, entry: FlightEntry) -> Path:
    return annotations / f"{entry.name}.txt"


def _drop_outdated(annotations: Path) -> None:
    """Remove annotations of another version of the renderer, and note the present one."""
    annotations.mkdir(parents=True, exist_ok=True)
    note, version = annotations / "renderer.sha256", renderer_version()
    if not note.is_file() or note.read_text(encoding="utf-8").strip() != version:
        for path in annotations.glob("*.txt"):
            path.unlink()
        note.write_text(version + "\n", encoding="utf-8")


def _load(entry: FlightEntry, path: Path) -> Sequence:
    boxes = read_boxes(path, allow_absent=True)
    if len(boxes) != entry.frames:
        raise DatasetError(f"{path}: {len(boxes)} lines for {entry.frames} frames; remove the file")
    return Sequence(
        entry.name,
        RenderedFrames(entry.scenario, entry.seed, entry.start, entry.frames),
        boxes,
        "flights",
        night=True,
        attributes=frozenset(entry.attributes),
    )


def write_annotation(entry: FlightEntry, path: Path) -> None:
    """Render an entry and write its boxes, ``x,y,w,h`` or NaN a line."""
    flight = _flight(entry.scenario, entry.seed)
    boxes = target_boxes(flight, entry.frames, entry.start, VISIBLE_FROM)
    partial = path.with_suffix(".partial")
    np.savetxt(partial, boxes, fmt="%.3f", delimiter=",")
    partial.replace(path)
