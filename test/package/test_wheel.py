# SPDX-License-Identifier: Apache-2.0
"""A wheel, built from a copy of the checkout, holds everything that an installation needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import pytest
from package_support import EXECUTABLES, OTHERS, copy_sources, package_files, share_files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ZipInfo]:
    """The wheel's files by name. Those outside of the Python packages begin with `<prefix>/`."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(folder / "sources")
    # What the build requires is in the extra `test`; without isolation it is not fetched anew.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(sources)], check=True)
    (path,) = Path(folder).glob("*.whl")
    with ZipFile(path) as archive:
        return {
            re.sub(r"^mlkd_ros-[\w.]+\.data/data/", "<prefix>/", info.filename): info
            for info in archive.infolist()
        }


def test_modules_and_weights(wheel: dict[str, ZipInfo]) -> None:
    assert package_files() <= set(wheel)
    assert "mlkd_ros/weights/student.safetensors" in wheel
    assert any(name.endswith("dist-info/entry_points.txt") for name in wheel)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in wheel)


def test_generated_interfaces(wheel: dict[str, ZipInfo]) -> None:
    for name in (
        "mlkd_ros/msg/_track_status.py",
        "mlkd_ros/srv/_init_target.py",
        "vision_msgs/__init__.py",
        "vision_msgs/msg/_detection2_d_array.py",
    ):
        assert name in wheel
    for package in ("mlkd_ros", *OTHERS):
        module = rf"{package}/{package}_s__rosidl_typesupport_c\.cpython-\w+-x86_64-linux-gnu\.so"
        assert any(re.fullmatch(module, name) for name in wheel)
        for part in ("generator_c", "typesupport_fastrtps_c", "typesupport_introspection_c"):
            assert f"<prefix>/lib/lib{package}__rosidl_{part}.so" in wheel


def test_files_for_ros_tools(wheel: dict[str, ZipInfo]) -> None:
    assert {f"<prefix>/share/mlkd_ros/{name}" for name in share_files()} <= set(wheel)
    assert "<prefix>/share/ament_index/resource_index/packages/mlkd_ros" in wheel
    for name in EXECUTABLES:
        mode = wheel[f"<prefix>/lib/mlkd_ros/{name}"].external_attr >> 16
        assert mode & 0o111 == 0o111, name


def test_nothing_else(wheel: dict[str, ZipInfo]) -> None:
    assert not [name for name in wheel if "left_over" in name]
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if "dist-info" not in top} == {
        "<prefix>",
        "mlkd_ros",
        *OTHERS,
    }
