# SPDX-License-Identifier: Apache-2.0
"""`--help` of every executable helps, and starts nothing."""

from __future__ import annotations

import subprocess

import pytest

from mlkd_ros.node.parameters import described_parameters
from mlkd_ros.share import share_directory


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    executable = share_directory().parents[1] / "lib" / "mlkd_ros" / name
    return subprocess.run(
        [str(executable), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tracker", [name for name, _, _ in described_parameters()]),
        ("night_camera", ["scenario:=crossing", "occlusion:", "seed:=0", "rate:=30.0"]),
        ("gimbal", ["gain:=2.5", "dead_band:=0.3"]),
        ("mavlink", ["connections", "signing_key_file"]),
    ],
)
def test_help(name: str, words: list[str]) -> None:
    shown = run(name, "--help")
    assert shown.returncode == 0
    for word in words:
        assert word in shown.stdout, word
    refused = run(name, "--colour", "--ros-args", "-p", "use_sim_time:=true")
    assert refused.returncode == 2 and "unrecognized arguments: --colour" in refused.stderr
