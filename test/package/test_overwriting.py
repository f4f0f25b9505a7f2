# SPDX-License-Identifier: Apache-2.0
"""No command writes over a file unasked, whatever else is wrong or takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlkd_ros.cli import main
from mlkd_ros.simulation.demo import main as demo
from mlkd_ros.tracking.checkpoint import default_checkpoint

#: Arguments, `OUT` for the folder of the test; and what is there that may not go.
COMMANDS = {
    "track": ("track film.mp4 --init 1,2,3,4 --output OUT/a.mp4", "a.mp4"),
    "track csv": ("track film.mp4 --init 1,2,3,4 --csv OUT/a.csv", "a.csv"),
    "score": ("score bag --json OUT/a.json", "a.json"),
    "report": ("report results -o OUT/a.html", "a.html"),
    "report pictures": ("report results -o OUT/a.html", "a_files/a_curves.png"),
    "pack": ("pack cache -o OUT/a.zip", "a.zip"),
    "average": ("average a.safetensors -o OUT/a.safetensors", "a.safetensors"),
    "fit": ("fit fast --root root -o OUT/a.safetensors", "a.safetensors"),
    "select": ("select run --validation root --output OUT/a.safetensors", "a.safetensors"),
    "select card": ("select run --validation root --output OUT/a.safetensors", "a.md"),
    "select diagram": (
        "select run --validation root --output OUT/a.safetensors",
        "a_reliability.png",
    ),
    "export": ("export STUDENT --format onnx -o OUT", "search.onnx"),
    "export checkpoint": ("export STUDENT --format checkpoint -o OUT", "student.safetensors"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    line, there = COMMANDS[name]
    precious = tmp_path / there
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    places = {"OUT": str(tmp_path), "STUDENT": str(default_checkpoint())}
    words = line.split()
    for place, path in places.items():
        words = [word.replace(place, path) for word in words]
    assert main(words) == 2
    assert f"{there} exists already: --force overwrites it" in capsys.readouterr().err
    assert precious.read_text() == "precious"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [precious]


def test_the_demo_removes_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    (bag / "bag.mcap").write_text("precious")
    assert demo(["--output", str(tmp_path)]) == 2
    assert "bag exists already: --force overwrites it" in capsys.readouterr().err
    assert (bag / "bag.mcap").read_text() == "precious"
