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
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mlkd_ros.data.flights import target_boxes
from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.data.sequences import DatasetError, Sequence, read_boxes
from mlkd_ros.evaluation.workers import results_in_order, worker_pool

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
        "060a152a160a0e2b38302f392b3a41200f1a2c3947452e2e3a20232131343e3b403a1c22"
        "0f244245453221344324140c273b3939271c1a161615120e2c39271a1a20130e0f0f0c0c",
    ),
    FlightEntry(
        "crossing",
        2,
        120,
        270,
        ("illumination", "distractors"),
        "0c102e130b1d2e36301d212b224321141d312f3a2e110b0d23151c412b342e2a120e0b0a"
        "0f1a3e39373028140c0909080f2a2f272819200d0a07060726241f1d1722110c0a070607",
    ),
    FlightEntry(
        "low_light",
        1,
        150,
        270,
        ("illumination", "noise"),
        "090a10210e08080a0a090f0f1c323816090d171921371b0c231419141b2717182a12090a"
        "0913292419110b0e0b080807172b2115150e0d080808080837311b1010140b0808080808",
    ),
    FlightEntry(
        "low_light",
        2,
        120,
        270,
        ("illumination", "noise"),
        "0917280c080c0e26200f1218153f1a0e0d0b1b210e09080a140d11201110271209080808"
        "0a0e1e1a15171b0b080808080c141113101110090808080812121d0f0e130a0908080808",
    ),
    FlightEntry(
        "occlusion",
        1,
        200,
        270,
        ("occlusion",),
        "161421221a463010070f0a0f141f230c2e392d0f100e0505170d0a2f33401d1322060505"
        "170a273c332d13151e0b0e06142b353019080f0e0b0b0e0b2c3340221b140a0a08050304",
    ),
    FlightEntry(
        "occlusion",
        2,
        1030,
        270,
        ("occlusion",),
        "08070b2a111e392f1215110505082e0a142332300e1c0d050825202736271c0f0a261405"
        "431c1c403a1f19080a2f0d04180f2c3e3c221b0c0d2e1209091f27392e1a0e080f241b0a",
    ),
    FlightEntry(
        "fast_motion",
        1,
        60,
        270,
        ("fast motion",),
        "0a141f3b230c192432212c2c284331231e2c313b3a2c20250c1027402f262129341a0f0f"
        "13273229292d221011100d0d1f231e1924140b0b0b0a0a0b29262712110a0a0908080808",
    ),
    FlightEntry(
        "fast_motion",
        2,
        60,
        270,
        ("fast motion",),
        "080c29190a111f2c3627232e1c412d0f131f21393c1c1015231a1c34251b282e28120e0b"
        "11163a3a351c2c240f0d0b0a112c2c36242020100b0908081b1f2a2118211a0d0a080607",
    ),
    FlightEntry(
        "small_target",
        1,
        60,
        270,
        ("small target", "distractors"),
        "19362e270e0b07091a222b1410273442150b08081728321d122631322827231d1d2c382f"
        "22393e3f392228313c3029252d2a25253c2b44493c21130a2f202534372a211c11090606",
    ),
    FlightEntry(
        "small_target",
        2,
        60,
        270,
        ("small target", "distractors"),
        "2c270e131612121620282416272a31141e1a3b21142f3e2921343e2a121a151f23313620"
        "2328233320293430323b1e1b262844414a3a2d2b414a3d162e3d36333734233143462213",
    ),
    FlightEntry(
        "distractors",
        1,
        60,
        270,
        ("distractors",),
        "2011173d361e1e242e391e23070c29192341312d1f23150d0607091b45383829130d0c0a"
        "070d213544341a110a090807151c33443635190d0b0908071d2b2d2e462c160f0b080605",
    ),
    FlightEntry(
        "distractors",
        2,
        60,
        270,
        ("distractors",),
        "1118102825122e1d3031110c11151a1c11344631361a0b08070708091134332c29140b08"
        "0607070f30364b36230e0b0806070b26333d3a4431130d0907081b39413d2c3f2e170f0b",
    ),
    FlightEntry(
        "out_of_view",
        1,
        100,
        270,
        ("out of view",),
        "1e131533422a101b2b323026070b32231a3633313a49421b0607091c3940362a28201c14"
        "081324291a2b281c130d0e0d20292a222b231e0b0a0a09091f283a3535180d0b0a090907",
    ),
    FlightEntry(
        "out_of_view",
        2,
        100,
        270,
        ("out of view",),
        "070c2f3a1c151d2f302410131521211231291e2a27110d0b11120f2d3323262a120b0808"
        "070b181f36222c1e0c0907060c201e3335191c100c0a070624202c422c331f100c090707",
    ),
    FlightEntry(
        "scale_change",
        1,
        60,
        270,
        ("scale change",),
        "060e2b0b0c1f17112b35252f0506080e2e2726353333232b0706060b1d35332d1c170e12"
        "0d11141c3131160b0a090a0c3c2616273c1e0e0908060608351a1317110e0a0705050505",
    ),
    FlightEntry(
        "scale_change",
        2,
        400,
        270,
        ("scale change",),
        "231d100b07141a1d3f1c060519180b0c1c2341271f1005051c151e221f2733280d0f1106"
        "2b3d28182b2e401f0c060b052527324146472d1c0a0708041d293f3f2e392b1d1c150b06",
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
    grey: np.ndarray = np.round(small.mean(axis=2)).astype(np.uint8)
    return grey.tobytes().hex()


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


def chosen(names: Many[str] | None) -> tuple[FlightEntry, ...]:
    """The entries of these names, in the benchmark's order; all for None.

    Raises:
        ValueError: There is no sequence of a name.
    """
    if not names:
        return ENTRIES
    missing = sorted(set(names) - {entry.name for entry in ENTRIES})
    if missing:
        known = ", ".join(entry.name for entry in ENTRIES)
        raise ValueError(f"no sequence {missing[0]!r}; there are {known}")
    return tuple(entry for entry in ENTRIES if entry.name in names)


def frames_to_render(annotations: Path, names: Many[str] | None = None) -> int:
    """Number of frames that :func:`load_night_flights` has to render for their annotation."""
    _drop_outdated(annotations)
    return sum(one.frames for one in chosen(names) if not _table(annotations, one).is_file())


def load_night_flights(
    annotations: Path,
    jobs: int = 1,
    on_frames: Callable[[int], object] | None = None,
    names: Many[str] | None = None,
) -> list[Sequence]:
    """The benchmark's sequences, or those of these names.

    A flight is rendered once for its annotation (some ten seconds for each), which is then kept as
    a file.

    Args:
        annotations: Folder where the annotations are kept, ``<sequence>.txt``. Those of another
            version of the renderer are made anew.
        jobs: Number of processes that render.
        on_frames: Called with the number of frames that were rendered since the last time: one
            after another, or flight by flight where several processes render.
        names: Of the sequences that are wanted; nothing else is rendered. None: all.

    Raises:
        ValueError: There is no sequence of a name.
    """
    entries = chosen(names)
    _drop_outdated(annotations)
    missing = [entry for entry in entries if not _table(annotations, entry).is_file()]
    _annotate(missing, annotations, min(jobs, len(missing)), on_frames)
    return [_load(entry, _table(annotations, entry)) for entry in entries]


def _annotate(
    missing: list[FlightEntry],
    annotations: Path,
    processes: int,
    on_frames: Callable[[int], object] | None,
) -> None:
    tables = [_table(annotations, entry) for entry in missing]
    if processes <= 1:
        for entry, table in zip(missing, tables, strict=True):
            write_annotation(entry, table, on_frames)
        return
    with worker_pool(processes) as pool:
        done = results_in_order(pool, write_annotation, missing, tables)
        for entry, _ in zip(missing, done, strict=True):
            if on_frames is not None:
                on_frames(entry.frames)


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


def write_annotation(
    entry: FlightEntry, path: Path, on_frame: Callable[[int], object] | None = None
) -> None:
    """Render an entry and write its boxes, ``x,y,w,h`` or NaN a line. ``on_frame`` is called with 1
    after each frame.
    """
    flight = _flight(entry.scenario, entry.seed)
    boxes = target_boxes(flight, entry.frames, entry.start, VISIBLE_FROM, on_frame)
    partial = path.with_suffix(".partial")
    np.savetxt(partial, boxes, fmt="%.3f", delimiter=",")
    partial.replace(path)
