# SPDX-License-Identifier: Apache-2.0
"""Experiment files: every key is known, every type is checked, every file of ours is good."""

from pathlib import Path

import pytest

from mlkd_ros.distillation.config import (
    ConfigError,
    EnhancerConfig,
    TrainingConfig,
    load_config,
)

EXPERIMENTS = sorted((Path(__file__).parents[2] / "config" / "training").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_that_come_with_the_package_can_be_read(path):
    kind = EnhancerConfig if path.stem == "enhancer" else TrainingConfig
    assert load_config(path, cls=kind).seed > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 0.1", "unknown key 'learning_rat'.*learning_rate"),
        ("sampler: {drak: 0.5}", "sampler: unknown key 'drak'"),
        ("distillation: {election: often}", "election must be one of sample, batch, none"),
        ("distillation: {crl: [l2, l3]}", "crl must be one of .*'l3'"),
        ("distillation: {crl: [l2, l2]}", "crl names a kind twice"),
        ("distillation: {correlation: {l2: 1.0}}", "no weight for spatial"),
        ("distillation: {temperature: 0.0}", "temperature must be positive"),
        ("learning_rate: 1e-4", r"learning_rate must be float, got '1e-4' \(YAML reads"),
        ("steps: 1.5", "steps must be int, got 1.5"),
        ("steps: true", "steps must be int, got True"),
        ("freeze_batch_norm: 1", "freeze_batch_norm must be bool"),
        ("steps: 0", "steps must be positive"),
        ("architecture: resnet", "architecture must be one of alexnet_rpn, lightfc_s16, mobile"),
        ("losses: {box: l7}", "losses: box must be one of iou, giou"),
        ("losses: {giou: 1.0}", "unknown key 'giou'"),
        ("distillation: {paired: 0.5}", "paired and consistency need teacher_input: clean"),
        ("optimizer: adam", "optimizer must be one of adamw, sgd"),
        ("sampler: 3", "sampler: needs a mapping"),
        ("- 1", "needs a mapping of settings"),
        ("a: [", "not YAML"),
    ],
)
def test_wrong_experiments_are_named_with_file_and_key(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"wrong\.yaml: .*{message}"):
        load_config(path)


def test_a_missing_experiment_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_settings_can_be_overridden(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text("steps: 10\nsampler: {dark: 0.5}\n")
    changes = ["steps=3", "sampler.flip=0", "distillation.crl=[spatial]", "learning_rate=1"]
    config = load_config(path, changes)
    assert (config.steps, config.sampler.dark, config.sampler.flip) == (3, 0.5, 0.0)
    assert config.distillation.crl == ("spatial",) and config.learning_rate == 1.0
    for change in ("steps", "steps.more=1"):
        with pytest.raises(ConfigError, match=f"--set {change}"):
            load_config(path, [change])


def test_the_paper_s_schedule_and_losses():
    """Section IV of arXiv 2312.07884, as far as it is published."""
    from mlkd_ros.distillation.trainer import Trainer

    config = load_config(next(path for path in EXPERIMENTS if path.stem == "paper"))
    trainer = object.__new__(Trainer)
    trainer.config = config
    epochs = config.steps // config.epoch
    rates = [trainer.learning_rate(step) for step in (0, 5 * config.epoch, config.steps)]
    assert epochs == 50 and config.batch == 32
    assert rates == pytest.approx([0.005, 0.01, 0.0005], rel=1e-3)
    halfway = trainer.learning_rate((5 + 45 // 2) * config.epoch)
    assert halfway == pytest.approx(0.01 * 0.05 ** (22 / 45), rel=1e-6)
    assert (config.optimizer, config.weight_decay, config.gradient_clip) == ("sgd", 1e-4, 10.0)
    assert config.regression_weight == 1.2 and config.distillation.temperature == 10.0
    assert config.distillation.crl == ("l2", "spatial", "threshold")
    sampler = config.sampler
    assert (sampler.template_shift, sampler.template_scale) == (4.0, 0.05)
    assert (sampler.search_shift, sampler.search_scale, sampler.search_blur) == (64.0, 0.18, 0.2)
