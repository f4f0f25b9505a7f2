# SPDX-License-Identifier: Apache-2.0
"""Settings that travel in the checkpoint: how the student's maps become a box, a confidence and a
state.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PresenceSettings:
    """When a target is tracked, doubted, lost, found again and given up.

    Confidences are calibrated, times seconds. An image whose best candidate is below ``lost_below``
    does not show the target: no box. Such images for ``lost_after``, or UNCERTAIN for
    ``doubt_for``: LOST.

    A lost target is found again in ``reacquire_frames`` images one after the other, within a reach
    that is ``near`` at first and grows by ``spread`` a second, in sizes of the target (square root
    of its area). A candidate needs ``tracking_above`` within ``near`` of where the target is
    expected, and ``reacquire_above`` elsewhere. ``search_windows``: most windows looked at in one
    image while lost; ``Tracker.search_budget`` may leave time for fewer.
    """

    tracking_above: float = 0.35
    uncertain_below: float = 0.2
    lost_below: float = 0.05
    lost_after: float = 0.1
    doubt_for: float = 1.0
    reacquire_above: float = 0.45
    reacquire_frames: int = 2
    give_up_after: float = 30.0
    near: float = 1.5
    spread: float = 3.0
    search_windows: int = 3

    def __post_init__(self) -> None:
        thresholds = (self.lost_below, self.uncertain_below, self.tracking_above)
        if not 0 <= thresholds[0] <= thresholds[1] <= thresholds[2] <= 1:
            raise ValueError(
                "presence needs 0 <= lost_below <= uncertain_below <= tracking_above <= 1, not "
                + " <= ".join(f"{value:g}" for value in thresholds)
            )
        if not 0 <= self.reacquire_above <= 1:
            raise ValueError(f"reacquire_above must be 0 to 1, not {self.reacquire_above}")
        for name in ("lost_after", "doubt_for", "give_up_after", "spread"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not self.near > 0:
            raise ValueError(f"near must be above 0 sizes of the target, not {self.near}")
        for name in ("reacquire_frames", "search_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


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
    penalty_k: strength of the penalty on a change of scale and ratio (SiamRPN).
    window_influence: share of the cosine window in the ranking score.
    size_lr: learning rate of the box size.
    calibration: (slope, offset) of the logistic map from the raw score's logit to the confidence
        (Platt scaling).
    near_above: confidence from which on a target in sight is looked for in the near window, which
        costs 0.4 times as much as the whole search region. When it is not found there with this
        confidence, the same image is searched as usual. Above 1: never. For students and engines
        that have a near window.
    """

    context_amount: float = 0.5
    penalty_k: float = 0.138
    window_influence: float = 0.455
    size_lr: float = 0.348
    calibration: tuple[float, float] = (1.0, 0.0)
    near_above: float = 0.75
    presence: PresenceSettings = field(default_factory=PresenceSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)

    def __post_init__(self) -> None:
        if not self.near_above >= 0:
            raise ValueError(f"near_above must be at least 0, not {self.near_above}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, for the checkpoint's header."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrackerSettings:
        """From ``to_dict``'s form. ValueError names unknown keys.

        Presence settings from before ``near`` and ``spread`` are of a machine that went on
        reporting a box while it saw nothing: the present defaults take their place.
        """
        values = dict(values)
        parts = {"presence": PresenceSettings, "memory": MemorySettings}
        given = {name: values.pop(name, {}) for name in parts}
        for owner, keys in ((cls, values), *((parts[name], given[name]) for name in parts)):
            known = {f.name for f in dataclasses.fields(owner)}
            if unknown := sorted(set(keys) - known):
                raise ValueError(
                    f"unknown {owner.__name__} {unknown[0]!r}: known are {', '.join(sorted(known))}"
                )
        if "near" not in given["presence"]:
            given["presence"] = {}
        if "calibration" in values:
            values["calibration"] = tuple(values["calibration"])
        return cls(**values, **{name: parts[name](**given[name]) for name in parts})
