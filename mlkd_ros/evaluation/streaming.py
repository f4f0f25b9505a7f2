# SPDX-License-Identifier: Apache-2.0
"""Latency-aware scoring of a bag: what a subscriber knew at every moment, not frame by frame.

At the stamp of every image (that of its ground truth, where the recorder has left out images), the
newest detection that had been *published by then* is compared with the truth of that image. A
tracker that is right, but late, is wrong by as far as the target has moved meanwhile. Beside it
stands the offline score: the detection of that very image, however late it came. Both count the
images from the moment on at which the first detection with a target was published.

A bag is read once, in the order of recording, and images are not decoded: what is kept are the
messages of the last seconds, running counts and a histogram of latencies, so memory does not grow
with the bag.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.evaluation.metrics import RunningScores, Scores
from mlkd_ros.imaging.bag_types import box_of, identity_of, score_of
from mlkd_ros.imaging.bags import Bag, stamp_of
from mlkd_ros.imaging.messages import IMAGE_TYPES
from mlkd_ros.imaging.stamps import StampJudge, header_stamp
from mlkd_ros.tracking.geometry import iou

DETECTIONS_TYPE = "vision_msgs/msg/Detection2DArray"
STATUS_TYPE = "mlkd_ros/msg/TrackStatus"
HOLD = 5.0
"""Seconds of messages that are kept: a detection that comes later than that is not seen."""
VISIBLE_FROM = 0.1
"""A target of which no larger fraction is seen counts as absent (the score in the ground truth)."""
LOST_BELOW, FOUND_FROM = 0.1, 0.3
"""IoU below which a visible target is lost, and from which on it is found again."""
PUBLISHED = ("auto", "received", "status")
_CLOCK_SET = 1_000_000_000
"""A jump of the recorder's clock against that of the stamps, nanoseconds: one of them was set."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class StreamingScores:
    """What :func:`score_bag` found. Times are in seconds; NaN is what the bag does not tell.

    Attributes:
        topics: Topic by role: ``image``, ``detections``, ``ground_truth``, ``status``.
        notes: What could not be scored, and why, a sentence each.
        published: Where the times of publishing came from, ``received`` or ``status``.
        seconds: From the first to the last stamp that was scored.
        images: Images since the first detection with a target.
        processed: Those for which detections were published.
        streaming: Scores of the newest detection at each image's stamp; None without ground truth.
        offline: Scores of each image's own detection, on the same images.
        latency: p50, p95, p99 from an image's stamp to the publishing of its detections.
        losses: How often a visible target was lost (streaming).
        reacquired: How often it was found again.
        reacquisition: Median and longest time to find it again, while it was visible.
        absent_seconds: Time during which the target was absent.
        false_seconds: Time of that during which a box was reported (streaming).
        without_box_seconds: Time without a reported box, whether the target was there or not.
    """

    topics: dict[str, str]
    notes: tuple[str, ...]
    published: str
    seconds: float
    images: int
    processed: int
    streaming: Scores | None
    offline: Scores | None
    latency: tuple[float, float, float]
    losses: int
    reacquired: int
    reacquisition: tuple[float, float]
    absent_seconds: float
    false_seconds: float
    without_box_seconds: float

    @property
    def drop_rate(self) -> float:
        """Share of the images for which nothing was published, 0 to 1."""
        return 1 - self.processed / self.images if self.images else math.nan

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        return _lines(self)

    def as_json(self) -> dict[str, Any]:
        """The figures in JSON's types, None for what the bag does not tell."""
        return _as_json(self)


def score_bag(
    path: str | Path,
    *,
    image: str | None = None,
    detections: str | None = None,
    ground_truth: str | None = None,
    status: str | None = None,
    target: str | None = None,
    published: str = "auto",
) -> StreamingScores:
    """Score what a tracker published in a recorded flight.

    Args:
        path: A rosbag2 bag (folder, ``.mcap`` or ``.db3``).
        image: Topic of the images. This and the other topics may be None: found by type and name.
        detections: Topic of the tracker's Detection2DArray.
        ground_truth: Topic of a Detection2DArray with the truth for the images, with their stamps;
            the first detection of an array is the target, its score the visible fraction.
        status: Topic of the tracker's TrackStatus.
        target: ``id`` of the tracker's detection that is scored; the first one if None.
        published: What tells when detections were published: ``received``, the time at which the
            recorder got them; ``status``, the latency in the tracker's status; ``auto``, the first
            of these where the recorder's clock is that of the stamps.

    Raises:
        DatasetError: Not a bag, no such topic, or nothing in it that can be scored.
        ValueError: ``published`` has another value.
    """
    if published not in PUBLISHED:
        raise ValueError(f"published must be one of {', '.join(PUBLISHED)}, not {published!r}")
    path = Path(path)
    asked = {
        "image": image,
        "detections": detections,
        "ground_truth": ground_truth,
        "status": status,
    }
    with Bag(path) as bag:
        topics, notes = _choose_topics(path, bag, asked)
        clock = _clock(bag, topics)
        scoring = _Scoring(target, published, clock, "ground_truth" in topics)
        needed = {role: name for role, name in topics.items() if role != "image" or role == clock}
        for role, received, message in _messages(bag, needed, notes):
            scoring.add(role, received, message)
        notes = [*bag.notes, *notes]
    scoring.finish()
    return scoring.result(path, topics, notes)


