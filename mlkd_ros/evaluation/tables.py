# SPDX-License-Identifier: Apache-2.0
"""Scores as lines of text."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np

from mlkd_ros.data.sequences import Sequence
from mlkd_ros.evaluation.metrics import Scores
from mlkd_ros.evaluation.results import Annotated, TrackerResults

HEADER = "    AUC   P@20     NP    IoU  missed  false      ms  p99 ms"
Sequences = Many[Sequence] | Many[Annotated]


def attribute_names(sequences: Sequences) -> list[str]:
    """All attributes, those of most sequences first."""
    counts: dict[str, int] = {}
    for sequence in sequences:
        for name in sequence.attributes:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def main_table(trackers: Many[TrackerResults], sequences: Sequences, detailed: bool) -> list[str]:
    """A line for each tracker: scores, share of frames missed, of false boxes while absent, speed.

    With ``detailed`` also one for each of its sequences.
    """
    names = [one.label for one in trackers]
    names += ["  " + sequence.name for sequence in sequences if detailed]
    width = max(map(len, names), default=0) + 2
    lines = [" " * width + HEADER]
    for one in trackers:
        mean = one.mean()
        if mean is None:
            lines.append(f"{one.label:{width}}    no result")
            continue
        short = len(sequences) - len(one.scores)
        note = f"   ({short} of {len(sequences)} sequences without result)" if short else ""
        lines.append(f"{one.label:{width}}{_row(mean, one.milliseconds())}{note}")
        for sequence in sequences if detailed else ():
            if sequence.name in one.scores:
                single = TrackerResults("", {}, {sequence.name: one.passes[sequence.name]})
                row = _row(one.scores[sequence.name], single.milliseconds())
                lines.append(f"{'  ' + sequence.name:{width}}{row}")
    return lines


def _row(scores: Scores, milliseconds: np.ndarray) -> str:
    median, high = np.percentile(milliseconds, [50, 99]) if len(milliseconds) else (np.nan, np.nan)
    return (
        f"{scores.success_auc:7.3f}{scores.precision:7.3f}{scores.normalised_precision:7.3f}"
        f"{scores.mean_iou:7.3f}{_percent(scores.miss_rate):>8}"
        f"{_percent(scores.false_positive_rate):>7}{_number(median):>8}{_number(high):>8}"
    )


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f}%"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def attribute_table(trackers: Many[TrackerResults], sequences: Sequences) -> list[str]:
    """Success AUC of each tracker on the sequences of each attribute; empty without attributes."""
    attributes = attribute_names(sequences)
    if not attributes:
        return []
    width = max(map(len, attributes)) + 2
    columns = [max(len(one.label), 5) + 2 for one in trackers]
    heads = "".join(f"{one.label:>{w}}" for one, w in zip(trackers, columns, strict=True))
    lines = [f"{'success AUC by attribute':{width}}     {heads}".rstrip()]
    width = max(width, len("success AUC by attribute"))
    lines[0] = f"{'success AUC by attribute':{width}}    n{heads}"
    for attribute in attributes:
        names = [one.name for one in sequences if attribute in one.attributes]
        means = [one.mean(names) for one in trackers]
        cells = "".join(
            f"{'-' if mean is None else f'{mean.success_auc:.3f}':>{w}}"
            for mean, w in zip(means, columns, strict=True)
        )
        lines.append(f"{attribute:{width}}{len(names):5d}{cells}")
    return lines
