# SPDX-License-Identifier: Apache-2.0
"""This environment's installation has everything where people and ROS tools look for it."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import distribution

import pytest
from package_support import EXECUTABLES, ROOT, share_files

from mlkd_ros.share import fastdds_environment, share_directory


def test_share_files_are_installed_and_up_to_date() -> None:
    for name in share_files():
        assert (share_directory() / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_ament_index_knows_the_package() -> None:
    index = share_directory().parent / "ament_index/resource_index"
    assert (index / "packages/mlkd_ros").is_file()
    interfaces = (index / "rosidl_interfaces/mlkd_ros").read_text().splitlines()
    assert {"msg/TrackStatus.msg", "srv/InitTarget.srv"} <= set(interfaces)


@pytest.mark.parametrize("name", EXECUTABLES)
def test_executables_are_commands_and_where_ros2_run_looks(name: str) -> None:
    assert name in {entry.name for entry in distribution("mlkd-ros").entry_points}
    assert os.access(share_directory().parents[1] / "lib/mlkd_ros" / name, os.X_OK)


def test_an_executable_runs_in_an_environment_that_is_not_activated() -> None:
    executable = share_directory().parents[1] / "lib/mlkd_ros/mlkd"
    environment = {"PATH": "/usr/bin:/bin"}
    subprocess.run([executable, "--help"], env=environment, check=True, capture_output=True)


def test_own_fastdds_profile_unless_the_user_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
    profile = str(share_directory() / "config/fastdds.xml")
    for name in (new, old, "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    assert fastdds_environment() == {new: profile}
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert fastdds_environment() == {old: profile}
    for name in (new, old):
        monkeypatch.setenv(name, "mine.xml")
        assert fastdds_environment() == {}
        monkeypatch.delenv(name)
