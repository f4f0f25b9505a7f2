# SPDX-License-Identifier: Apache-2.0
"""`--help` of every executable helps, and starts nothing."""

from __future__ import annotations

import subprocess

import pytest

from mlkd_ros.camera.settings import CameraParameters
from mlkd_ros.gimbal.node import GimbalSettings
from mlkd_ros.mavlink.settings import MavlinkSettings
from mlkd_ros.node.parameters import described, described_parameters
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
        ("camera", [name for name, _, _ in described(CameraParameters)]),
        ("mavlink", [name for name, _, _ in described(MavlinkSettings)]),
        ("gimbal", [name for name, _, _ in described(GimbalSettings)]),
    ],
)
def test_help(name: str, words: list[str]) -> None:
    shown = run(name, "--help")
    assert shown.returncode == 0
    for word in words:
        assert word in shown.stdout, word
    refused = run(name, "--colour", "--ros-args", "-p", "use_sim_time:=true")
    assert refused.returncode == 2 and "unrecognized arguments: --colour" in refused.stderr
