# SPDX-License-Identifier: Apache-2.0
"""`mlkd train` from files to checkpoints that fly, and what it says of files that are wrong."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_support import command, write_checkpoint

from mlkd_ros.cli import main
from mlkd_ros.tracking import load_tracker
from mlkd_ros.tracking.checkpoint import load_checkpoint

CONFIG = Path(__file__).parents[2] / "config" / "training"
SHORT = {"batch": 4, "warm_up": 1, "log_every": 1, "sampler__group_weights": "{}"}


def test_a_room_from_scratch_to_a_checkpoint_that_flies(material, cache, tmp_path):
    run = tmp_path / "room"
    teacher = write_checkpoint(tmp_path / "teacher.safetensors")
    words = command(
        "train", "room", "--config", CONFIG / "room.yaml", "--data", material, "--cache", cache,
        "--teacher", teacher, "--enhancer", "gamma", "--run", run, "--device", "cpu",
        "--workers", "0", steps=3, **SHORT,
    )  # fmt: skip
    assert main(words) == 0
    for kind in ("l2", "spatial", "threshold"):
        checkpoint = load_checkpoint(run / f"student_{kind}.safetensors")
        assert checkpoint.provenance["name"] == kind
        assert checkpoint.provenance["teacher"] == ["teacher.safetensors"]
        assert set(checkpoint.graphs) == {"template", "search", "search_near"}
    head, line = (run / "epochs.csv").read_text().splitlines()
    figures = dict(zip(head.split(","), map(float, line.split(",")), strict=True))
    wins = sum(figures[f"{kind}.wins"] for kind in ("l2", "spatial", "threshold"))
    assert wins == pytest.approx(1.0)
    picture = cv2.imread(str(next((material / "videos").glob("*/img/0001.png"))))
    tracker = load_tracker(run / "student_l2.safetensors", device="cpu")
    tracker.init(picture, (200, 100, 60, 40))
    assert 0 <= tracker.update(picture).confidence <= 1


def test_a_teacher_then_a_student_that_starts_from_it(material, cache, tmp_path):
    common = ["--data", material, "--cache", cache, "--device", "cpu", "--workers", "0"]
    day = command(
        "train", "teacher", "--config", CONFIG / "teacher.yaml", *common, "--run", tmp_path / "day",
        "--enhancer", "gamma", steps=2, **SHORT,
    )  # fmt: skip
    assert main(day) == 0
    teacher = tmp_path / "day" / "student.safetensors"
    one = command(
        "train", "student", "--config", CONFIG / "student.yaml", *common, "--crl", "spatial",
        "--run", tmp_path / "one", "--teacher", teacher, teacher, "--start", teacher, steps=2,
        **SHORT,
    )  # fmt: skip
    assert main(one) == 0
    provenance = load_checkpoint(tmp_path / "one" / "student.safetensors").provenance
    assert provenance["config"]["distillation"]["crl"] == ["spatial"]
    assert provenance["config"]["steps"] == 2 and provenance["kind"] == "student"


def test_the_paper_s_configuration_runs(material, cache, tmp_path):
    teacher = write_checkpoint(tmp_path / "day.safetensors", "alexnet_rpn")
    words = command(
        "train", "room", "--config", CONFIG / "paper.yaml", "--data", material, "--cache", cache,
        "--teacher", teacher, "--start", teacher, "--run", tmp_path / "paper", "--device", "cpu",
        "--workers", "0", steps=2, batch=2, log_every=1, distillation__crl="[l2, spatial]",
    )  # fmt: skip
    assert main(words) == 0
    state = torch.load(tmp_path / "paper" / "last.pt", weights_only=True)
    assert state["step"] == 2 and len(state["optimizer"]["param_groups"]) == 2
    assert load_checkpoint(tmp_path / "paper" / "student_l2.safetensors").architecture == (
        "alexnet_rpn"
    )


@pytest.fixture
def broken(material, tmp_path):
    """A copy of the material to break."""
    shutil.copytree(material / "videos", tmp_path / "data" / "videos")
    return tmp_path / "data"


def train_student(data, tmp_path, *more):
    return main(
        command(
            "train",
            "student",
            "--config",
            CONFIG / "supervised.yaml",
            "--data",
            data,
            "--run",
            tmp_path / "run",
            "--device",
            "cpu",
            *more,
            steps=1,
            **SHORT,
        )  # fmt: skip
    )


def spoil(data, kind):
    folder = sorted((data / "videos").iterdir())[0]
    boxes = folder / "groundtruth_rect.txt"
    lines = boxes.read_text().splitlines()
    if kind == "missing frame":
        (folder / "img" / "0003.png").unlink()
        return "0003.png: missing frame"
    if kind == "corrupt frame":
        (folder / "img" / "0003.png").write_bytes(b"no picture")
        return "0003.png: cannot be decoded"
    if kind == "nan":
        boxes.write_text("\n".join([lines[0], "nan,nan,nan,nan", *lines[2:]]))
        return "groundtruth_rect.txt, line 2"
    boxes.write_text("\n".join(lines[:-2]))
    return "groundtruth_rect.txt: 4 lines"


@pytest.mark.parametrize("kind", ["missing frame", "corrupt frame", "nan", "wrong count"])
def test_bad_material_is_named_before_training_starts(broken, tmp_path, capsys, kind):
    message = spoil(broken, kind)
    assert train_student(broken, tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "last.pt").exists()


def test_checkpoints_of_another_architecture_are_named(material, cache, tmp_path, capsys):
    other = write_checkpoint(tmp_path / "alexnet.safetensors", "alexnet_rpn")
    more = ("--cache", cache, "--start", other)
    assert train_student(material, tmp_path, *more) == 2
    assert "alexnet.safetensors: is a alexnet_rpn" in capsys.readouterr().err
    more = ("--cache", cache, "--teacher", other, "--crl", "l2")
    assert train_student(material, tmp_path, *more) == 2
    assert "cannot teach" in capsys.readouterr().err
    (tmp_path / "picture.pth").write_bytes(np.zeros(100, np.uint8).tobytes())
    torch.save({"state_dict": {"backbone.x": torch.zeros(1)}}, tmp_path / "other.pth")
    for name in ("picture.pth", "other.pth", "missing.pth"):
        more = ("--cache", cache, "--start", tmp_path / name)
        assert train_student(material, tmp_path, *more) == 2
        assert name in capsys.readouterr().err


def test_a_published_layout_trains_and_the_cache_knows_what_it_is_of(material, tmp_path, capsys):
    lasot = tmp_path / "lasot" / "car"
    lasot.mkdir(parents=True)
    for folder in sorted((material / "videos").iterdir()):
        shutil.copytree(folder, lasot / folder.name)
        (lasot / folder.name / "groundtruth_rect.txt").rename(
            lasot / folder.name / "groundtruth.txt"
        )
    own, cache = f"lasot={lasot.parent}", tmp_path / "cache"
    assert train_student(own, tmp_path, "--cache", cache) == 0
    assert (tmp_path / "run" / "student.safetensors").exists()
    assert train_student(material, tmp_path, "--cache", cache) == 2
    said = capsys.readouterr().err
    assert f"was cut from {own}, not from {material}" in said
    assert train_student(f"vot={lasot}", tmp_path, "--cache", tmp_path / "other") == 2
    assert "unknown layout 'vot'" in capsys.readouterr().err


def test_a_correlation_loss_needs_a_teacher(material, cache, tmp_path, capsys):
    assert train_student(material, tmp_path, "--cache", cache, "--crl", "l2") == 2
    assert "give --teacher" in capsys.readouterr().err
