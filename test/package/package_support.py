# SPDX-License-Identifier: Apache-2.0
"""What a checkout and an installation of the package consist of."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

TYPE_HASHES = {
    "vision_msgs/msg/Detection2DArray": (
        "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    ),
    "foxglove_msgs/msg/CompressedVideo": (
        "RIHS01_32039eafc3770e589c86c4dabff9c392ce9955ebffd43f5f60763011d43d8d1d"
    ),
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": (
        "RIHS01_648d84e0d33cbf76daf54b094d8f06154b8a24800a19c14371754df799fbaf79"
    ),
}
"""Type hashes of other people's messages: that of vision_msgs as its 4.1 has it. Those of
packets of video are published nowhere: they are what the generators make of the definitions that
are, of which a hash knows names, types and order."""

EXECUTABLES = (
    "tracker",
    "night_camera",
    "replay",
    "recorder",
    "ground_station",
    "mavlink",
    "gimbal",
    "camera",
    "mlkd",
)

OTHERS = ("vision_msgs", "foxglove_msgs", "ffmpeg_image_transport_msgs")
"""Packages of other people's messages that come with the wheel."""

_SOURCES = (
    "CMakeLists.txt",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "config",
    "interfaces_build.py",
    "launch",
    "mlkd_ros",
    "msg",
    "package.xml",
    "pyproject.toml",
    "setup.py",
    "srv",
    "third_party",
)


def copy_sources(target: Path) -> Path:
    """Copy what a build needs to the folder `target`, so that it leaves nothing in the checkout.

    With something left over from another build in it, which must not be installed.
    """
    target.mkdir(parents=True)
    for name in _SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for left_over in ("mlkd_ros/msg/_left_over.py", "mlkd_ros/left_over.so"):
        (target / left_over).parent.mkdir(exist_ok=True)
        (target / left_over).touch()
    return target


def package_files() -> set[str]:
    """The hand-written modules and what lies beside them, as paths from the checkout."""
    files = {p for p in (ROOT / "mlkd_ros").rglob("*") if p.is_file()}
    names = {path.relative_to(ROOT).as_posix() for path in files}
    generated = r"mlkd_ros/(msg|srv)/|.*\.(so|pyc)$"
    return {name for name in names if not re.match(generated, name)}


def share_files() -> set[str]:
    """The files that belong into share/mlkd_ros, as paths from there (and from the checkout)."""
    patterns = ("launch/*.launch.py", "config/**/*.yaml", "config/*.xml", "msg/*.msg", "srv/*.srv")
    files = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return {path.relative_to(ROOT).as_posix() for path in files} | {"package.xml"}


def pyproject() -> dict:
    """The content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
