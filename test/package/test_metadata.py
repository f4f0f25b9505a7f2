# SPDX-License-Identifier: Apache-2.0
"""pip's, ROS's and CMake's descriptions of the package agree, with each other and with the code."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version

import pytest
from package_support import EXECUTABLES, ROOT, package_files, pyproject
from packaging.requirements import Requirement

# What is called differently by pip and rosdep.
ROSDEP_KEYS = {
    "numpy": "python3-numpy",
    "opencv-python-headless": "python3-opencv",
    "torch": "python3-pytorch-pip",
    "onnxruntime": "python3-onnxruntime-pip",
    # These have no key; package.xml says so.
    "safetensors": None,
    "onnx": None,
    "protobuf": "python3-protobuf",
    "mcap": None,
    "zstandard": None,
    "av": None,
    "rosbags": "python3-rosbags-pip",
    "tqdm": "python3-tqdm",
    "PyYAML": "python3-yaml",
    "matplotlib": "python3-matplotlib",
    "aiohttp": "python3-aiohttp",
}
# What is called differently by pip and in an import statement.
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "google": "protobuf", "yaml": "PyYAML"}
# Imported only where somebody asks for it, with a message that names it.
OPTIONAL = {"openvino", "tensorrt", "pymavlink", "serial"}


def rosdep_key(requirement: str) -> str | None:
    name = Requirement(requirement).name
    return name.removeprefix("ros-").replace("-", "_") if "ros-" in name else ROSDEP_KEYS[name]


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def rosdep_keys() -> set[str]:
    return {
        element.text or ""
        for kind in ("depend", "exec_depend")
        for element in package_xml().findall(kind)
    }


def requirements() -> list[str]:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    names = ("cuda", "bags", "tools", "train", "plot", "station")
    return project["dependencies"] + [item for name in names for item in extras[name]]


def test_versions_agree() -> None:
    assert package_xml().findtext("version") == pyproject()["project"]["version"]


def test_every_requirement_has_its_rosdep_key() -> None:
    text = (ROOT / "package.xml").read_text()
    for requirement in requirements():
        key = rosdep_key(requirement)
        name = Requirement(requirement).name
        assert key in rosdep_keys() if key else re.search(rf"\b{name}\b", text), name


def test_every_imported_package_is_a_dependency() -> None:
    imported = set()
    launch_files = {f"launch/{path.name}" for path in (ROOT / "launch").glob("*.py")}
    modules = {name for name in package_files() if name.endswith(".py")}
    for name in modules | launch_files:
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module or "")
    imported = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    imported -= {"mlkd_ros"} | OPTIONAL
    by_pip = {Requirement(requirement).name for requirement in requirements()}
    in_ros = rosdep_keys()
    for name in sorted(imported):
        declared = DISTRIBUTIONS.get(name, name) in by_pip or name in in_ros
        assert declared, f"{name} is imported, but in neither pyproject.toml nor package.xml"


def test_interfaces_are_built_against_what_they_run_with() -> None:
    at_build = {
        Requirement(r).name: Requirement(r) for r in pyproject()["build-system"]["requires"]
    }
    at_run = {Requirement(r).name: Requirement(r) for r in requirements()}
    for name in at_build.keys() & at_run.keys() - {"numpy", "PyYAML"}:
        assert at_build[name].specifier == at_run[name].specifier, name
    for name, requirement in at_build.items():
        if name.startswith("ros-"):  # of the same series as the ROS packages in this environment
            assert requirement.specifier.contains(version(name)), name


@pytest.mark.parametrize("name", EXECUTABLES)
def test_executables_agree(name: str) -> None:
    place = pyproject()["project"]["scripts"][name]
    assert re.search(rf"\b{name}={re.escape(place)}\b", (ROOT / "CMakeLists.txt").read_text())
    module, function = place.split(":")
    assert callable(getattr(importlib.import_module(module), function))
