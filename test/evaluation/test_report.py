# SPDX-License-Identifier: Apache-2.0
"""Results of stand-in trackers on tiny sequences, as tables and as a report."""

import argparse
import asyncio
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import EXECUTABLE, Browser

from mlkd_ros.cli import report as report_command
from mlkd_ros.data.sequences import DatasetError, ImageFrames, Sequence
from mlkd_ros.evaluation.one_pass import OnePass, write_result
from mlkd_ros.evaluation.report import read_section, write_report
from mlkd_ros.evaluation.results import read_annotated, score_folder, write_manifest
from mlkd_ros.evaluation.tables import attribute_table, main_table

FRAMES = 12


def _sequence(folder: Path, name: str, attributes: set[str]) -> Sequence:
    folder = folder / name
    folder.mkdir(parents=True)
    paths = []
    for number in range(FRAMES):
        image = np.full((90, 160, 3), 30, np.uint8)
        cv2.rectangle(image, (20 + 5 * number, 30), (40 + 5 * number, 46), (60, 180, 220), -1)
        paths.append(folder / f"{number:03d}.png")
        cv2.imwrite(str(paths[-1]), image)
    boxes = np.array([[20.0 + 5 * n, 30, 21, 17] for n in range(FRAMES)])
    boxes[8:10] = np.nan
    return Sequence(name, ImageFrames(tuple(paths)), boxes, attributes=frozenset(attributes))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A good tracker that notices absence, and one that is lost halfway and never says so."""
    folder = tmp_path / "results" / "tiny"
    sequences = [
        _sequence(tmp_path / "data", "easy", {"noise"}),
        _sequence(tmp_path / "data", "hard", {"noise", "occlusion"}),
    ]
    write_manifest(folder, "tiny", "day", sequences)
    for shift, sequence in enumerate(sequences):
        good = sequence.boxes + [4.0 * shift, 0, 0, 0]
        bad = np.nan_to_num(sequence.boxes, nan=10.0) + [0, 0, 0, 0]
        bad[6:, 0] += 90
        seconds = np.full(FRAMES, 0.004)
        write_result(folder / "ours" / f"{sequence.name}.txt", OnePass(good, seconds))
        write_result(folder / "zz<b>" / f"{sequence.name}.txt", OnePass(bad, 3 * seconds))
    return folder


def test_tables(results: Path) -> None:
    title, sequences = read_annotated(results)
    problems: list[str] = []
    trackers = [score_folder(results / name, sequences, problems) for name in ("ours", "zz<b>")]
    assert title == "tiny" and not problems
    head, ours, *rest = main_table(trackers, sequences, detailed=True)
    assert head.split()[:3] == ["AUC", "P@20", "NP"] and len(rest) == 5
    # 20 of 21 thresholds on the easy one, 14 (IoU 17 / 25) on the other.
    assert ours.split()[1:3] == [f"{(20 + 14) / 42:.3f}", "1.000"]
    assert ours.split()[5:] == ["0.0%", "0.0%", "4.0", "4.0"]
    assert rest[2].split()[6:] == ["100.0%", "12.0", "12.0"], "false boxes while it is absent"
    lines = attribute_table(trackers, sequences)
    assert lines[1].split() == ["noise", "2", f"{34 / 42:.3f}", "0.571"]
    assert lines[2].split()[:3] == ["occlusion", "1", f"{14 / 21:.3f}"]


def test_report(results: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    files = write_report([read_section(results)], output, worst=1)
    text = output.read_text(encoding="utf-8")
    assert [path.name for path in files] == ["report.html", "tiny_curves.png", "tiny_hard.png"]
    assert cv2.imread(str(files[2])).shape == (450, 1600, 3)
    assert "Where ours did worst" in text and "data:image/jpeg;base64," in text
    assert "zz&lt;b&gt;" in text and "zz<b>" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    assert not re.search(r'(src|href)="(?!data:|#)', re.sub(r"<svg.*?</svg>", "", text, flags=re.S))


def test_what_is_missing_is_named_and_the_rest_is_shown(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "zz<b>" / "hard.txt").unlink()
    (results / "ours" / "easy.txt").write_text("1,2,3,4\n")
    (tmp_path / "data" / "hard" / "004.png").write_bytes(b"no image")
    parser = argparse.ArgumentParser()
    report_command.add_parser(parser.add_subparsers())
    output = tmp_path / "report.html"
    arguments = parser.parse_args(["report", str(results), "-o", str(output)])
    assert arguments.run_command(arguments) == 1
    said = capsys.readouterr().err
    assert "hard.txt: no result" in said and "easy.txt: 1 lines for a sequence of 12" in said
    assert "no pictures:" in output.read_text() and "sequences missing" in output.read_text()
    with pytest.raises(DatasetError, match="no results of tracker 'csrt'; there are ours"):
        read_section(results, trackers=["csrt"])
    with pytest.raises(DatasetError, match="no such folder"):
        read_section(results / "nowhere")
    with pytest.raises(DatasetError, match=r"sequences\.json: not the list"):
        read_section(tmp_path / "data")


def test_other_trackers_are_shown_beside(results: Path, tmp_path: Path) -> None:
    other = tmp_path / "published" / "siam"
    other.mkdir(parents=True)
    for name in ("easy", "hard"):
        (other / f"{name}.txt").write_text("20\t30\t21\t17\n" * FRAMES)
    section = read_section(results, tmp_path / "published")
    assert [one.label for one in section.trackers] == ["ours", "zz<b>", "siam"]
    assert section.trackers[2].milliseconds().size == 0


@pytest.mark.skipif(EXECUTABLE is None, reason="no browser")
def test_the_report_fits_a_phone(results: Path, tmp_path: Path) -> None:
    """The page is as wide as the screen; a table that is wider scrolls by itself."""
    output = tmp_path / "report.html"
    write_report([read_section(results)], output, worst=1)

    async def look() -> None:
        async with Browser() as browser:
            page = await browser.open(output.as_uri())
            for width in (390, 844, 1280):
                await page.resize(width, 800, phone=width < 1000)
                assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await page.evaluate("document.querySelectorAll('.wide table').length >= 3")

    asyncio.run(look())
