# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the flying part runs; what it measures is judged by people."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_prints_its_tables():
    command = [sys.executable, str(BENCHMARKS / "latency.py"), "--count", "3", "--device", "cpu"]
    command += ["--only", "sizes", "stages", "lost", "enhancer", "--enhancer", "gamma"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rows = ["| 3840x2160 |", "| network, 255x255 |", "| find peaks, 159x159 |", "in doubt |"]
    rows += ["beside four lookalikes |", "| lost, budget 5 ms |", "then student |"]
    for row in rows:
        assert row in done.stdout
