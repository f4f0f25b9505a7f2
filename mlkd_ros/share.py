# SPDX-License-Identifier: Apache-2.0
"""Finds the files that are installed beside the code: launch files, parameters, DDS settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ament_index_python import PackageNotFoundError, get_package_share_directory

__all__ = ["fastdds_environment", "share_directory", "use_fastdds_profile"]

# Where Fast DDS looks for its settings: since Kilted, and before. Kilted warns about the old name.
_PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
_PROFILES_BEFORE_KILTED = "FASTRTPS_DEFAULT_PROFILES_FILE"


def share_directory() -> Path:
    """Folder `share/mlkd_ros` of this installation, with `launch/` and `config/` in it."""
    try:
        return Path(get_package_share_directory("mlkd_ros"))
    except (PackageNotFoundError, OSError):
        # Installed with pip, and no ROS set-up file was sourced that tells ament where.
        return Path(sys.prefix) / "share" / "mlkd_ros"


def fastdds_environment() -> dict[str, str]:
    """Environment variables that let a process send camera images through shared memory.

    Empty if the user has already chosen settings of their own.
    """
    if os.environ.get(_PROFILES) or os.environ.get(_PROFILES_BEFORE_KILTED):
        return {}
    old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    profile = share_directory() / "config" / "fastdds.xml"
    return {_PROFILES_BEFORE_KILTED if old else _PROFILES: str(profile)}


def use_fastdds_profile() -> None:
    """Apply `fastdds_environment` to this process. To be called before `rclpy.init()`."""
    os.environ.update(fastdds_environment())
