# SPDX-License-Identifier: Apache-2.0
"""The training loop: exact resume after a kill, several processes, frozen batch norms."""

import copy
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_training import toy_room, toy_trainer
from training_support import ToyStudent

from mlkd_ros.data.sampler import NEAR_SIDES
from mlkd_ros.distillation.config import ConfigError, TrainingConfig
from mlkd_ros.distillation.trainer import freeze_batch_norm, near_side
from mlkd_ros.tracking.network import InvertedResidual, SeparableTower

SCRIPT = Path(__file__).with_name("toy_training.py")


def rows(path):
    with path.open(encoding="utf-8") as file:
        return [
            {k: float(v) for k, v in row.items() if k not in ("seconds", "wait")}
            for row in csv.DictReader(file)
        ]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def test_a_run_learns_and_logs(cache, tmp_path):
    trainer = toy_trainer(cache, tmp_path, steps=30, learning_rate=3e-3)
    trainer.run(progress=False)
    lines = rows(tmp_path / "log.csv")
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert sum(line["loss"] for line in lines[-5:]) < sum(line["loss"] for line in lines[:5])
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        assert all(0 <= float(row["wait"]) <= 1 for row in csv.DictReader(file))
    epochs = rows(tmp_path / "epochs.csv")
    assert [line["step"] for line in epochs] == [4, 8, 12, 16, 20, 24, 28, 30]
    mean = sum(line["loss"] for line in lines[:4]) / 4
    assert epochs[0]["loss"] == pytest.approx(mean, rel=1e-4)


def test_teachers_that_judge_ahead_say_what_they_say_in_the_step(cache, tmp_path):
    """With search regions of other sides from step to step: each batch is judged as its step's."""
    ahead = toy_room(cache, tmp_path / "ahead", steps=6, near=0.5)
    ahead.run(progress=False)
    steps = toy_room(cache, tmp_path / "steps", steps=6, near=0.5)
    losses = [steps.train_step(batch)["loss"].item() for batch in steps.batches()]
    assert len({near_side(steps.config, step) for step in range(6)}) > 1
    logged = [row["loss"] for row in rows(tmp_path / "ahead" / "log.csv")]
    assert logged == pytest.approx(losses, rel=1e-5)
    for name, value in ahead.objective.students.state_dict().items():
        assert torch.equal(value, steps.objective.students.state_dict()[name]), name


def test_a_trunk_whose_share_of_the_rate_is_nothing_stays(cache, tmp_path):
    trainer = toy_trainer(cache, tmp_path, steps=3, trunk_factor=0.0)
    before = copy.deepcopy(trainer.objective.students.state_dict())
    trainer.run(progress=False)
    after = trainer.objective.students.named_parameters()
    changed = {name: bool((value != before[name]).any()) for name, value in after}
    assert changed == {name: ".trunk." not in name for name in changed}
    assert len(set(changed.values())) == 2


def test_another_experiment_in_the_same_folder_is_refused(cache, tmp_path):
    toy_trainer(cache, tmp_path, steps=2).run(progress=False)
    with pytest.raises(ConfigError, match=r"last\.pt: was made with learning_rate = 0\.0002"):
        toy_trainer(cache, tmp_path, steps=2, learning_rate=1e-3).run(progress=False)


def test_smaller_search_regions_are_a_function_of_seed_and_step():
    config = TrainingConfig(near=0.3, seed=4)
    sides = [near_side(config, step) for step in range(1000)]
    assert sides == [near_side(config, step) for step in range(1000)]
    assert {side: 0.1 < sides.count(side) / 1000 < 0.2 for side in NEAR_SIDES} == {
        159: True, 191: True,
    }  # fmt: skip
    assert near_side(TrainingConfig(near=0.0), 5) is None
    with pytest.raises(ValueError, match="near must be a share"):
        TrainingConfig(near=1.5)


