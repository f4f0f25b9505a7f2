# SPDX-License-Identifier: Apache-2.0
"""One YAML file an experiment: every key is a field here, and an unknown key is an error."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.sampler import SamplerSettings


class ConfigError(ValueError):
    """An experiment file that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class TrainingConfig:
    """An experiment.

    architecture: a name of ``tracking.network.ARCHITECTURES``.
    seed: of initialisation, sampling and augmentation.
    steps, batch: length; one step is one batch of pairs over all processes.
    optimizer: ``adamw`` or ``sgd`` (momentum 0.9).
    learning_rate, trunk_factor: peak rate of correlation and head, and the trunk's share of it.
    warm_up, final_rate: steps of linear warm-up, and the share of the peak rate at the end (cosine decay).
    freeze_batch_norm: keep the running statistics of the start (batches here are small and of mixed light).
    ema: decay of the averaged weights, which are what is evaluated and shipped.
    regression_weight: of the regression loss (1.2 in arXiv 2312.07884).
    gradient_clip: largest norm of a step's gradient.
    save_every, log_every: steps between checkpoints and between lines of ``log.csv``.
    sampler: augmentation and night share, see ``data.sampler.SamplerSettings``.
    """

    architecture: str = "mobile_s16"
    seed: int = 0
    steps: int = 4000
    batch: int = 32
    optimizer: str = "adamw"
    learning_rate: float = 2e-4
    trunk_factor: float = 0.5
    weight_decay: float = 1e-4
    warm_up: int = 200
    final_rate: float = 0.02
    freeze_batch_norm: bool = True
    ema: float = 0.998
    regression_weight: float = 1.2
    gradient_clip: float = 10.0
    save_every: int = 250
    log_every: int = 20
    sampler: SamplerSettings = field(default_factory=SamplerSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the provenance of a checkpoint."""
        return dataclasses.asdict(self)


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: needs a mapping of settings, got {type(values).__name__}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}: known are {', '.join(sorted(known))}")
    given = dict(values)
    if cls is TrainingConfig and "sampler" in given:
        given["sampler"] = _build(SamplerSettings, given["sampler"], f"{where}: sampler")
    for key, value in given.items():
        default = known[key].default  # MISSING where the field has a factory
        if isinstance(default, bool) != isinstance(value, bool) and default is not dataclasses.MISSING:
            raise ConfigError(f"{where}: {key} must be {type(default).__name__}, got {value!r}")
        if isinstance(default, float) and isinstance(value, int):
            given[key] = float(value)
        elif isinstance(default, (int, float, str)) and not isinstance(value, type(default)):
            raise ConfigError(f"{where}: {key} must be {type(default).__name__}, got {value!r}")
    return cls(**given)


def load_config(path: str | Path) -> TrainingConfig:
    """Read an experiment. ConfigError names the file, and the key that is unknown or of the wrong type."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    return _build(TrainingConfig, content or {}, str(path))
