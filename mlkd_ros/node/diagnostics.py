# SPDX-License-Identifier: Apache-2.0
"""How the node is doing, for /diagnostics and the log: rates, latency, drops, silence, QoS.

`Monitor` collects, from both threads; `diagnostic_statuses` words one snapshot of it.
"""

from __future__ import annotations

import enum
import math
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from mlkd_ros.session.image_health import ImageHealth, advice
from mlkd_ros.tracking import TrackState

__all__ = ["Latency", "Monitor", "Phase", "Snapshot", "diagnostic_statuses"]

#: Latencies looked back on: ten seconds at 30 Hz.
_LATENCIES = 300
#: Seconds that a rate is an average over.
_RATE_WINDOW = 3.0
#: A latency beyond this is no latency: camera and node do not share a clock.
CLOCKS_DIFFER = 60.0
#: Nor is one before the image was taken, but for two clocks that are synchronised so well.
EARLY = -0.1


def clocks_differ(topic: str, offset: float) -> str:
    """That the stamps are of another clock, `offset` seconds behind this node's, in words."""
    where = "behind" if offset > 0 else "ahead of"
    epoch = " (TAI is 37 s ahead of UTC)" if -38.5 < offset < -35.5 else ""
    return (
        f"image stamps on {topic} are {abs(offset):.1f} s {where} this node's clock{epoch}, so the "
        "latency is unknown: set use_sim_time for a replay, or synchronise the clocks"
    )


class Phase(enum.Enum):
    """Where in its lifecycle the node is."""

    UNCONFIGURED = "unconfigured"
    CONFIGURING = "configuring"
    INACTIVE = "inactive"
    ACTIVE = "active"
    FINALIZED = "finalized"


@dataclass(frozen=True)
class Latency:
    """Percentiles of the latest stamp-to-publish latencies, seconds; NaN before the first."""

    median: float = math.nan
    p95: float = math.nan
    p99: float = math.nan
    worst: float = math.nan

    @classmethod
    def of(cls, values: Iterable[float]) -> Latency:
        """Percentiles of `values`, each one that did occur."""
        ordered = sorted(values)
        if not ordered:
            return cls()
        last = len(ordered) - 1
        return cls(*(ordered[math.ceil(last * share)] for share in (0.5, 0.95, 0.99, 1.0)))


@dataclass(frozen=True)
class Snapshot:
    """Everything that diagnostics say, at one moment.

    `silence` is seconds since the last image (or since the start), `silent` whether that is too
    long; rates are in Hz; `unusable` counts images by what was wrong with them and `problem` is
    the latest of them in words, empty when the latest image was good; `fallback` says which engine
    failed and which one is used instead; `clock_missing` is whether sim time has not begun;
    `bearing_problem` is why there are no bearings though somebody subscribes to them;
    `clock_offset` is by how many seconds stamps are behind this node's clock where that is no
    latency, else NaN; `mark_problem` and `type_problem` are who publishes another type of message
    on a topic of clicks, and on that of the calibration; `stamp_problem` is what was wrong with
    stamps of late.
    """

    phase: Phase
    topic: str
    silent: bool
    silence: float
    publishers: int
    received: int
    input_rate: float
    output_rate: float
    problem: str
    unusable: Counter[str]
    qos_problem: str
    clock_missing: bool
    latency: Latency
    engine: str = ""
    device: str = ""
    fallback: str = ""
    processed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    states: dict[str, TrackState] = field(default_factory=dict)
    clock_offset: float = math.nan
    stamp_problem: str = ""
    mark_problem: str = ""
    type_problem: str = ""
    history: str = ""
    health: ImageHealth | None = None
    bearing_problem: str = ""
    bearing: dict[str, str] = field(default_factory=dict)
    designated: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)


