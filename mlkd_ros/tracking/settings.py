# SPDX-License-Identifier: Apache-2.0
"""Settings that travel in the checkpoint: how the student's maps become a box, a confidence and a
state.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PresenceSettings:
    """When a target is tracked, doubted, lost, found again and given up.

    Probabilities are those that are published, times seconds. An image whose best peak has less
    than ``shown_above`` does not show the target: no box; nor does one that, with what is believed
    from those before, rather does not. A target whose probability of existence
    (``existence.Existence``) falls below ``lost_below`` is LOST; one that is lost is found again
    when something within its reach is the target with ``reacquire_above``. ``search_windows``: most
    windows looked at in one image while lost; ``Tracker.search_budget`` may leave time for fewer.
    """

    tracking_above: float = 0.6
    uncertain_below: float = 0.4
    lost_below: float = 0.1
    shown_above: float = 0.02
    reacquire_above: float = 0.7
    give_up_after: float = 30.0
    search_windows: int = 3

    def __post_init__(self) -> None:
        thresholds = (self.lost_below, self.uncertain_below, self.tracking_above)
        if not 0 <= thresholds[0] <= thresholds[1] <= thresholds[2] <= 1:
            raise ValueError(
                "presence needs 0 <= lost_below <= uncertain_below <= tracking_above <= 1, not "
                + " <= ".join(f"{value:g}" for value in thresholds)
            )
        for name in ("shown_above", "reacquire_above"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if not self.give_up_after >= 0:
            raise ValueError(f"give_up_after must be at least 0, not {self.give_up_after}")
        if self.search_windows < 1:
            raise ValueError(f"search_windows must be at least 1, not {self.search_windows}")


#: Settings of rules that the belief has replaced, in the headers of older checkpoints.
_FORMER = {"window_influence", "near_above"}


@dataclass(frozen=True)
class BeliefSettings:
    """Densities of what a target and a camera do and what a student sees of it. ``mlkd fit``
    estimates those of scores, places, sizes, times in sight and confidence; those of motion were
    chosen on tuning sequences and rendered flights. Lengths are in sizes of the target (square root
    of its area), times in seconds.

    score_slope, score_offset: logarithm of the likelihood ratio of the logit of a window's best
    peak under *target* and under *clutter*, ``slope logit + offset``. score_most: logits above
    count as this one. detection: probability that a visible target gives a peak at all.
    displacement, speed: deviation of where a target is in the next image, a constant part (camera
    shake, error of the box) and one that grows with time; freedom: of the Student t distribution of
    both. association: weights of the logit, of the log density of the place and of the change of
    size (sum of the absolute logarithms of both sides' changes) by which the target is told from
    other peaks.
    wander, wander_time, jitter: of the velocity over ground (``kinematics.Kinematics``): its
    stationary deviation and time constant, and the deviation of a measurement about the smooth way.
    visible_for, hidden_for: mean times after which a visible target is hidden, and a hidden one is
    back. independent_after: time between two images that are as good as independent.
    evidence: weights of 1, the logit, the log density of the place, the change of size and the
    logit that the target usually has, in the log ratio of what an image shows where the target is
    expected, under *visible* and *hidden*. confidence: weights of 1, the log-odds of existence,
    this evidence and the usual logit in the log-odds that the box is right (IoU above 0.5).
    score_time: time constant of what is usual.
    """

    score_slope: float = 0.674
    score_offset: float = -3.7
    score_most: float = 12.0
    detection: float = 0.95
    displacement: float = 0.12
    speed: float = 10.0
    freedom: float = 4.0
    association: tuple[float, float, float] = (0.674, 1.0, -2.0)
    wander: float = 1.0
    wander_time: float = 1.5
    jitter: float = 0.12
    visible_for: float = 5.0
    hidden_for: float = 5.0
    independent_after: float = 0.1
    evidence: tuple[float, float, float, float, float] = (2.65, 0.94, 1.9, -3.6, -0.55)
    confidence: tuple[float, float, float, float] = (-4.35, 0.005, 0.26, 0.52)
    score_time: float = 0.8

    def __post_init__(self) -> None:
        for field_ in dataclasses.fields(self):
            value = getattr(self, field_.name)
            if count := _WEIGHTS.get(field_.name):
                if len(value) != count or not all(map(math.isfinite, value)):
                    raise ValueError(f"{field_.name} must be {count} finite weights, not {value!r}")
            elif not math.isfinite(value):
                raise ValueError(f"{field_.name} must be finite, not {value!r}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.detection < 1:
            raise ValueError(f"detection must be between 0 and 1, not {self.detection}")


_WEIGHTS = {"association": 3, "evidence": 5, "confidence": 4}
_POSITIVE = (
    "score_slope", "displacement", "freedom", "wander", "wander_time", "jitter", "visible_for",
    "hidden_for", "independent_after", "score_time",
)  # fmt: skip


@dataclass(frozen=True)
class MemorySettings:
    """How the template follows the target's looks, see ``memory.TemplateMemory``.

    share: of the recent template against the first one, 0 (never changes) to 0.5.
    renewal: weight of the newest view in the recent template.
    above: confidence that a view needs. interval: least time between two views, seconds.
    """

    share: float = 0.3
    renewal: float = 0.5
    above: float = 0.75
    interval: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ValueError(
                f"memory share must be 0 to 0.5, not {self.share}: the first template leads"
            )


@dataclass(frozen=True)
class TrackerSettings:
    """Post-processing of one student, in the terms of the Siamese-tracking literature.

    context_amount: margin of the template region, in mean sides of the box (SiamFC).
    penalty_k: how much less a box of another scale and ratio changes the size (SiamRPN).
    size_lr: learning rate of the box size.
    calibration: (slope, offset) of the logistic map from a peak's logit to the probability that its
        box is right, where the target is followed (Platt scaling).
    """

    context_amount: float = 0.5
    penalty_k: float = 0.138
    size_lr: float = 0.348
    calibration: tuple[float, float] = (1.0, 0.0)
    presence: PresenceSettings = field(default_factory=PresenceSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    belief: BeliefSettings = field(default_factory=BeliefSettings)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, for the checkpoint's header."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrackerSettings:
        """From ``to_dict``'s form. ValueError names unknown keys.

        What an older header says of the rules before the belief is left out.
        """
        values = dict(values)
        parts = {"presence": PresenceSettings, "memory": MemorySettings, "belief": BeliefSettings}
        given = {name: dict(values.pop(name, {})) for name in parts}
        if "belief" not in values and not given["belief"]:
            given["presence"] = {}
            values = {k: v for k, v in values.items() if k not in _FORMER}
        for owner, keys in ((cls, values), *((parts[name], given[name]) for name in parts)):
            known = {f.name for f in dataclasses.fields(owner)}
            if unknown := sorted(set(keys) - known):
                raise ValueError(
                    f"unknown {owner.__name__} {unknown[0]!r}: known are {', '.join(sorted(known))}"
                )
        if "calibration" in values:
            values["calibration"] = tuple(values["calibration"])
        for name in _WEIGHTS.keys() & given["belief"].keys():
            given["belief"][name] = tuple(given["belief"][name])
        return cls(**values, **{name: parts[name](**given[name]) for name in parts})