def _choose_topics(
    path: Path, bag: Bag, asked: dict[str, str | None]
) -> tuple[dict[str, str], list[str]]:
    """Topic by role, and what is missing."""
    types = {t.name: t.type for t in bag.topics.values() if t.count and not t.problem}
    wanted = {
        "image": IMAGE_TYPES,
        "detections": (DETECTIONS_TYPE,),
        "ground_truth": (DETECTIONS_TYPE,),
        "status": (STATUS_TYPE,),
    }
    topics = {}
    for role, kinds in wanted.items():
        topic = asked[role]
        if topic is not None and types.get(topic) not in kinds:
            found = sorted(name for name, kind in types.items() if kind in kinds)
            raise DatasetError(
                f"{path}: no topic {topic!r} with messages of {' or '.join(kinds)}; "
                f"there are {', '.join(found) or 'none'}"
            )
        topic = topic or _guess(role, [name for name, kind in types.items() if kind in kinds])
        if topic is not None:
            topics[role] = topic
    notes = []
    if "detections" not in topics:
        raise DatasetError(f"{path}: no topic of {DETECTIONS_TYPE} named 'detections' to score")
    if "image" not in topics and "ground_truth" not in topics:
        raise DatasetError(f"{path}: neither images nor ground truth: no stamps to score at")
    if "ground_truth" not in topics:
        notes.append(
            f"no ground truth (a topic of {DETECTIONS_TYPE} named 'ground_truth'): accuracy and "
            "losses are not scored"
        )
    if "image" not in topics:
        notes.append("no images: the stamps of the ground truth stand for theirs")
    return topics, notes


def _clock(bag: Bag, topics: dict[str, str]) -> str:
    """The role whose stamps are scored at: a recorder may have left out images, or their truth."""
    roles = [role for role in ("ground_truth", "image") if role in topics]
    return max(roles, key=lambda role: bag.topics[topics[role]].count)


def _guess(role: str, candidates: list[str]) -> str | None:
    """The topic named like the role; for images also the only one."""
    named = sorted(
        (name for name in candidates if role in name.rsplit("/", 2)[-2:]),
        key=lambda name: (name.count("/"), name),
    )
    if named:
        return named[0]
    return candidates[0] if role == "image" and len(candidates) == 1 else None


@dataclass(frozen=True)
class _Message:
    """What scoring needs of a message. Box and visible fraction are those of the target.

    `stamp` is its header's in nanoseconds, None without one.
    """

    stamp: int | None
    box: Box | None = None
    visible: float = 1.0
    latency: float = math.nan
    others: tuple[tuple[str, Box], ...] = ()


def _messages(
    bag: Bag, topics: dict[str, str], notes: list[str]
) -> Iterator[tuple[str, int, _Message]]:
    """Role, time of receipt and content of the messages, in the order of recording.

    What cannot be read is left out; `notes` gets a sentence for each topic with such messages.
    """
    roles = {topic: role for role, topic in topics.items()}
    unreadable: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for topic, received, data in bag.messages(roles):
        role = roles[topic]
        if role == "image":
            yield role, received, _Message(stamp_of(data))
            continue
        try:
            message = bag.decode(topic, data)
        except DatasetError as error:
            unreadable[topic] += 1
            reasons[topic] = str(error)
            continue
        yield role, received, _content(role, message)
    notes.extend(f"{n} messages are left out: {reasons[topic]}" for topic, n in unreadable.items())


