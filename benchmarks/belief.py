# SPDX-License-Identifier: Apache-2.0
"""What each part of the belief is worth, and what the best choice of peaks would give.

    python benchmarks/belief.py --root SEQUENCES --condition day high_gain codec --starts 2 --jobs 2

Our tracker as it ships; without one of its parts at a time; and with a seer in place of association
and existence, who takes the peak that overlaps the truth most, and none where none overlaps it: an
upper bound of what any rules can make of what this student sees. Tables as of `mlkd evaluate
--starts`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mlkd_ros.data import sequences as data
from mlkd_ros.distillation.selection import ALWAYS_THERE
from mlkd_ros.evaluation.datasets import choose, load_dataset
from mlkd_ros.evaluation.one_pass import CONDITIONS, DAY
from mlkd_ros.evaluation.robust import Run, fly_starts, starts_of, summarise, table
from mlkd_ros.evaluation.workers import results_in_order, worker_pool
from mlkd_ros.tracking import Tracker, load_tracker
from mlkd_ros.tracking.checkpoint import load_checkpoint
from mlkd_ros.tracking.engine import choose_student
from mlkd_ros.tracking.geometry import Box, iou
from mlkd_ros.tracking.global_motion import Motion
from mlkd_ros.tracking.peaks import Peak
from mlkd_ros.tracking.search import Search
from mlkd_ros.tracking.settings import TrackerSettings
from mlkd_ros.tracking.track import Plan, Track, TrackResult, _Choice

#: A peak shows the target from this overlap with the truth on.
SHOWS = 0.3
#: Log ratio of what a seer is sure of.
SURE = 10.0


class Unaided(Track):
    """Without lookalikes: what is seen beside the target is never tracked."""

    def _renew_lookalikes(self, peaks: list[Peak], choice: _Choice) -> None:
        self.lookalikes.update([], [], None)


class Still(Track):
    """Without the camera's motion: as if the picture never moved."""

    in_doubt = False  # type: ignore[assignment]

    def predict(self, seconds: float, motion: Motion) -> None:
        """Go on to the next image."""
        super().predict(seconds, Motion())


class Seer(Track):
    """Knows the truth of the image that is looked at: ``truth``, NaN where the target is hidden."""

    truth: np.ndarray

    def _overlaps(self, peaks: list[Peak]) -> np.ndarray:
        boxes = [(p.x - p.w / 2, p.y - p.h / 2, p.w, p.h) for p in peaks]
        found = iou(np.array(boxes).reshape(-1, 4), np.tile(self.truth, (len(boxes), 1)))
        return np.nan_to_num(found)

    def _choose(self, peaks: list[Peak], plan: Plan) -> _Choice:
        overlaps = self._overlaps(peaks)
        taken, shows = int(overlaps.argmax()), bool(overlaps.max() >= SHOWS)
        evidence = SURE if shows else -SURE
        return _Choice(peaks[taken], taken, [], evidence, 0.0, shows, shows)

    def _renew_lookalikes(self, peaks: list[Peak], choice: _Choice) -> None:
        pass

    def _plain(self, peak: Peak, plan: Plan) -> bool:
        return bool(self._overlaps([peak])[0] >= SHOWS) and super()._plain(peak, plan)

    def _conclude_search(
        self, search: Search, by_window: list[list[Peak]], plan: Plan, seconds: float
    ) -> TrackResult:
        peaks = list(itertools.chain.from_iterable(by_window))
        overlaps = self._overlaps(peaks)
        if not len(peaks) or overlaps.max() < SHOWS:
            return super()._conclude_search(search, [[]], plan, seconds)
        best = peaks[int(overlaps.argmax())]
        self.existence.search(True, seconds)
        self.x, self.y, self.w, self.h = best.x, best.y, best.w, best.h
        self.kinematics, self.last = self._started(best.x, best.y), (best.x, best.y)
        self.usual, self.unseen, self.search, self._steady = (best.w, best.h), 0.0, None, False
        self._keep_inside()
        return self._result(best, 1.0)


def _ours(settings: TrackerSettings) -> TrackerSettings:
    return settings


def _first_template(settings: TrackerSettings) -> TrackerSettings:
    return replace(settings, memory=replace(settings.memory, share=0.0))


def _always(settings: TrackerSettings) -> TrackerSettings:
    return replace(settings, presence=ALWAYS_THERE)


#: By name: settings, the class of the track, and whether there is a near window.
VARIANTS: dict[str, tuple[Callable[[TrackerSettings], TrackerSettings], type[Track], bool]] = {
    "ours": (_ours, Track, True),
    "no near window": (_ours, Track, False),
    "first template only": (_first_template, Track, True),
    "no lookalikes": (_ours, Unaided, True),
    "no camera motion": (_ours, Still, True),
    "always a box": (_always, Track, True),
    "best peak by truth": (_ours, Seer, False),
}


class Variant:
    """One of VARIANTS, as evaluation has trackers. truth: of the images from the first one on."""

    confidence = float("nan")

    def __init__(self, name: str, checkpoint: str | None, truth: np.ndarray) -> None:
        change, self._kind, near = VARIANTS[name]
        settings = change(load_checkpoint(choose_student(checkpoint, "cpu", "auto")).settings)
        self._tracker: Tracker = load_tracker(checkpoint, device="cpu", settings=settings)
        if not near:
            self._tracker._engine.search_sizes = self._tracker._engine.search_sizes[:1]
        self._truth = iter(truth)

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target."""
        self._tracker.init(image, box, stamp)
        next(self._truth)
        self._tracker._followed().__class__ = self._kind

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target."""
        self._tracker._followed().truth = next(self._truth)  # type: ignore[attr-defined]
        result = self._tracker.update(image, stamp)
        self.confidence = result.confidence
        return result.box


def fly(
    names: Sequence[str],
    checkpoint: str | None,
    starts: int,
    work: tuple[data.Sequence, str, int],
) -> list[Run]:
    """All variants along one sequence, from every start."""
    cv2.setNumThreads(1)
    sequence, condition, seed = work
    begins = {name: iter(starts_of(sequence, starts)) for name in names}

    def create(name: str) -> Variant:
        return Variant(name, checkpoint, sequence.boxes[next(begins[name]) :])

    return fly_starts(create, names, sequence, condition, seed, starts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the sequences")
    parser.add_argument("--dataset", default="pairs", help="their layout, as of `mlkd evaluate`")
    parser.add_argument("--sequence", action="append", help="only this one, repeatable")
    parser.add_argument("--condition", nargs="+", choices=CONDITIONS, default=[DAY])
    parser.add_argument("--noise-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--student", help="fast, accurate or a checkpoint")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args(argv)
    loaded = load_dataset(given.dataset, given.root, [], annotations=Path())
    sequences = choose(loaded, given.sequence)
    above = load_checkpoint(choose_student(given.student, "cpu", "auto")).settings.presence
    for condition in given.condition:
        seeds = given.noise_seeds if condition != DAY else given.noise_seeds[:1]
        works: list[Any] = [(one, condition, seed) for seed in seeds for one in sequences]
        work = partial(fly, given.variants, given.student, given.starts)
        with worker_pool(given.jobs) as pool:
            runs = list(itertools.chain.from_iterable(results_in_order(pool, work, works)))
        summaries = {
            name: summarise([run for run in runs if run.tracker == name], above.tracking_above)
            for name in given.variants
        }
        print(f"\n{condition}: {len(sequences)} sequences, {given.starts} starts, seeds {seeds}")
        print("\n".join(table(summaries)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
