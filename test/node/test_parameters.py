# SPDX-License-Identifier: Apache-2.0
"""Parameters: declared once, described, bounded, and the same in config/tracker.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from mlkd_ros.node.parameters import (
    PRESENCE,
    Change,
    ParameterError,
    Parameters,
    Settings,
    default_settings,
)
from mlkd_ros.share import share_directory
from mlkd_ros.tracking import PresenceSettings

SOURCE = Path(__file__).resolve().parents[2] / "config" / "tracker.yaml"


@pytest.fixture
def make_node() -> Iterator:
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def make(**values: object) -> Node:
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        nodes.append(Node("parameters", context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize("folder", ["source", "installed"])
def test_the_file_lists_every_parameter_at_its_default(folder: str) -> None:
    installed = share_directory() / "config" / "tracker.yaml"
    path = SOURCE if folder == "source" else installed
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    listed = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    declared = dataclasses.asdict(default_settings())
    assert listed == declared
    assert {k: type(v) for k, v in listed.items()} == {k: type(v) for k, v in declared.items()}


def test_every_parameter_is_described_and_bounded(make_node) -> None:
    node = make_node()
    Parameters(node, lambda: True, lambda: None)
    when: dict[Change, set[str]] = {change: set() for change in Change}
    for field in dataclasses.fields(Settings):
        descriptor = node.describe_parameter(field.name)
        assert len(descriptor.description) > 20, field.name
        assert descriptor.description.endswith("."), field.name
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            assert descriptor.integer_range or descriptor.floating_point_range, field.name
        change = field.metadata["change"]
        assert descriptor.read_only == (change is Change.AT_START), field.name
        only_unconfigured = "while the node is unconfigured" in descriptor.additional_constraints
        assert only_unconfigured == (change is Change.UNCONFIGURED), field.name
        when[change].add(field.name)
    assert when[Change.ANY_TIME] == {
        "catch_up_duration",
        "class_id",
        "silence_timeout",
        "overlay_width",
        "overlay_rate",
        "overlay_quality",
        "overlay_bitrate",
        "click_size",
        "click_image_width",
        "health_rate",
        "search_budget",
    }
    assert when[Change.AT_START] == {"autostart", "reliability", "resume_file"}


def test_a_set_is_validated_then_applied(make_node) -> None:
    node = make_node()
    parameters = Parameters(node, lambda: True, lambda: None)
    results = node.set_parameters([Parameter("overlay_width", value=320)])
    assert results[0].successful
    assert parameters.settings.overlay_width == 320
    results = node.set_parameters([Parameter("overlay_width", value=3)])
    assert not results[0].successful
    results = node.set_parameters([Parameter("reliability", value="reliable")])
    assert not results[0].successful
    assert "read-only" in results[0].reason
    together = [Parameter("class_id", value="boat"), Parameter("overlay_rate", value=-1.0)]
    assert not node.set_parameters_atomically(together).successful
    assert (parameters.settings.class_id, parameters.settings.overlay_rate) == ("target", 10.0)


def test_what_only_an_unconfigured_node_can_change(make_node) -> None:
    configured = True
    node = make_node()
    parameters = Parameters(node, lambda: configured, lambda: None)
    results = node.set_parameters([Parameter("threads", value=2)])
    assert not results[0].successful
    assert "'threads' can be set at the start or while the node is unc" in results[0].reason
    # As from a file with all of them.
    assert node.set_parameters([Parameter("threads", value=1)])[0].successful
    configured = False
    assert node.set_parameters([Parameter("threads", value=2)])[0].successful
    assert parameters.settings.threads == 2


def test_thresholds_come_with_the_student_and_go_with_it(make_node) -> None:
    calibrated = PresenceSettings(tracking_above=0.5, give_up_after=2.5, search_windows=5)
    node = make_node(**{"presence.give_up_after": 4.0})
    told = []
    parameters = Parameters(node, lambda: True, lambda: told.append(parameters.presence))
    assert not node.has_parameter("presence.tracking_above")
    parameters.declare_presence(calibrated)
    assert parameters.presence == dataclasses.replace(calibrated, give_up_after=4.0)
    for name in PRESENCE:
        descriptor = node.describe_parameter(f"presence.{name}")
        assert len(descriptor.description) > 60
        assert descriptor.floating_point_range[0].from_value == 0.0

    assert node.set_parameters([Parameter("presence.tracking_above", value=0.6)])[0].successful
    assert told[-1].tracking_above == 0.6
    # Alone it would be above tracking_above; together they make sense.
    alone = node.set_parameters([Parameter("presence.uncertain_below", value=0.65)])[0]
    assert not alone.successful
    assert "uncertain_below <= tracking_above" in alone.reason
    together = [("presence.uncertain_below", 0.65), ("presence.tracking_above", 0.7)]
    both = [Parameter(name, value=value) for name, value in together]
    assert node.set_parameters_atomically(both).successful
    assert (told[-1].uncertain_below, told[-1].search_windows) == (0.65, 5)
    # A bad one among good ones: none of them.
    mixed = [Parameter("class_id", value="boat"), Parameter("presence.lost_below", value=0.9)]
    assert not node.set_parameters_atomically(mixed).successful
    assert parameters.settings.class_id == "target"
    assert len(told) == 2

    parameters.undeclare_presence()
    assert not node.has_parameter("presence.tracking_above")
    parameters.declare_presence(calibrated)
    assert parameters.presence.tracking_above == 0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"presence.lost_below": 0.9}, "lost_below <= uncertain_below"),
        ({"presence.tracking_above": 1.5}, "tracking_above out of range"),
        ({"presence.tracking_above": "high"}, "tracking_above"),
    ],
)
def test_impossible_thresholds_at_the_start(make_node, values: dict, words: str) -> None:
    node = make_node(**values)
    parameters = Parameters(node, lambda: True, lambda: None)
    with pytest.raises(ParameterError, match=words):
        parameters.declare_presence(PresenceSettings())
    assert parameters.presence is None
    assert not any(node.has_parameter(f"presence.{name}") for name in PRESENCE)


def test_without_post_set_callbacks_as_on_humble(make_node, monkeypatch) -> None:
    monkeypatch.delattr(Node, "add_post_set_parameters_callback")
    node = make_node()
    parameters = Parameters(node, lambda: True, lambda: None)
    node.set_parameters([Parameter("class_id", value="boat")])
    assert parameters.settings.class_id == "boat"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reliability": "maybe"}, "'reliability' is 'maybe', it must be one of best_effort"),
        ({"mono16_black": 5000, "mono16_white": 4095}, r"'mono16_black' \(5000\) must be below"),
        ({"image_topic": ""}, "'image_topic' is empty"),
    ],
)
def test_impossible_values_at_the_start(make_node, values: dict, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        Parameters(make_node(**values), lambda: False, lambda: None)


def test_out_of_range_at_the_start(make_node) -> None:
    with pytest.raises(InvalidParameterValueException, match="history_duration out of range"):
        Parameters(make_node(history_duration=-1.0), lambda: False, lambda: None)
