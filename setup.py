# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: generated ROS interfaces, and the files that ROS tools look for.

Under colcon nothing of this runs; see CMakeLists.txt.
"""

import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup  # first: it is what provides distutils

from distutils.command.install_data import install_data  # isort: skip

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # pip does not put this folder there
from interfaces_build import BuildInterfaces, InterfacePackage  # noqa: E402

MLKD_ROS = InterfacePackage(
    "mlkd_ros",
    ROOT,
    depends=("std_msgs", "geometry_msgs", "builtin_interfaces", "service_msgs"),
)
VISION_MSGS = InterfacePackage(
    "vision_msgs",
    ROOT / "third_party/vision_msgs",
    depends=("std_msgs", "geometry_msgs", "builtin_interfaces"),
)
FOXGLOVE_MSGS = InterfacePackage(
    "foxglove_msgs", ROOT / "third_party/foxglove_msgs", depends=("builtin_interfaces",)
)
FFMPEG_MSGS = InterfacePackage(
    "ffmpeg_image_transport_msgs",
    ROOT / "third_party/ffmpeg_image_transport_msgs",
    depends=("std_msgs", "builtin_interfaces"),
)
#: Packages of other people's messages, which are not on PyPI.
OTHERS = (VISION_MSGS, FOXGLOVE_MSGS, FFMPEG_MSGS)
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

# `ros2 run` and `ros2 launch` look in <prefix>/lib/mlkd_ros, pip puts commands into <prefix>/bin.
# Found relative to itself, so that it works in an environment that is not activated.
WRAPPER = """#!/bin/sh
exec "$(dirname "$0")/../../bin/{name}" "$@"
"""


class RosDistribution(Distribution):
    """A distribution that always has data files and compiled modules."""

    def has_ext_modules(self) -> bool:
        """Make it a platform wheel."""
        return True

    def has_data(self) -> bool:
        """Install the data files in an editable install, too."""
        return True

    has_data_files = has_data


class InstallRosFiles(install_data):
    """Install what ROS tools look up under the prefix: ament index, share folders, executables."""

    def run(self) -> None:
        """Collect the files under `build/prefix` as they go under the prefix, then install them."""
        stage = Path(self.get_finalized_command("build").build_base) / "prefix"
        shutil.rmtree(stage, ignore_errors=True)
        interfaces = self.get_finalized_command("build_ext")
        for package in (MLKD_ROS, *OTHERS):
            stage_package(package, interfaces.generated_folder / package.name, stage)
        copy_files(interfaces.library_folder, stage / "lib", (".so",))
        for folder in ("launch", "config"):
            copy_files(ROOT / folder, stage / "share/mlkd_ros" / folder, (".py", ".yaml", ".xml"))
        for name in EXECUTABLES:
            wrapper = write(stage / "lib/mlkd_ros" / name, WRAPPER.format(name=name))
            wrapper.chmod(0o755)
        files = sorted(path for path in stage.rglob("*") if path.is_file())
        self.data_files = [(str(p.parent.relative_to(stage)), [str(p)]) for p in files]
        super().run()


def stage_package(package: InterfacePackage, generated: Path, stage: Path) -> None:
    """Put the ament index entries and interface definitions of `package` under `stage`."""
    share = stage / "share" / package.name
    for kind in ("msg", "srv"):
        copy_files(generated / kind, share / kind, (".msg", ".srv", ".idl", ".json"))
    shutil.copy(package.folder / "package.xml", share)
    interfaces = [p.relative_to(share) for p in sorted(share.glob("*/*")) if p.suffix != ".json"]
    index = stage / "share/ament_index/resource_index"
    write(index / "packages" / package.name, "")
    write(index / "rosidl_interfaces" / package.name, "\n".join(map(str, interfaces)))
    write(index / "package_run_dependencies" / package.name, ";".join(package.depends))


def copy_files(source: Path, target: Path, suffixes: tuple) -> None:
    """Copy the files under `source` that end in one of `suffixes`."""
    for path in source.rglob("*"):
        if path.suffix in suffixes:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def write(path: Path, text: str) -> Path:
    """Write `text`, making the folders on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


setup(
    distclass=RosDistribution,
    ext_modules=[package.extension() for package in (MLKD_ROS, *OTHERS)],
    # Where `pip install -e` puts the generated modules; the folder is not in version control.
    package_dir={one.name: f"third_party/{one.name}/{one.name}" for one in OTHERS},
    data_files=[],  # found at install time
    cmdclass={"build_ext": BuildInterfaces, "install_data": InstallRosFiles},
)