def _content(role: str, message: Any) -> _Message:
    stamp = header_stamp(message.header)
    if role == "status":
        return _Message(stamp, latency=float(message.latency))
    if role == "ground_truth":
        if not len(message.detections):
            return _Message(stamp, visible=0.0)
        first = message.detections[0]
        return _Message(stamp, box_of(first.bbox), score_of(first))
    found = ((identity_of(one), box_of(one.bbox)) for one in message.detections)
    return _Message(stamp, others=tuple(found))


class LatencyHistogram:
    """Percentiles of any number of latencies in constant memory, exact to a tenth of a ms."""

    WIDTH = 1e-4
    BINS = 100_000

    def __init__(self) -> None:
        self._counts = np.zeros(self.BINS + 1, np.int64)

    def add(self, seconds: float) -> None:
        """Count one; what is longer than ten seconds counts as ten, what is negative as none."""
        index = round(seconds / self.WIDTH)
        self._counts[min(max(index, 0), self.BINS)] += 1

    def percentiles(self, *shares: float) -> tuple[float, ...]:
        """The latencies, seconds, that these shares of 100 do not exceed; NaN without any."""
        total = int(self._counts.sum())
        if not total:
            return (math.nan,) * len(shares)
        ranks = np.ceil(np.array(shares) / 100 * total)
        bins = np.searchsorted(np.cumsum(self._counts), np.maximum(ranks, 1))
        return tuple(float(index) * self.WIDTH for index in bins)


@dataclass
class _Losses:
    """When a visible target was lost and found again; time counts while it is visible."""

    lost: bool = False
    time_lost: float = 0.0
    count: int = 0
    found: int = 0
    durations: LatencyHistogram = field(default_factory=LatencyHistogram)
    longest: float = math.nan

    def add(self, overlap: float, seconds: float) -> None:
        """One image on which the target is visible; ``seconds`` to the next one."""
        if not self.lost and overlap < LOST_BELOW:
            self.lost, self.time_lost = True, 0.0
            self.count += 1
        elif self.lost and overlap >= FOUND_FROM:
            self.lost = False
            self.found += 1
            self.durations.add(self.time_lost)
            self.longest = float(np.fmax(self.longest, self.time_lost))
        if self.lost:
            self.time_lost += seconds


@dataclass
class _Image:
    """An image that is not scored yet, and what is known about it. Times are in nanoseconds.

    time: as judged, on the clock of the stamps; trusted: whether its own stamp says so.
    """

    stamp: int | None
    received: int
    time: int
    trusted: bool
    truth: _Message | None = None
    own: _Message | None = None
    waiting: tuple[int, Box | None] | None = None
    """Received, and box, of the detections that wait for their status."""