class Monitor:
    """Counts and times. Any thread may call anything; times are of the steady clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals: deque[float] = deque(maxlen=1024)
        self._departures: deque[float] = deque(maxlen=1024)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._last_arrival = time.monotonic()
        self._silent_after: int | None = None  # Images received before the silence that lasts.
        self.received = 0
        self.unusable: Counter[str] = Counter()
        self.problem = ""
        #: Images up to this number were stamped before time was set back.
        self.of_another_time = 0
        #: Of the latest image; NaN where its stamp and this node's clock are of one time.
        self.clock_offset = math.nan

    def arrived(self) -> None:
        """An image has come in, usable or not."""
        now = time.monotonic()
        with self._lock:
            self.received += 1
            self._last_arrival = now
            self._arrivals.append(now)

    def refused(self, reason: str, problem: str) -> None:
        """It cannot be used."""
        with self._lock:
            self.unusable[reason] += 1
            self.problem = problem

    def accepted(self) -> None:
        """It can."""
        self.problem = ""

    def published(self, latency: float) -> None:
        """Detections for one image have been published `latency` seconds after its stamp; NaN if
        that is unknown.
        """
        with self._lock:
            if not math.isnan(latency):
                self._latencies.append(latency)
            self._departures.append(time.monotonic())

    def time_set_back(self, number: int) -> None:
        """Stamps up to that of image `number`, and latencies so far, are of another time."""
        with self._lock:
            self.of_another_time = number
            self._latencies.clear()

    def resume(self) -> None:
        """Images are expected from now on."""
        self._last_arrival = time.monotonic()
        self._silent_after = None
        self.problem = ""

    def silence(self) -> float:
        """Seconds since the last image, or since images are expected."""
        return time.monotonic() - self._last_arrival

    def silence_changed(self, timeout: float) -> bool | None:
        """True once when silence begins, False once when it ends, None otherwise."""
        if self._silent_after is not None:
            if self.received == self._silent_after:
                return None
            self._silent_after = None
            return False
        if self.silence() > timeout:
            self._silent_after = self.received
            return True
        return None

    def rates(self) -> tuple[float, float]:
        """Images received and processed a second, of late."""
        since = time.monotonic() - _RATE_WINDOW
        with self._lock:
            arrivals = sum(moment > since for moment in self._arrivals)
            departures = sum(moment > since for moment in self._departures)
        return arrivals / _RATE_WINDOW, departures / _RATE_WINDOW

    def latency(self) -> Latency:
        """Percentiles of the latest latencies."""
        with self._lock:
            return Latency.of(self._latencies)


def diagnostic_statuses(name: str, snapshot: Snapshot) -> list[DiagnosticStatus]:
    """A status each about the images that come in, the tracking of them, what they look like, and
    the bearings.
    """
    return [
        _status(f"{name}: images", snapshot, *_judge_images(snapshot), _image_values(snapshot)),
        _status(f"{name}: tracking", snapshot, *_judge_tracking(snapshot), _track_values(snapshot)),
        _status(
            f"{name}: image health",
            snapshot,
            *_judge_health(snapshot),
            snapshot.health.values() if snapshot.health else {},
        ),
        _status(f"{name}: bearing", snapshot, *_judge_bearing(snapshot), snapshot.bearing),
    ]


def _judge_images(snapshot: Snapshot) -> tuple[bytes, str]:
    topic = snapshot.topic
    if snapshot.phase is not Phase.ACTIVE:
        return DiagnosticStatus.STALE, f"{snapshot.phase.value}: not subscribed to {topic}"
    if snapshot.qos_problem and (snapshot.silent or snapshot.received == 0):
        return DiagnosticStatus.ERROR, snapshot.qos_problem
    if snapshot.silent:
        why = (
            "nobody publishes it"
            if snapshot.publishers == 0
            else f"though it has {snapshot.publishers} publisher(s)"
        )
        return DiagnosticStatus.ERROR, f"no image for {snapshot.silence:.1f} s on {topic}: {why}"
    if snapshot.problem:
        return DiagnosticStatus.ERROR, f"unusable images on {topic}: {snapshot.problem}"
    if snapshot.qos_problem:
        return DiagnosticStatus.WARN, snapshot.qos_problem
    if snapshot.stamp_problem:
        return DiagnosticStatus.WARN, f"image stamps on {topic}: {snapshot.stamp_problem}"
    if snapshot.received == 0:
        return DiagnosticStatus.OK, f"waiting for the first image on {topic}"
    return DiagnosticStatus.OK, f"{snapshot.input_rate:.1f} Hz on {topic}"


def _judge_tracking(snapshot: Snapshot) -> tuple[bytes, str]:
    if snapshot.phase is Phase.CONFIGURING:
        return DiagnosticStatus.OK, "configuring: loading the student"
    if snapshot.phase is not Phase.ACTIVE:
        return DiagnosticStatus.STALE, f"{snapshot.phase.value}: not tracking"
    if snapshot.fallback:
        return DiagnosticStatus.WARN, snapshot.fallback
    if snapshot.clock_missing:
        return DiagnosticStatus.WARN, "use_sim_time is set and there is no time on /clock yet"
    if snapshot.mark_problem:
        return DiagnosticStatus.ERROR, snapshot.mark_problem
    if not math.isnan(snapshot.clock_offset):
        return DiagnosticStatus.WARN, clocks_differ(snapshot.topic, snapshot.clock_offset)
    if not snapshot.states:
        return DiagnosticStatus.OK, "no target"
    if snapshot.silent:
        seen = ", ".join(f"target {key} was {s.name}" for key, s in snapshot.states.items())
        return DiagnosticStatus.WARN, f"no images for {snapshot.silence:.1f} s: {seen}"
    text = ", ".join(f"target {key} {state.name}" for key, state in snapshot.states.items())
    lost = any(state >= TrackState.LOST for state in snapshot.states.values())
    return DiagnosticStatus.WARN if lost else DiagnosticStatus.OK, text


def _judge_health(snapshot: Snapshot) -> tuple[bytes, str]:
    if snapshot.phase is not Phase.ACTIVE or snapshot.silent or snapshot.health is None:
        return DiagnosticStatus.STALE, "no image has been judged of late"
    found = advice(snapshot.health)
    return (DiagnosticStatus.WARN, "; ".join(found)) if found else (DiagnosticStatus.OK, "good")


def _judge_bearing(snapshot: Snapshot) -> tuple[bytes, str]:
    if snapshot.phase is not Phase.ACTIVE:
        return DiagnosticStatus.STALE, f"{snapshot.phase.value}: no bearings"
    if snapshot.type_problem:
        return DiagnosticStatus.ERROR, snapshot.type_problem
    if snapshot.bearing_problem:
        return DiagnosticStatus.WARN, snapshot.bearing_problem
    return DiagnosticStatus.OK, "published while somebody subscribes and the camera is calibrated"


def _image_values(snapshot: Snapshot) -> dict[str, str]:
    return {
        "topic": snapshot.topic,
        "publishers": str(snapshot.publishers),
        "received": str(snapshot.received),
        "input rate (Hz)": f"{snapshot.input_rate:.1f}",
        "since the last image (s)": f"{snapshot.silence:.2f}",
        "unusable": str(snapshot.unusable.total()),
        **{f"unusable: {reason}": str(count) for reason, count in snapshot.unusable.items()},
        "history": snapshot.history,
        **snapshot.extra,
    }


def _track_values(snapshot: Snapshot) -> dict[str, str]:
    latency = snapshot.latency
    return {
        "lifecycle": snapshot.phase.value,
        "engine": snapshot.engine,
        "device": snapshot.device,
        **_gpu_memory(snapshot.device),
        "processed": str(snapshot.processed),
        "output rate (Hz)": f"{snapshot.output_rate:.1f}",
        "dropped": str(snapshot.dropped.total()),
        **{f"dropped: {reason}": str(count) for reason, count in snapshot.dropped.items()},
        "latency median (ms)": _milliseconds(latency.median),
        "latency p95 (ms)": _milliseconds(latency.p95),
        "latency p99 (ms)": _milliseconds(latency.p99),
        "latency max (ms)": _milliseconds(latency.worst),
        **{f"target {key}": state.name for key, state in snapshot.states.items()},
        **snapshot.designated,
    }


def _milliseconds(seconds: float) -> str:
    return "unknown" if math.isnan(seconds) else f"{seconds * 1e3:.1f}"


def _gpu_memory(device: str) -> dict[str, str]:
    """What PyTorch knows about the memory of a CUDA device; nothing about a CPU."""
    torch = sys.modules.get("torch")
    if not device.startswith("cuda") or torch is None:
        return {}
    try:
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
    # A PyTorch without CUDA says so by an AssertionError; a report must not end the node.
    except (RuntimeError, AssertionError) as error:
        return {"GPU memory": f"unknown ({type(error).__name__})"}
    return {
        "GPU memory used (MiB)": f"{(total - free) / 2**20:.0f} of {total / 2**20:.0f}",
        "GPU memory of this node (MiB)": f"{own / 2**20:.0f}",
    }


def _status(
    name: str, snapshot: Snapshot, level: bytes, message: str, values: dict[str, str]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=snapshot.engine or "none",
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
