# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML file (and PNGs) from folders of results."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.evaluation import plots
from mlkd_ros.evaluation.datasets import frames_from_description
from mlkd_ros.evaluation.metrics import Scores
from mlkd_ros.evaluation.results import (
    Annotated,
    TrackerResults,
    read_annotated,
    score_folder,
    tracker_folders,
)
from mlkd_ros.evaluation.tables import attribute_names

OURS = "ours"


@dataclass(frozen=True)
class Section:
    """One folder of results: a data set under one condition."""

    title: str
    sequences: list[Annotated]
    trackers: list[TrackerResults]
    problems: list[str]

    @property
    def key(self) -> str:
        """Name for files and links."""
        return "".join(c if c.isalnum() or c in "-_" else "-" for c in self.title)


def read_section(
    folder: Path, others: Path | None = None, trackers: Many[str] | None = None
) -> Section:
    """Score a folder of results, and the trackers of another one beside it.

    Args:
        folder: ``<results>/<dataset>`` as ``mlkd evaluate`` writes it.
        others: ``DIR/<tracker>/<sequence>.txt``, results of other trackers on the same sequences.
        trackers: Only these, in this order; the first one is the one whose worst sequences are
            shown. Else all, ours first and then by success AUC.

    Raises:
        DatasetError: The folder holds no results, or none of a tracker that was asked for.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder of results")
    title, sequences = read_annotated(folder)
    problems: list[str] = []
    folders = tracker_folders(folder) + (tracker_folders(others) if others else [])
    scored = [score_folder(path, sequences, problems) for path in folders]
    scored = [one for one in scored if one.scores]
    if not scored:
        raise DatasetError(f"{folder}: holds no result of a tracker")
    if trackers:
        found = {one.label: one for one in scored}
        missing = [name for name in trackers if name not in found]
        if missing:
            raise DatasetError(
                f"{folder}: no results of tracker {missing[0]!r}; there are {', '.join(found)}"
            )
        scored = [found[name] for name in trackers]
    else:
        scored.sort(key=lambda one: (not one.label.startswith(OURS), -_area(one)))
    shown = {one.label for one in scored}
    problems = [text for text in problems if any(f"/{label}/" in text for label in shown)]
    return Section(title, sequences, scored, problems)


def _area(one: TrackerResults) -> float:
    mean = one.mean()
    return -1.0 if mean is None or np.isnan(mean.success_auc) else mean.success_auc


def picture_folder(output: Path) -> Path:
    """Where the pictures of a report go."""
    return output.with_name(f"{output.stem}_files")


def write_report(sections: Many[Section], output: Path, worst: int = 3) -> list[Path]:
    """Write the report and its pictures.

    Args:
        sections: In this order.
        output: The HTML file. Its pictures are inside it, and as PNG files in the folder
            ``<stem>_files`` beside it.
        worst: Number of sequences of each section that are shown, those on which its first tracker
            has the lowest success AUC.

    Returns:
        The files written.
    """
    folder = picture_folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    files = [output]
    parts = []
    for section in sections:
        parts.append(_section(section, folder, worst, files))
    links = "".join(
        f'<a href="#{section.key}">{html.escape(section.title)}</a>' for section in sections
    )
    page = _PAGE.format(
        style=_STYLE, links=links if len(sections) > 1 else "", body="\n".join(parts)
    )
    output.write_text(page, encoding="utf-8")
    return files


def _section(section: Section, folder: Path, worst: int, files: list[Path]) -> str:
    figure = plots.curves(section.trackers)
    files.append(folder / f"{section.key}_curves.png")
    figure.savefig(files[-1], dpi=110)
    frames = sum(len(one.boxes) for one in section.sequences)
    absent = sum(int((~np.isfinite(one.boxes).all(axis=1)).sum()) for one in section.sequences)
    about = f"{len(section.sequences)} sequences, {frames} frames"
    about += f", of these {absent} without the target" if absent else ""
    parts = [
        f'<section id="{section.key}"><h2>{html.escape(section.title)}</h2><p>{about}</p>',
        _main_table(section),
        f"<figure>{plots.as_svg(figure)}</figure>",
        _attribute_table(section),
        _sequence_table(section),
        _worst(section, folder, worst, files),
    ]
    if section.problems:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in section.problems)
        parts.append(f'<div class="problems"><h3>Not scored</h3><ul>{items}</ul></div>')
    return "\n".join(part for part in parts if part) + "</section>"


def _main_table(section: Section) -> str:
    heads = (
        ("tracker", "", True),
        ("success AUC", "mean of the success curve", True),
        ("precision", "centre within 20 pixels", True),
        ("norm. precision", "area of the normalised precision curve, 0 to 0.5", True),
        ("mean IoU", "", True),
        ("missed", "frames with the target on which no box was reported", False),
        ("false", "frames without the target on which a box was reported", False),
        ("median ms", "inside the tracker, a frame", False),
        ("p99 ms", "", False),
    )
    means = [one.mean() for one in section.trackers]
    best = [
        max((_figures(mean)[i] for mean in means if mean is not None), default=np.nan)
        for i in range(4)
    ]
    rows = []
    for index, (one, mean) in enumerate(zip(section.trackers, means, strict=True)):
        if mean is None:
            continue
        cells = "".join(
            _bar_cell(value, value == best[i]) for i, value in enumerate(_figures(mean))
        )
        cells += _plain(mean.miss_rate, "{:.1%}") + _plain(mean.false_positive_rate, "{:.1%}")
        times = one.milliseconds()
        for share in (50, 99):
            cells += _plain(np.percentile(times, share) if len(times) else np.nan, "{:.1f}")
        short = len(section.sequences) - len(one.scores)
        note = f" <small>{short} sequences missing</small>" if short else ""
        rows.append(f"<tr><th>{_name(index, one.label)}{note}</th>{cells}</tr>")
    head = "".join(f'<th title="{tip}">{text}</th>' for text, tip, _ in heads)
    return _wide(
        f'<table class="main"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _wide(table: str) -> str:
    """A table that scrolls by itself where the page is narrower."""
    return f'<div class="wide" tabindex="0">{table}</div>'


def _figures(mean: Scores) -> tuple[float, float, float, float]:
    return mean.success_auc, mean.precision, mean.normalised_precision, mean.mean_iou


def _name(index: int, label: str) -> str:
    swatch = f'<i style="background:{plots.colour(index)}"></i>'
    return f"{swatch}{html.escape(label)}"


def _bar_cell(value: float, best: bool) -> str:
    shown = "–" if np.isnan(value) else f"{value:.3f}"
    width = 0.0 if np.isnan(value) else 100 * min(max(value, 0.0), 1.0)
    kind = "bar best" if best else "bar"
    return f'<td class="{kind}" style="--share:{width:.1f}%">{shown}</td>'


def _plain(value: float, form: str) -> str:
    return f"<td>{'–' if np.isnan(value) else form.format(value)}</td>"


def _heat_cell(value: float) -> str:
    if np.isnan(value):
        return "<td>–</td>"
    return f'<td style="background:hsl({120 * min(value / 0.85, 1):.0f} 45% 78%)">{value:.3f}</td>'


def _attribute_table(section: Section) -> str:
    attributes = attribute_names(section.sequences)
    if not attributes:
        return ""
    groups = [
        (name, [one.name for one in section.sequences if name in one.attributes])
        for name in attributes
    ]
    head = "".join(f"<th>{html.escape(n)}<small>{len(g)}</small></th>" for n, g in groups)
    rows = []
    for index, one in enumerate(section.trackers):
        means = [one.mean(names) for _, names in groups]
        cells = "".join(_heat_cell(np.nan if m is None else m.success_auc) for m in means)
        rows.append(f"<tr><th>{_name(index, one.label)}</th>{cells}</tr>")
    return "<h3>Success AUC by attribute</h3>" + _wide(
        f'<table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _sequence_table(section: Section) -> str:
    head = "".join(f"<th>{_name(i, one.label)}</th>" for i, one in enumerate(section.trackers))
    rows = []
    for sequence in section.sequences:
        cells = "".join(
            _heat_cell(one.scores[sequence.name].success_auc)
            if sequence.name in one.scores
            else "<td>–</td>"
            for one in section.trackers
        )
        rows.append(
            f"<tr><th>{html.escape(sequence.name)}</th><td>{len(sequence.boxes)}</td>{cells}</tr>"
        )
    table = _wide(
        f'<table class="heat"><thead><tr><th></th><th>frames</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return f"<details><summary>Success AUC of every sequence</summary>{table}</details>"


def _worst(section: Section, folder: Path, count: int, files: list[Path]) -> str:
    """The sequences on which the first tracker did worst: pictures, and IoU over time."""
    first = section.trackers[0]
    known = [one for one in section.sequences if one.name in first.scores]
    known = [one for one in known if first.scores[one.name].frames]
    known.sort(key=lambda one: first.scores[one.name].success_auc)
    if not known or not count:
        return ""
    legend = " ".join(_name(i, one.label) for i, one in enumerate(section.trackers))
    parts = [
        f"<h3>Where {html.escape(first.label)} did worst</h3>"
        f'<p class="legend">{legend} <i class="truth"></i>truth. '
        "Cut around the target and brightened; shaded: the target is absent.</p>"
    ]
    for sequence in known[:count]:
        area = first.scores[sequence.name].success_auc
        tags = "".join(f"<em>{html.escape(tag)}</em>" for tag in sorted(sequence.attributes))
        title = f"{html.escape(sequence.name)} <b>{area:.3f}</b> {tags}"
        parts.append(f'<div class="worst"><h4>{title}</h4>')
        parts.append(_sheet(section, sequence, folder, files))
        parts.append(plots.as_svg(plots.timeline(section.trackers, sequence)) + "</div>")
    return "\n".join(parts)


def _sheet(section: Section, sequence: Annotated, folder: Path, files: list[Path]) -> str:
    try:
        frames = frames_from_description(sequence.frames)
        sheet = plots.contact_sheet(section.trackers, sequence, frames)
    except DatasetError as error:
        return f"<p>no pictures: {html.escape(str(error))}</p>"
    files.append(folder / f"{section.key}_{sequence.name}.png")
    cv2.imwrite(str(files[-1]), sheet)
    _, coded = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 82])
    data = base64.b64encode(coded.tobytes()).decode()
    return f'<img alt="frames of {html.escape(sequence.name)}" src="data:image/jpeg;base64,{data}">'


_STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5c6675; --line: #dde2e9; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
       color: var(--ink); background: #f5f7fa; }
header { background: #17202e; color: #f2f5f9; padding: 26px 0 20px; }
header h1 { margin: 0; font-size: 25px; font-weight: 600; }
header p { margin: 4px 0 0; color: #aab6c6; }
header a { color: #9fc7ff; margin-right: 16px; }
header div, main { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
          padding: 8px 26px 26px; margin: 24px 0; }
h2 { margin: 14px 0 0; font-size: 21px; } h2 + p { margin: 0 0 14px; color: var(--soft); }
h3 { margin: 28px 0 8px; font-size: 16px; }
h4 { margin: 18px 0 6px; font-size: 14.5px; font-weight: 600; }
h4 b { color: #b3364a; margin: 0 8px; }
h4 em { font-style: normal; font-weight: 400; font-size: 12.5px; background: #eaf0f7;
        border-radius: 9px; padding: 1px 9px; margin-right: 5px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right;
         font-weight: 400; white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--soft); font-size: 13px; }
tbody tr:first-child th:first-child { font-weight: 600; }
td.bar { background: linear-gradient(90deg, #dce9f6 var(--share), transparent 0); }
td.best { font-weight: 700; }
table.heat td { border: 2px solid #fff; border-radius: 5px; text-align: center; }
table.heat thead th { text-align: center; vertical-align: bottom; white-space: normal; }
small { display: block; color: var(--soft); font-size: 12px; }
i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 6px 0 0; }
.legend i { margin-left: 10px; } .legend { color: var(--soft); margin: 0; }
i.truth { border: 2px solid #444; background: #fff; }
img, svg { max-width: 100%; height: auto; display: block; } figure { margin: 18px 0 0; }
details { margin-top: 22px; } summary { cursor: pointer; font-weight: 600; }
.wide { overflow-x: auto; } .wide:focus-visible { outline: 2px solid #3b73b9; }
td, th { overflow-wrap: anywhere; } h4 { overflow-wrap: anywhere; }
@media (max-width: 700px) {
  header div, main { padding: 0 12px; }
  section { padding: 4px 12px 16px; margin: 12px 0; border-radius: 8px; }
  header h1 { font-size: 21px; } h2 { font-size: 19px; }
  th, td { padding: 6px 7px; font-size: 14px; }
  th:first-child { position: sticky; left: 0; background: #fff; }
}
.problems { color: #8a3b12; } footer { color: var(--soft); padding: 0 0 30px; font-size: 13px; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>One-pass evaluation</title><style>{style}</style></head>
<body><header><div><h1>One-pass evaluation</h1>
<p>Initialised on the first frame, tracked to the end, once. {links}</p></div></header>
<main>{body}
<footer>Success: share of frames with an IoU above a threshold; precision: with a centre error
within a distance. Means over sequences, frames without the target left out; there, a reported box
counts as false. Written by mlkd report.</footer></main></body></html>
"""
