# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, there is no circle, and a drone needs no more than it uses."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from package_support import ROOT

PACKAGE = ROOT / "mlkd_ros"
#: Each room and what it may import; `files`, `interrupt`, `share` and `shared_memory` are open to
#: all, `executables` starts what is asked for by name. The order of docs/architecture.md.
ROOMS = {
    "imaging": set(),
    "tracking": {"imaging"},
    "session": {"tracking", "imaging"},
    "node": {"session", "tracking", "imaging"},
    "data": {"tracking", "imaging"},
    "evaluation": {"data", "tracking", "imaging"},
    "distillation": {"evaluation", "data", "tracking", "imaging"},
    "recording": {"node", "session", "tracking", "imaging"},
    "mavlink": {"node", "session", "tracking", "imaging"},
    "gimbal": {"mavlink", "node", "session", "tracking", "imaging"},
    "camera": {"node", "session", "tracking", "imaging"},
    "station": {"recording", "node", "session", "tracking", "imaging"},
    "simulation": {"recording", "node", "session", "evaluation", "data", "tracking", "imaging"},
}
#: An enhancer or teacher stands beside our tracker as a peer, where somebody asks for one.
PEERS = {
    "mlkd_ros.evaluation.trackers": {"distillation"},
    # How well confidence is calibrated is fitted there and reported here.
    "mlkd_ros.evaluation.robust": {"distillation"},
}
OPEN = {"files", "interrupt", "share", "shared_memory", "launching", "msg", "srv"}
#: Rooms that know no ROS at all.
WITHOUT_ROS = ("imaging", "tracking", "session", "data", "evaluation", "distillation")
ROS = {"rclpy", "sensor_msgs", "std_msgs", "vision_msgs", "builtin_interfaces", "geometry_msgs"}


def modules() -> dict[str, Path]:
    """The modules of the package by name, generated ones left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] in ("msg", "srv"):
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, *, lazy: bool) -> set[str]:
    """Full names of what a module imports; `lazy`: also inside of functions, not for types only."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not lazy:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
            found.add(base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def own(names: set[str]) -> set[str]:
    return {name for name in names if name in MODULES}


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) in ROOMS])
def test_imports_point_one_way(name: str) -> None:
    allowed = ROOMS[room(name)] | OPEN | {room(name), ""}
    allowed |= PEERS.get(name, set())
    if name == "mlkd_ros.station.command":  # adds itself to `mlkd`
        allowed |= {"cli"}
    wrong = {one for one in own(imports(name, lazy=True)) if room(one) not in allowed}
    assert not wrong, f"{name} imports {', '.join(sorted(wrong))}"


def test_every_room_is_named() -> None:
    found = {room(name) for name in MODULES if (PACKAGE / room(name)).is_dir()} - {""}
    assert found <= set(ROOMS) | {"cli", "weights"}


def test_no_circle() -> None:
    """graphlib.CycleError names it."""
    graph = {name: own(imports(name, lazy=False)) - {name} for name in MODULES}
    for name, found in graph.items():
        # A package's __init__ runs first; that it imports its modules is no circle.
        graph[name] = {one for one in found if not name.startswith(f"{one}.")}
    tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) in WITHOUT_ROS])
def test_no_ros(name: str) -> None:
    found = {one.split(".")[0] for one in imports(name, lazy=False)}
    assert not found & ROS


def test_a_drone_tracks_on_its_cpu_without_the_extras() -> None:
    """In a process that cannot import them: the flying part tracks, and the node's module loads."""
    code = """
import sys

class Missing:
    names = {"torch", "matplotlib", "aiohttp", "rosbags", "mcap", "tqdm", "av", "onnx", "openvino"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np
from mlkd_ros.tracking import EngineError, load_tracker
rng = np.random.default_rng(1)
image = rng.integers(0, 255, (240, 320, 3)).astype(np.uint8)
tracker = load_tracker()
tracker.init(image, (100.0, 80.0, 40.0, 30.0), 0.0)
x, y, w, h = tracker.update(image, 0.033).box
assert abs(x + w / 2 - 120) < 8 and abs(y + h / 2 - 95) < 8, (x, y, w, h)
assert "onnxruntime" in tracker.engine_name
try:
    load_tracker(device="cuda")
except EngineError as error:
    assert "mlkd-ros[cuda]" in str(error), error
import mlkd_ros.node.tracker_node
import mlkd_ros.recording.recorder
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
