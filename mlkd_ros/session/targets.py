# SPDX-License-Identifier: Apache-2.0
"""The targets a node follows: designation on an image of the past, catching up, one step per image.

No ROS in here and no threads: one thread, the tracking worker, owns a `TargetSet`.
"""

from __future__ import annotations

import contextlib
import enum
import math
import time
from dataclasses import dataclass, replace

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.session.history import FrameHistory, HeldFrame, StampOutsideHistoryError
from mlkd_ros.tracking import (
    BoxOutsideImageError,
    InvalidBoxError,
    PresenceSettings,
    TargetRecord,
    Tracker,
    TrackResult,
    TrackState,
    update_together,
)

__all__ = [
    "Code",
    "Designated",
    "Designation",
    "DesignationError",
    "TargetReport",
    "TargetSet",
    "full_resolution",
    "image_seen",
]

Box = tuple[float, float, float, float]


class Code(enum.IntEnum):
    """Why a designation was accepted or not; the numbers are those of InitTarget.srv."""

    SUCCESS = 0
    NO_IMAGE = 1
    STAMP_OUTSIDE_HISTORY = 2
    INVALID_BOX = 3
    BOX_OUTSIDE_IMAGE = 4
    TOO_MANY_TARGETS = 5
    UNUSABLE_IMAGE = 6
    NOT_READY = 7
    INTERNAL_ERROR = 8
    INVALID_TARGET_ID = 9


#: Names are repeated in every message, log line and file.
MAX_ID_LENGTH = 64


