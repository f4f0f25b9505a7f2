# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the loader and of training steps runs; figures are for people."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


def test_prints_what_is_supplied_and_what_is_taken(tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text("batch: 2\n", encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "--config", str(config), "--workers", "1"]
    command += ["--seconds", "0.2", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for row in ("| 1 | ", "| one student, one teacher | ", "| room of three, two teachers | "):
        assert row in done.stdout
