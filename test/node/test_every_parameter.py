# SPDX-License-Identifier: Apache-2.0
"""Every parameter that is declared, on a real process: given at the start, read back, and set or
refused in flight as its declaration says. What each of them does is tested where that belongs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from input_support import InputGround, compressed_of, overlap
from node_support import Scene, TrackerProcess

import mlkd_ros.weights
from mlkd_ros.node.parameters import PRESENCE, Change, Settings, default_settings
from mlkd_ros.srv import InitTarget

STUDENT = Path(mlkd_ros.weights.__path__[0]) / "student.safetensors"
#: For every parameter a value that is not its default.
GIVEN: dict[str, object] = {
    "autostart": False,
    "image_topic": "nose/image",
    "image_transport": "compressed",
    "reliability": "reliable",
    "camera_info_topic": "lens/info",
    "image_rectified": True,
    "point_topic": "points",
    "mouse_topic": "clicks",
    "rectangle_topic": "boxes",
    "click_size": 40.0,
    "click_image_width": 320,
    "student": "fast",
    "checkpoint": str(STUDENT),
    "device": "cpu",
    "engine": "onnxruntime",
    "threads": 2,
    "max_targets": 3,
    "search_budget": 0.05,
    "resume": True,
    "resume_file": "",  # in the test's folder
    "resume_within": 9.0,
    "history_duration": 1.5,
    "history_megabytes": 8,
    "mono16_black": 100,
    "mono16_white": 4095,
    "bayer_pattern": "grbg",
    "orientation": "exif",
    "catch_up_duration": 1.0,
    "class_id": "boat",
    "silence_timeout": 5.0,
    "overlay_width": 160,
    "overlay_rate": 200.0,
    "overlay_quality": 50,
    "overlay_video": "foxglove",
    "overlay_bitrate": 400,
    "health_rate": 5.0,
    "presence.tracking_above": 0.31,
    "presence.uncertain_below": 0.21,
    "presence.lost_below": 0.11,
    "presence.shown_above": 0.06,
    "presence.reacquire_above": 0.85,
    "presence.give_up_after": 45.0,
}
FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {**GIVEN, "resume_file": str(tmp_path_factory.mktemp("resume") / "targets.npz")}


@pytest.fixture(scope="module")
def process(given: dict[str, object]) -> Iterator[TrackerProcess]:
    process = TrackerProcess("romeo", **given)
    yield process
    assert process.end() == 0, process.log


@pytest.fixture(scope="module")
def ground(process: TrackerProcess) -> Iterator[InputGround]:
    ground = InputGround("romeo")
    assert ground.transition("configure"), process.log
    assert ground.transition("activate"), process.log
    ground.compress("nose/image")
    ground.connect()
    yield ground
    ground.close()


def test_none_is_left_out() -> None:
    assert list(GIVEN) == [*FIELDS, *(f"presence.{name}" for name in PRESENCE)]
    defaults = dataclasses.asdict(default_settings())
    same = [name for name, default in defaults.items() if GIVEN[name] == default]
    assert same == ["resume_file"]


def test_given_at_the_start(ground: InputGround, given: dict[str, object]) -> None:
    for name, value in given.items():
        assert ground.get_parameter(name) == value, name


def test_it_works_with_all_of_them(
    ground: InputGround, scene: Scene, given: dict[str, object]
) -> None:
    ground.show(compressed_of(scene.image(0), ground.now()))
    response = ground.designate(scene.box(0), target_id="white van")
    assert response.code == InitTarget.Response.SUCCESS, response.message
    detections = ground.show(compressed_of(scene.image(1), ground.now()))
    assert overlap(detections, scene.box(1)) > 0.5
    assert detections.detections[0].results[0].hypothesis.class_id == "boat"
    assert Path(str(given["resume_file"])).is_file()


@pytest.mark.parametrize("name", FIELDS)
def test_set_in_flight(ground: InputGround, given: dict[str, object], name: str) -> None:
    default = getattr(default_settings(), name)
    result = ground.set_parameter(name, default)
    change = FIELDS[name].metadata["change"]
    assert result.successful == (change is Change.ANY_TIME), result.reason
    if result.successful:
        assert ground.get_parameter(name) == default
        assert ground.set_parameter(name, given[name]).successful
    elif change is Change.AT_START:
        assert "read-only" in result.reason or "read only" in result.reason
    else:
        assert f"'{name}' can be set at the start or while" in result.reason
    assert ground.get_parameter(name) == given[name]


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].metadata["high"]])
def test_out_of_range_is_refused(ground: InputGround, given: dict[str, object], name: str) -> None:
    too_much = type(given[name])(FIELDS[name].metadata["high"] * 2)
    assert not ground.set_parameter(name, too_much).successful
    assert ground.get_parameter(name) == given[name]


@pytest.mark.parametrize("name", PRESENCE)
def test_thresholds_in_flight(ground: InputGround, given: dict[str, object], name: str) -> None:
    name = f"presence.{name}"
    value = given[name]
    assert isinstance(value, float)
    assert ground.set_parameter(name, value + 0.01).successful
    assert ground.get_parameter(name) == value + 0.01
    assert ground.set_parameter(name, value).successful
    for refused in (-1.0, 1e6):
        assert not ground.set_parameter(name, refused).successful
    assert ground.get_parameter(name) == value