def test_a_gradient_that_is_not_finite_stops_the_run(cache, tmp_path):
    trainer = toy_trainer(cache, tmp_path)
    with torch.no_grad():
        trainer.objective.students[0].trunk.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: the gradient of student"):
        trainer.run(progress=False)


def test_every_student_is_clipped_by_itself(cache, tmp_path):
    trainer = toy_trainer(cache, tmp_path, gradient_clip=1.0)
    trainer.objective.students = torch.nn.ModuleList([ToyStudent(), ToyStudent()])
    trainer.objective.names = ("large", "small")
    for student, size in zip(trainer.objective.students, (1e3, 1e-4), strict=True):
        for parameter in student.parameters():
            parameter.grad = torch.full_like(parameter, size)
    trainer._clip({})
    norms = [
        torch.cat([p.grad.flatten() for p in student.parameters()]).norm().item()
        for student in trainer.objective.students
    ]
    assert norms[0] == pytest.approx(1.0, rel=1e-3) and norms[1] < 0.1


def test_frozen_batch_norms_inside_convolutions_change_nothing():
    torch.manual_seed(0)
    lone = torch.nn.Sequential(torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1))
    block = InvertedResidual(8, 24, 8, 3, 1, 8, True)
    plain = torch.nn.Sequential(SeparableTower(8, 2), lone, block).train()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.eval()
    folded = copy.deepcopy(plain)
    freeze_batch_norm(folded)
    maps = torch.rand(2, 8, 12, 12)
    outputs = [network(maps) for network in (plain, folded)]
    assert torch.allclose(*outputs, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), folded.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-6), name
    norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 5 and not any(norm.num_batches_tracked for norm in norms)


def test_a_killed_run_resumes_exactly(cache, tmp_path):
    """A real process, killed without warning; what follows equals a run that was left alone."""
    words = [sys.executable, SCRIPT, "student", cache, tmp_path / "killed", "300"]
    process = subprocess.Popen([str(word) for word in words], env=environment())
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    at_kill = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["step"]
    assert 0 < at_kill < 300
    # Both to a few steps after the kill; by hand, as the number of steps is of the experiment.
    for name in ("killed", "whole"):
        trainer = toy_trainer(cache, tmp_path / name, steps=300)
        stop_after(trainer, at_kill + 7)
    killed, whole = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("killed", "whole")
    )
    assert killed["step"] == whole["step"] > at_kill
    for part in ("students", "averaged"):
        for name, value in whole[part].items():
            assert torch.equal(value, killed[part][name]), name
    for name in ("log.csv", "epochs.csv"):
        assert rows(tmp_path / "killed" / name) == rows(tmp_path / "whole" / name)


def stop_after(trainer, step):
    """Run until a checkpoint at or after ``step`` is written, then break off."""

    class EnoughError(Exception):
        pass

    save = trainer.save

    def save_and_stop():
        save()
        if trainer.step >= step:
            raise EnoughError

    trainer.save = save_and_stop
    with pytest.raises(EnoughError):
        trainer.run(progress=False)


def test_two_processes_train_like_one(cache, tmp_path):
    """torchrun with two CPU processes (gloo), half of the batch each: same losses, same weights."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--", SCRIPT]
    words += ["room", cache, tmp_path / "two", "6"]
    subprocess.run([sys.executable, *map(str, words)], env=environment(), check=True, timeout=200)
    toy_room(cache, tmp_path / "one", steps=6).run(progress=False)
    one, two = rows(tmp_path / "one" / "log.csv"), rows(tmp_path / "two" / "log.csv")
    assert [line["step"] for line in two] == list(range(1, 7))
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-6)
    assert any(line["l2.ml"] > 0 for line in one) and any(line["l2.kdc"] > 0 for line in one)
    weights = [
        torch.load(tmp_path / name / "last.pt", weights_only=True)["students"]
        for name in ("one", "two")
    ]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=1e-4, atol=1e-6), name