class DesignationError(Exception):
    """A designation that was refused. Nothing has changed: targets being followed still are."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Designation:
    """What an operator marked.

    `box` is x, y, w, h in pixels of an image of `image_size` (width, height), or of the camera's
    image when that is (0, 0). `stamp` is that image's, in nanoseconds; 0 means the newest. With
    `fit` only the point x, y counts, and the box is fitted to what is there.
    """

    box: Box
    stamp: int = 0
    image_size: tuple[int, int] = (0, 0)
    target_id: str = ""
    fit: bool = False


@dataclass(frozen=True)
class TargetReport:
    """One target on one image: what the tracker said, and the seconds that all targets took."""

    target_id: str
    result: TrackResult
    processing_time: float


@dataclass(frozen=True)
class Designated:
    """A designation that was accepted: the image it began on and the box there (x, y, w, h in its
    pixels), and the target on the newest one.
    """

    start: HeldFrame
    newest: HeldFrame
    frames_caught_up: int
    report: TargetReport
    box: Box

    @property
    def outcome(self) -> str:
        """In words."""
        return (
            f"target {self.report.target_id} designated, then followed through "
            f"{self.frames_caught_up} images: {self.report.result.state.name}"
        )


@dataclass
class _Target:
    tracker: Tracker
    state: TrackState = TrackState.TRACKING


class TargetSet:
    """Up to `max_targets` targets, each with a sibling of `tracker`, all on its one engine.

    A new target is started and brought up to date on a sibling of its own; only when all of that
    went well does it take its place, or another's.
    """

    def __init__(self, tracker: Tracker, max_targets: int) -> None:
        self._tracker = tracker
        self._max_targets = max_targets
        self._targets: dict[str, _Target] = {}
        self._last_id = 0

    @property
    def engine_name(self) -> str:
        """What runs the network, and where."""
        return self._tracker.engine_name

    @property
    def device(self) -> str:
        """Where the network runs: `cpu` or `cuda:N`."""
        return self._tracker.device

    @property
    def presence(self) -> PresenceSettings:
        """The thresholds in use."""
        return self._tracker.settings.presence

    @property
    def context_amount(self) -> float:
        """How wide the template patches are cut: records of another student do not fit."""
        return self._tracker.settings.context_amount

    @property
    def states(self) -> dict[str, TrackState]:
        """The last known state of each target by its id."""
        return {name: target.state for name, target in self._targets.items()}

    def step(self, held: HeldFrame, known: TargetReport | None = None) -> list[TargetReport]:
        """Follow every target on to one more image, but for one whose report is `known` already.

        Raises ValueError if the image's pixels turn out to be unusable; the targets are kept.
        """
        others = {n: t for n, t in self._targets.items() if known is None or n != known.target_id}
        reports = _step(others, held)
        return [*reports, known] if known else reports

    def settle(self) -> None:
        """What can be done for the next image before it is there; see `Tracker.settle`."""
        for target in self._targets.values():
            target.tracker.settle()

    def forget(self, target_id: str = "") -> list[str]:
        """Stop following one target, or all of them; the ids that were followed."""
        names = [name for name in self._targets if target_id in ("", name)]
        for name in names:
            del self._targets[name]
        return names

    def tune(self, presence: PresenceSettings, search_budget: float) -> None:
        """Other thresholds, and seconds an image for looking for lost targets."""
        self._tracker.search_budget = search_budget
        for tracker in (self._tracker, *(target.tracker for target in self._targets.values())):
            tracker.set_presence(presence)

    def records(self) -> dict[str, TargetRecord]:
        """The targets by their ids, those that were given up left out."""
        return {
            name: target.tracker.record()
            for name, target in self._targets.items()
            if target.state != TrackState.GIVEN_UP
        }

    def restore(self, records: dict[str, TargetRecord], context_amount: float) -> list[str]:
        """Look for recorded targets, in the place of those followed; as many as there is room for.

        The ids of those. Raises ValueError, before anything has changed, for records that do not
        fit the student.
        """
        if not math.isclose(context_amount, self.context_amount):
            raise ValueError(
                f"its patches have a context_amount of {context_amount}, not {self.context_amount}"
            )
        kept = dict(list(records.items())[: self._max_targets])
        self._targets = {
            name: _restored(self._tracker, replace(record, state=TrackState.LOST))
            for name, record in kept.items()
        }
        self._last_id = max([self._last_id, *(int(name) for name in kept if name.isdecimal())])
        return list(kept)

    def look_for_all(self) -> None:
        """Images are missing, so no target is taken to be where it was: each is searched for."""
        self._targets = {
            name: target
            if target.state == TrackState.GIVEN_UP
            else _restored(self._tracker, replace(target.tracker.record(), state=TrackState.LOST))
            for name, target in self._targets.items()
        }

    def move_to(self, tracker: Tracker) -> None:
        """Follow the targets with another tracker, on its engine, as if nothing had happened."""
        tracker.search_budget = self._tracker.search_budget
        tracker.set_presence(self._tracker.settings.presence)
        self._targets = {
            name: _restored(tracker, target.tracker.record())
            for name, target in self._targets.items()
        }
        self._tracker = tracker

    def look(self, held: HeldFrame, box: Box) -> tuple[Box, float]:
        """What the network takes a target to be that is marked with `box`: its box, and a score."""
        return self._tracker.look(held.frame, box)

    def designate(
        self, request: Designation, history: FrameHistory, catch_up_duration: float
    ) -> Designated:
        """Start on the image that the operator saw, run up to the newest, then follow from there.

        Running up takes at most about `catch_up_duration` seconds: when there are more images
        than fit into it, they are skipped evenly, those that arrive meanwhile included. The
        newest one is never skipped. Raises DesignationError.
        """
        _check_id(request.target_id)
        replaced = self._to_replace(request.target_id)
        start = image_seen(request.stamp, history)
        box = full_resolution(request, start)
        try:
            target = _Target(self._tracker.sibling())
            _init(target.tracker, start, box)
            name = request.target_id or self._next_id()
            newest, count, report = _catch_up(name, target, start, history, catch_up_duration)
        except DesignationError:
            raise
        except UnusableImageError as error:
            raise DesignationError(Code.UNUSABLE_IMAGE, str(error)) from error
        except Exception as error:
            raise DesignationError(
                Code.INTERNAL_ERROR, f"the tracker failed: {type(error).__name__}: {error}"
            ) from error
        if replaced is not None:
            del self._targets[replaced]
        self._targets[name] = target
        return Designated(start, newest, count, report, box)

    def _to_replace(self, target_id: str) -> str | None:
        """The id of the target that a new one with this id takes the place of, None for a free one.

        A target that has been given up does not keep its place against a new one.
        """
        if target_id in self._targets:
            return target_id
        if len(self._targets) < self._max_targets:
            return None
        given_up = (n for n, t in self._targets.items() if t.state == TrackState.GIVEN_UP)
        name = next(given_up, next(iter(self._targets)) if self._max_targets == 1 else None)
        if name is None:
            raise DesignationError(
                Code.TOO_MANY_TARGETS,
                f"{self._max_targets} targets are being followed ({', '.join(self._targets)}), as "
                "many as parameter max_targets allows: stop first, or name the one to replace in "
                "target_id",
            )
        return name

    def _next_id(self) -> str:
        """The next number that is no target's name."""
        while True:
            self._last_id += 1
            if str(self._last_id) not in self._targets:
                return str(self._last_id)


