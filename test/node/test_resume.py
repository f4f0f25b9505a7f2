# SPDX-License-Identifier: Apache-2.0
"""Targets on disk: what is written and read, and a tracker killed in flight and started again."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from node_support import GroundStation, Scene, TrackerProcess, image_of, only_box, wait_until

from mlkd_ros.msg import TrackStatus
from mlkd_ros.session import resume
from mlkd_ros.session.resume import ResumeError, ResumeFile, default_path
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking import TargetRecord, TrackState
from mlkd_ros.tracking.geometry import iou

PATCH = np.arange(127 * 127 * 3, dtype=np.uint32).astype(np.uint8).reshape(127, 127, 3)
RECORD = TargetRecord(PATCH, (10.5, 20.0, 30.0, 40.0), (320, 240), TrackState.TRACKING, 3)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down.npz"
    assert ResumeFile(path).read() is None
    ResumeFile(path).write({"1": RECORD, "white van": RECORD}, 0.5)
    saved = ResumeFile(path).read()
    assert list(saved.records) == ["1", "white van"]
    record = saved.records["white van"]
    assert (record.box, record.image_size, record.reacquisitions) == (RECORD.box, (320, 240), 3)
    assert record.state == TrackState.LOST
    np.testing.assert_array_equal(record.patch, PATCH)
    assert saved.context_amount == 0.5
    assert 0 <= saved.age < 10
    # It shows what the operator looked at: nobody else's business.
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["down.npz"]
    ResumeFile(path).write({}, 0.5)
    assert os.listdir(path.parent) == []


def test_a_clock_that_was_set_does_not_make_it_old(tmp_path: Path, monkeypatch) -> None:
    """As when NTP answers between the crash and the start."""
    file = ResumeFile(tmp_path / "a.npz")
    file.write({"1": RECORD}, 0.5)
    wall = time.time
    monkeypatch.setattr(resume.time, "time", lambda: wall() + 1.7e9)
    saved = file.read()
    assert saved is not None and 0 <= saved.age < 10


def test_a_write_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "targets.npz"
    file = ResumeFile(path)
    assert file.due
    file.write({"1": RECORD}, 0.5)
    assert not file.due

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resume.np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            file.write({"2": RECORD}, 0.5)
    assert list(file.read().records) == ["1"]
    assert os.listdir(tmp_path) == ["targets.npz"]


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (print, ("executed",))


@pytest.mark.parametrize("kind", ["text", "empty", "half", "other arrays", "pickle"])
def test_a_file_that_cannot_be_used(tmp_path: Path, kind: str, capsys) -> None:
    path = tmp_path / "targets.npz"
    ResumeFile(path).write({"1": RECORD}, 0.5)
    if kind == "text":
        path.write_text("not an archive")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "other arrays":
        np.savez(path, format=np.array("mlkd-resume/1"))
    else:
        np.savez(path, format=np.array([Bomb()], dtype=object))
    with pytest.raises(ResumeError, match="targets.npz: not a file to resume from"):
        ResumeFile(path).read()
    assert "executed" not in capsys.readouterr().out


def test_each_node_has_a_file_of_its_own(monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_path("/left/tracker") == Path("/state/mlkd_ros/left.tracker.npz")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/op")
    assert default_path("/tracker") == Path("/home/op/.local/state/mlkd_ros/tracker.npz")


# --- processes ----------------------------------------------------------------------------------


class Flight:
    """A tracker that can be started again, and a ground station for each time."""

    def __init__(self) -> None:
        self._processes: list[TrackerProcess] = []
        self._grounds: list[GroundStation] = []

    def begin(self, **parameters: object) -> tuple[TrackerProcess, GroundStation]:
        process = TrackerProcess(
            "lima", reliability="reliable", device="cpu", resume=True, **parameters
        )
        self._processes.append(process)
        ground = GroundStation("lima")
        self._grounds.append(ground)
        if parameters.get("autostart", True):
            ground.connect(60)
        return process, ground

    def close(self) -> None:
        for ground in self._grounds:
            ground.close()
        for process in self._processes:
            process.end()


@pytest.fixture
def flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flight]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    flight = Flight()
    yield flight
    flight.close()


def test_killed_in_flight_and_started_again_it_finds_its_target(
    flight: Flight, scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "mlkd_ros" / "lima.tracker.npz"
    process, ground = flight.begin()
    ground.show(image_of(scene.image(0), ground.now()))
    x, y, w, h = scene.box(0)
    assert ground.designate((x, y, w, h), target_id="white van").code == 0
    assert path.is_file()
    written, index = path.stat().st_mtime_ns, 1
    while path.stat().st_mtime_ns == written:
        ground.show(image_of(scene.image(index), ground.now()))
        index += 1
        assert index < 200
    process.process.kill()
    assert process.process.wait(10) != 0

    process, ground = flight.begin()
    process.wait_for_log("searching: target white van", 60)
    # Elsewhere in the image by now, and first of all not reported where it was.
    stamp, away = ground.now(), index + 60
    assert ground.show(image_of(scene.image(away), stamp)).detections == []
    status = ground.status_of(stamp)
    assert (status.target_id, status.state) == ("white van", TrackStatus.LOST)
    for index in range(away + 1, away + 60):
        detections = ground.show(image_of(scene.image(index), ground.now())).detections
        if detections:
            break
    assert [d.id for d in detections] == ["white van"]
    assert iou(only_box(ground.detections[ground.last_stamp]), scene.box(index)) > 0.6
    assert path.is_file()
    assert ground.stop("white van").stopped == ["white van"]
    assert not path.exists()


def test_what_is_too_old_or_broken_is_not_resumed(
    flight: Flight, scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere.npz"
    ResumeFile(path).write({"1": RECORD}, 0.5)
    time.sleep(0.2)
    process, ground = flight.begin(resume_file=path, resume_within=0.1, autostart=False)
    assert ground.get_parameter("resume_within") == 0.1
    assert not ground.set_parameter("resume_file", "other.npz").successful
    assert ground.transition("configure")
    assert f"nothing is resumed: {path} was saved" in process.log
    assert ground.transition("activate")
    stamp = ground.now()
    wait_until(lambda: ground.images.get_subscription_count() > 0, 60, "a subscription")
    ground.show(image_of(scene.image(0), stamp))
    assert ground.status_of(stamp).state == TrackStatus.IDLE

    assert ground.transition("deactivate")
    assert ground.transition("cleanup")
    assert not path.exists()
    path.write_text("broken")
    assert ground.transition("configure")
    process.wait_for_log(f"nothing is resumed: {path}: not a file to resume from")
    assert ground.transition("cleanup")
    ResumeFile(path).write({"1": RECORD}, 0.25)
    assert ground.set_parameter("resume_within", 30.0).successful
    assert ground.transition("configure")
    process.wait_for_log("is of another student")


def test_a_folder_that_cannot_be_written_costs_no_target(
    flight: Flight, scene: Scene, tmp_path: Path
) -> None:
    taken = tmp_path / "file"
    taken.write_text("not a folder")
    process, ground = flight.begin(resume_file=taken / "targets.npz")
    ground.show(image_of(scene.image(0), ground.now()))
    response = ground.designate(scene.box(0))
    assert response.code == InitTarget.Response.SUCCESS
    process.wait_for_log("the targets cannot be saved to resume from")
    detections = ground.show(image_of(scene.image(1), ground.now()))
    assert iou(only_box(detections), scene.box(1)) > 0.6
