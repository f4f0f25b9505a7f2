# SPDX-License-Identifier: Apache-2.0
"""The soak: its verdict on samples that are known, and a short flight of the real thing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import soak  # noqa: E402


def samples(**slopes: float) -> list[soak.Sample]:
    """Half an hour in which columns change by so much an hour."""
    steady = soak.Sample(0, 250, 110, 21, 26, 12, 20, 300, 300, 0, 1.0)
    hours = [index / 360 for index in range(1, 181)]
    return [
        dataclasses.replace(
            steady,
            seconds=hour * 3600,
            **{name: getattr(steady, name) + slope * hour for name, slope in slopes.items()},
        )
        for hour in hours
    ]


def test_flat(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.report(samples())
    printed = capsys.readouterr().out
    assert "| rss MiB | 250.0 | 250.0 | +0.0 | flat |" in printed
    assert "30.0 minutes, 54000 images" in printed


@pytest.mark.parametrize(
    ("column", "slope"),
    [
        ("rss", 60.0),
        ("threads", 9.0),
        ("files", 12.0),
        ("latency_p50", 20.0),
        ("latency_p95", 80.0),
        ("processed", -200.0),
    ],
)
def test_what_is_not_flat_is_named(column: str, slope: float, capsys) -> None:
    assert not soak.report(samples(**{column: slope}))
    printed = capsys.readouterr().out
    assert f"NOT FLAT: {column}\n" in printed
    assert f"{slope:+.1f} | NOT FLAT |" in printed


def test_too_short_for_a_verdict() -> None:
    with pytest.raises(ValueError, match="too few for a verdict"):
        soak.report(samples()[:4])


def test_a_short_flight(tmp_path: Path) -> None:
    """Memory and handles are flat; what the latency does here is the machine's matter."""
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--csv", str(tmp_path / "soak.csv")]
    command += ["--minutes", "0.4", "--interval", "1.5", "--ahead", "2", "--size", "320", "240"]
    done = subprocess.run(
        [*command, "--device", "cpu"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    taken = soak.read(tmp_path / "soak.csv")
    assert len(taken) == 16
    assert min(one.processed for one in taken) > 0
    assert all(one.rss > one.rss_anonymous > 30 for one in taken)
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("Verdict: ")
    assert (done.returncode == 0) == (verdict == "Verdict: flat")
    for column in ("rss", "threads", "files"):
        assert column not in verdict, done.stdout