class _Scoring:
    """Takes the messages of a bag one after another; see the module's description.

    A message belongs to the image with its stamp. Where several have that stamp, because a clock
    was set or stands still, to the one that was received nearest to it.
    """

    def __init__(self, target: str | None, published: str, clock: str, has_truth: bool) -> None:
        self._target, self._has_truth = target, has_truth
        self._published = published
        self._clock = clock
        self._judge = StampJudge()
        self._pending: deque[_Image] = deque()
        self._by_stamp: dict[int | None, list[_Image]] = {}  # of those
        self._early: list[tuple[str, int, _Message]] = []  # whose image has not come yet
        self._ready: list[tuple[int, int, Box | None]] = []  # published, time of the image, box
        self._current: tuple[int, int, Box | None] | None = None
        self._offset = 0  # from stamps to judged times, at the newest image
        self._shift = 0  # from the recorder's clock to that of the judged times, but for delays
        self._delay: int | None = None  # of the newest image at the recorder
        self._begin: int | None = None  # when the first detection with a target was published
        self._first_scored: int | None = None
        self._last_scored = 0
        self.images = self.processed = self.unannotated = self.guessed = 0
        self.latency = LatencyHistogram()
        self.streaming, self.offline = RunningScores(), RunningScores()
        self.losses = _Losses()
        self.absent = self.false = self.without_box = 0.0

    def add(self, role: str, received: int, message: _Message) -> None:
        """Take the next message, received at that time in nanoseconds."""
        if role == self._clock:
            self._add_image(received, message)
        if role == "image":
            return
        image = self._image_of(message.stamp, received)
        if image is None:
            self._early.append((role, received, message))
            if role == "detections":
                self._publish_early(received, message)
            return
        self._attach(role, image, received, message)

    def _add_image(self, received: int, message: _Message) -> None:
        stamp = message.stamp
        if self._published == "auto":
            same_clock = stamp is not None and -0.5 <= (received - stamp) * 1e-9 <= HOLD
            self._published = "received" if same_clock else "status"
        verdict = self._judge.judge(stamp, received)
        image = _Image(stamp, received, verdict.time, verdict.trusted)
        if stamp is not None:
            self._offset = verdict.time - stamp
        self._follow_clock(received, verdict.time)
        self._pending.append(image)
        self._by_stamp.setdefault(stamp, []).append(image)
        early, self._early = self._early, []
        for role, when, one in early:
            near = abs(received - when) <= HOLD * 1e9
            if one.stamp == stamp and near and role != self._clock:
                self._attach(role, image, when, one, early=True)
            elif near:
                self._early.append((role, when, one))
        self._score_until(verdict.time - round(HOLD * 1e9))

    def _follow_clock(self, received: int, time: int) -> None:
        """Notice where the recorder's clock was set: what it says is moved back to where it was."""
        delay = received + self._shift - time
        if self._delay is not None and abs(delay - self._delay) > _CLOCK_SET:
            self._shift -= delay - self._delay
        else:
            self._delay = delay

    def _image_of(self, stamp: int | None, received: int) -> _Image | None:
        images = self._by_stamp.get(stamp, ())
        return min(images, key=lambda image: abs(received - image.received), default=None)

    def _attach(
        self, role: str, image: _Image, received: int, message: _Message, early: bool = False
    ) -> None:
        if role == "ground_truth":
            image.truth = message
        elif role == "detections":
            box = self._chosen(message)
            image.own = _Message(message.stamp, box)
            if self._published == "status":
                image.waiting = (received, box)
            elif not early:
                self._publish(received + self._shift, image, box)
        elif role == "status" and image.waiting is not None:
            came, box = image.waiting
            image.waiting = None
            latency = message.latency
            if math.isnan(latency):
                # Nobody knows when the image was taken: it counts from when the recorder got it.
                self.guessed += 1
                latency = (came - image.received) * 1e-9
            self._publish(image.time + round(latency * 1e9), image, box)

    def _chosen(self, message: _Message) -> Box | None:
        chosen = (box for name, box in message.others if self._target in (None, name))
        return next(chosen, None)

    def _publish(self, when: int, image: _Image, box: Box | None) -> None:
        if image.trusted:
            self.latency.add((when - image.time) * 1e-9)
        self._known(when, image.time, box)

    def _publish_early(self, received: int, message: _Message) -> None:
        """Detections about an image that was not recorded, or comes later."""
        if self._published == "status" or message.stamp is None:
            return
        time, when = message.stamp + self._offset, received + self._shift
        if self._published == "received":
            self.latency.add((when - time) * 1e-9)
        self._known(when, time, self._chosen(message))

    def _known(self, when: int, time: int, box: Box | None) -> None:
        self._ready.append((when, time, box))
        if box is not None:
            self._begin = when if self._begin is None else min(self._begin, when)

    def finish(self) -> None:
        """Score what is left at the end of the bag."""
        self._score_until(None)

    def _score_until(self, time: int | None) -> None:
        """Score the images up to a time; nothing that belongs to them is still to come."""
        while self._pending and (time is None or self._pending[0].time <= time):
            image = self._pending.popleft()
            self._by_stamp[image.stamp].remove(image)
            if not self._by_stamp[image.stamp]:
                del self._by_stamp[image.stamp]
            following = self._pending[0].time if self._pending else image.time
            self._score(image, (following - image.time) * 1e-9)

    def _score(self, image: _Image, seconds: float) -> None:
        """Score one image; ``seconds`` to the next one, 0 for the last."""
        ready = [one for one in self._ready if one[0] <= image.time]
        if ready:
            self._ready = [one for one in self._ready if one[0] > image.time]
            newest = max(ready, key=lambda one: one[1])
            if self._current is None or newest[1] > self._current[1]:
                self._current = newest
        if self._begin is None or image.time < self._begin:
            return
        self.images += 1
        self.processed += image.own is not None
        self._first_scored = image.time if self._first_scored is None else self._first_scored
        self._last_scored = image.time
        box = self._current[2] if self._current else None
        self.without_box += seconds if box is None else 0.0
        if not self._has_truth:
            return
        if image.truth is None:
            self.unannotated += 1
            return
        self._compare(image.truth, box, image.own.box if image.own else None, seconds)

    def _compare(self, truth: _Message, box: Box | None, own: Box | None, seconds: float) -> None:
        there = truth.box if truth.visible > VISIBLE_FROM else None
        self.streaming.add(box, there)
        self.offline.add(own, there)
        if there is None:
            self.absent += seconds
            self.false += seconds if box is not None else 0.0
        else:
            overlap = 0.0 if box is None else float(iou(np.array(box), np.array(there)))
            self.losses.add(overlap, seconds)

    def result(self, path: Path, topics: dict[str, str], notes: list[str]) -> StreamingScores:
        """What was found."""
        if not self.images:
            reason = "no detection with a target was published"
            if self._begin is not None:
                reason = "no image came after the first detection"
            elif self._published == "status" and "status" not in topics:
                reason = (
                    "the recorder's clock is not that of the stamps (simulated time?) and there is "
                    f"no topic of {STATUS_TYPE} that tells when detections were published"
                )
            raise DatasetError(f"{path}: nothing to score: {reason}")
        notes += self._judge.notes
        if self.guessed:
            notes.append(
                f"{self.guessed} images with unknown latency: it counts from when the recorder got "
                "the image"
            )
        if self.unannotated:
            notes.append(f"{self.unannotated} of {self.images} images have no ground truth")
        known = self._has_truth and self.unannotated < self.images
        median, high, highest = self.latency.percentiles(50, 95, 99)
        unknown = math.nan
        return StreamingScores(
            topics=topics,
            notes=tuple(notes),
            published=self._published,
            seconds=(self._last_scored - (self._first_scored or 0)) * 1e-9,
            images=self.images,
            processed=self.processed,
            streaming=self.streaming.scores() if known else None,
            offline=self.offline.scores() if known else None,
            latency=(median, high, highest),
            losses=self.losses.count,
            reacquired=self.losses.found,
            reacquisition=(self.losses.durations.percentiles(50)[0], self.losses.longest),
            absent_seconds=self.absent if known else unknown,
            false_seconds=self.false if known else unknown,
            without_box_seconds=self.without_box,
        )