def _restored(tracker: Tracker, record: TargetRecord) -> _Target:
    target = _Target(tracker.sibling(), record.state)
    target.tracker.restore(record)
    return target


def image_seen(stamp: int, history: FrameHistory) -> HeldFrame:
    """The image with that stamp, the newest for 0. Raises DesignationError."""
    newest = history.newest()
    if newest is None:
        raise DesignationError(Code.NO_IMAGE, "no usable image has been received yet")
    if stamp == 0:
        return newest
    try:
        return history.at(stamp)
    except StampOutsideHistoryError as error:
        raise DesignationError(Code.STAMP_OUTSIDE_HISTORY, str(error)) from error


def _check_id(target_id: str) -> None:
    """Raise DesignationError for a name that must not get into messages and logs."""
    if len(target_id) > MAX_ID_LENGTH or not target_id.isprintable():
        raise DesignationError(
            Code.INVALID_TARGET_ID,
            f"target_id {target_id[:MAX_ID_LENGTH]!r} has {len(target_id)} characters: it must be "
            f"at most {MAX_ID_LENGTH}, all of them printable",
        )


def full_resolution(request: Designation, held: HeldFrame) -> Box:
    """The box in pixels of the camera's image. Raises DesignationError for one that is none."""
    width, height = request.image_size
    if not all(map(math.isfinite, request.box)):
        raise DesignationError(
            Code.INVALID_BOX, f"box {request.box} must be finite numbers x, y, width, height"
        )
    if (width == 0) != (height == 0):
        raise DesignationError(
            Code.INVALID_BOX,
            f"image_width {width} and image_height {height} must both be given, or both be 0 for "
            "a box in pixels of the camera's image",
        )
    if width == 0:
        return request.box
    scale_x, scale_y = held.frame.width / width, held.frame.height / height
    x, y, w, h = request.box
    return x * scale_x, y * scale_y, w * scale_x, h * scale_y


def _init(tracker: Tracker, held: HeldFrame, box: Box) -> None:
    """`Tracker.init` with each way to fail under its own code."""
    try:
        tracker.init(held.frame, box, held.seconds)
    except BoxOutsideImageError as error:
        raise DesignationError(Code.BOX_OUTSIDE_IMAGE, str(error)) from error
    except InvalidBoxError as error:
        raise DesignationError(Code.INVALID_BOX, str(error)) from error
    except ValueError as error:
        raise DesignationError(Code.UNUSABLE_IMAGE, str(error)) from error


def _step(targets: dict[str, _Target], held: HeldFrame) -> list[TargetReport]:
    begin = time.perf_counter()
    trackers = [target.tracker for target in targets.values()]
    results = update_together(trackers, held.frame, held.seconds)
    seconds = time.perf_counter() - begin
    for target, result in zip(targets.values(), results, strict=True):
        target.state = result.state
    return [
        TargetReport(name, result, seconds) for name, result in zip(targets, results, strict=True)
    ]


def _catch_up(
    name: str, target: _Target, start: HeldFrame, history: FrameHistory, duration: float
) -> tuple[HeldFrame, int, TargetReport]:
    """Run from `start` to the newest image: that image, how many were run through, the report."""
    begin = time.monotonic()
    held, count, report, spent = start, 0, None, 0.0
    while spent < duration and (ahead := history.after(held.number)):
        # Evenly, as many as there is time for at the pace so far: the next one is this far ahead.
        affordable = (duration - spent) * count / spent if count else len(ahead)
        held = ahead[math.ceil(len(ahead) / max(affordable, 1.0)) - 1]
        # That an image cannot be decoded may be found out only here; the next one may be good.
        with contextlib.suppress(UnusableImageError):
            report = _step({name: target}, held)[0]
            count += 1
        spent = time.monotonic() - begin
    newest = history.newest() or held
    if report is None or newest.number > held.number:
        held, report = newest, _step({name: target}, newest)[0]
        count += held is not start
    return held, count, report
