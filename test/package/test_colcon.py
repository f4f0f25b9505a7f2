# SPDX-License-Identifier: Apache-2.0
"""The package builds in a ROS 2 workspace: colcon and CMake, on the ament tool chain from PyPI."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from package_support import (
    EXECUTABLES,
    OTHERS,
    TYPE_HASHES,
    copy_sources,
    package_files,
    share_files,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TOOLCHAIN = Path(__file__).with_name("wheels_toolchain.cmake")


@dataclass(frozen=True)
class Workspace:
    folder: Path
    sources: Path
    install: str = "install"

    @property
    def prefix(self) -> Path:
        """Where mlkd_ros is installed."""
        return self.folder / self.install / "mlkd_ros"

    def build(self, packages: list[Path], *options: str) -> None:
        command = [str(Path(sys.prefix) / "bin/colcon"), "build", "--executor", "sequential"]
        command += ["--install-base", self.install, *options]
        command += ["--paths", *map(str, packages)]
        command += ["--cmake-args", "-DBUILD_TESTING=OFF", f"-DCMAKE_PROJECT_INCLUDE={TOOLCHAIN}"]
        result = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr

    def start(self, *command: str) -> subprocess.Popen:
        """Start a command in a shell that has the workspace sourced; its output is in a pipe."""
        sourced = f". {self.install}/local_setup.sh && exec {shlex.join(command)}"
        return subprocess.Popen(
            ["sh", "-c", sourced],
            cwd=self.folder,
            env=self._environment() | {"COLCON_CURRENT_PREFIX": str(self.folder / self.install)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> str:
        """Output of such a command when it has ended."""
        process = self.start(*command)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output.strip()

    def _environment(self) -> dict[str, str]:
        """As after sourcing a ROS installation, which this virtual environment stands in for."""
        path = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"
        prefixes = dict.fromkeys(("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"), sys.prefix)
        return os.environ | prefixes | {"PATH": path}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("workspace")
    workspace = Workspace(folder, copy_sources(folder / "src/mlkd_ros"))
    # The others as where there are none: they are not on PyPI.
    others = [workspace.sources / "third_party" / name for name in OTHERS]
    workspace.build([workspace.sources, *others])
    return workspace


def test_what_is_installed(workspace: Workspace) -> None:
    share = workspace.prefix / "share/mlkd_ros"
    assert share_files() <= {str(path.relative_to(share)) for path in share.rglob("*")}
    (packages,) = workspace.prefix.glob("l*/**/python3*/*-packages")
    installed = {str(path.relative_to(packages)) for path in packages.rglob("*")}
    assert package_files() <= installed
    assert not [name for name in installed if "left_over" in name]


def test_the_built_package_is_what_python_imports(workspace: Workspace) -> None:
    code = "import mlkd_ros.srv, vision_msgs.msg; print(mlkd_ros.__file__, vision_msgs.__file__)"
    for path in workspace.run("python3", "-c", code).split():
        assert Path(path).is_relative_to(workspace.folder / "install"), path


def test_ament_finds_the_share_folder(workspace: Workspace) -> None:
    code = "from mlkd_ros.share import share_directory; print(share_directory())"
    assert workspace.run("python3", "-c", code) == str(workspace.prefix / "share/mlkd_ros")


@pytest.mark.parametrize("name", EXECUTABLES)
def test_executables_are_where_ros2_run_looks(workspace: Workspace, name: str) -> None:
    assert os.access(workspace.prefix / "lib/mlkd_ros" / name, os.X_OK)


def test_a_built_executable_runs(workspace: Workspace) -> None:
    assert "track" in workspace.run(str(workspace.prefix / "lib/mlkd_ros/mlkd"), "--help")


def test_a_built_node_gets_ready_and_stops(workspace: Workspace) -> None:
    # By then parameters, interfaces, weights and network have all worked.
    process = workspace.start(str(workspace.prefix / "lib/mlkd_ros/tracker"))
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if "ready" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0, "".join(output)
    assert any("ready" in line for line in output), "".join(output)


@pytest.mark.parametrize("name", TYPE_HASHES)
def test_type_hash_by_the_real_generators(workspace: Workspace, name: str) -> None:
    package = name.split("/")[0]
    description = workspace.folder / "install" / package / "share" / f"{name}.json"
    hashes = json.loads(description.read_text())["type_hashes"]
    assert TYPE_HASHES[name] in {entry["hash_string"] for entry in hashes}


def test_symlink_install(workspace: Workspace) -> None:
    linked = Workspace(workspace.folder, workspace.sources, "install_linked")
    linked.build([workspace.sources], "--symlink-install", "--build-base", "build_linked")
    tracker = linked.prefix / "lib/mlkd_ros/tracker"
    assert os.access(tracker, os.X_OK)
    (module,) = linked.prefix.glob("l*/**/python3*/*-packages/mlkd_ros/share.py")
    assert module.resolve() == workspace.sources / "mlkd_ros/share.py"
