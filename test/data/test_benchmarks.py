# SPDX-License-Identifier: Apache-2.0
"""Tiny trees in the layouts of the published benchmarks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mlkd_ros.data.benchmarks import LAYOUTS, load_benchmark
from mlkd_ros.data.sequences import DatasetError, ImageFrames, Sequence

NIGHT = ["NAT2021-test", "NAT2021-L-test", "UAVDark135", "DarkTrack2021"]


def _frames(folder: Path, count: int, name: str = "{:06d}.jpg", first: int = 1) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        image = np.full((24, 32, 3), number % 256, np.uint8)
        assert cv2.imwrite(str(folder / name.format(number)), image)


def _tree(root: Path, name: str) -> tuple[Path, Path]:
    """Two sequences of three frames; separators as the data sets have them."""
    frames = root / ("Sequences" if name == "UAVDark135" else "data_seq")
    annotations = root / "anno"
    annotations.mkdir(parents=True)
    _frames(frames / "car_1", 3)
    _frames(frames / "person_2", 3, "{:05d}.jpg")
    (annotations / "car_1.txt").write_text("1,2,3,4\n2,2,3,4\n0,0,0,0\n")
    (annotations / "person_2.txt").write_text("1\t2\t3\t4\nNaN\tNaN\tNaN\tNaN\n3 2 3 4\n")
    return frames, annotations


@pytest.mark.parametrize("name", NIGHT)
def test_night_benchmarks(tmp_path: Path, name: str) -> None:
    _, annotations = _tree(tmp_path / name, name)
    (annotations / "attributes.csv").write_text("sequence,IV,LAI\ncar_1,1,0\nperson_2,1,1\n")
    for root in (tmp_path / name, tmp_path):
        car, person = load_benchmark(name, root)
        assert (car.name, person.name, car.night) == ("car_1", "person_2", True)
        assert car.boxes[1].tolist() == [2, 2, 3, 4] and np.isnan(car.boxes[2]).all()
        assert np.isnan(person.boxes[1]).all() and len(person.frames) == 3
        assert (car.attributes, person.attributes) == ({"IV"}, {"IV", "LAI"})


def _first_numbers(sequence: Sequence) -> list[int]:
    assert isinstance(sequence.frames, ImageFrames)
    return [int(path.stem) for path in sequence.frames.paths]


def test_uav123_splits_long_videos(tmp_path: Path) -> None:
    frames, annotations = tmp_path / "data_seq/UAV123", tmp_path / "anno/UAV123"
    (annotations / "att").mkdir(parents=True)
    _frames(frames / "bike1", 3)
    _frames(frames / "truck4", 580)
    for name, count in (("bike1", 3), ("truck4_1", 577), ("truck4_2", 4)):
        (annotations / f"{name}.txt").write_text("1,2,3,4\n" * count)
    (annotations / "att" / "truck4_2.txt").write_text("1,0,0,1,0,0,0,0,0,0,0,0\n")
    bike, first, second = load_benchmark("UAV123", tmp_path)
    assert _first_numbers(bike) == [1, 2, 3] and not bike.night
    assert _first_numbers(first) == list(range(1, 578))
    assert _first_numbers(second) == [577, 578, 579, 580]
    assert second.attributes == {"scale variation", "fast motion"} and not bike.attributes
    (annotations / "truck4_2.txt").write_text("1,2,3,4\n" * 5)
    with pytest.raises(DatasetError, match=r"truck4_2\.txt: 5 lines from frame 577.*580 frames"):
        load_benchmark("UAV123", tmp_path)


def test_what_is_wrong_is_named_and_the_rest_is_loaded(tmp_path: Path) -> None:
    frames, annotations = _tree(tmp_path, "DarkTrack2021")
    _frames(frames / "gap", 4)
    (frames / "gap" / "000003.jpg").unlink()
    (annotations / "gap.txt").write_text("1,2,3,4\n" * 3)
    (annotations / "short.txt").write_text("1,2,3,4\n" * 2)
    _frames(frames / "short", 3)
    (annotations / "nowhere.txt").write_text("1,2,3,4\n")
    problems: list[str] = []
    loaded = load_benchmark("DarkTrack2021", tmp_path, problems)
    assert [sequence.name for sequence in loaded] == ["car_1", "person_2"]
    assert [problem.split(": ")[1] for problem in problems] == [
        "missing frame (its neighbours are there)",
        "no such image folder",
        f"2 lines, but {frames / 'short'} holds 3 frames",
    ]
    assert "000003.jpg" in problems[0]
    with pytest.raises(DatasetError, match=r"000003\.jpg: missing frame"):
        load_benchmark("DarkTrack2021", tmp_path)


def test_a_wrong_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"not UAVDark135, which has Sequences/ or data_seq/"):
        load_benchmark("UAVDark135", tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        load_benchmark("UAV123", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="must be one of NAT2021-test"):
        load_benchmark("OTB", tmp_path)
    assert set(NIGHT) | {"UAV123"} == set(LAYOUTS)
    _, annotations = _tree(tmp_path / "x", "NAT2021-test")
    (annotations / "attributes.csv").write_text("sequence,IV\ncar_1,yes\n")
    with pytest.raises(DatasetError, match=r"attributes\.csv, line 2"):
        load_benchmark("NAT2021-test", tmp_path / "x")