def _lines(scores: StreamingScores) -> list[str]:
    lines = [f"{scores.images} images in {scores.seconds:.1f} s since the designation"]
    if scores.streaming is not None and scores.offline is not None:
        lines.append("               AUC   P@20     NP  missed  false")
        for name, one in (("streaming", scores.streaming), ("offline", scores.offline)):
            lines.append(
                f"{name:11}{one.success_auc:7.3f}{one.precision:7.3f}"
                f"{one.normalised_precision:7.3f}{100 * one.miss_rate:7.1f}%"
                + ("      -" if not one.absent else f"{100 * one.false_positive_rate:6.1f}%")
            )
    p50, p95, p99 = (1e3 * value for value in scores.latency)
    lines.append(
        f"stamp to publish p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms ({scores.published}); "
        f"dropped {100 * scores.drop_rate:.1f}% of the images"
    )
    if scores.streaming is not None:
        median, longest = scores.reacquisition
        again = f", after {median:.2f} s (longest {longest:.2f} s)" if scores.reacquired else ""
        lines.append(f"lost {scores.losses} times, found again {scores.reacquired} times{again}")
        lines.append(
            f"target absent {scores.absent_seconds:.1f} s, "
            f"of these with a false box {scores.false_seconds:.1f} s"
        )
    lines.append(f"no box reported during {scores.without_box_seconds:.1f} s")
    return lines


def _as_json(scores: StreamingScores) -> dict[str, Any]:
    def known(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 6)

    def accuracy(one: Scores | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {
            "success_auc": known(one.success_auc),
            "precision": known(one.precision),
            "normalised_precision": known(one.normalised_precision),
            "miss_rate": known(one.miss_rate),
            "false_positive_rate": known(one.false_positive_rate),
        }

    names = ("p50", "p95", "p99")
    return {
        "topics": scores.topics,
        "notes": list(scores.notes),
        "published": scores.published,
        "seconds": known(scores.seconds),
        "images": scores.images,
        "processed": scores.processed,
        "drop_rate": known(scores.drop_rate),
        "streaming": accuracy(scores.streaming),
        "offline": accuracy(scores.offline),
        "latency": dict(zip(names, map(known, scores.latency), strict=True)),
        "losses": scores.losses,
        "reacquired": scores.reacquired,
        "reacquisition": dict(
            zip(("median", "longest"), map(known, scores.reacquisition), strict=True)
        ),
        "absent_seconds": known(scores.absent_seconds),
        "false_seconds": known(scores.false_seconds),
        "without_box_seconds": known(scores.without_box_seconds),
    }
