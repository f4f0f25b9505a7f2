# SPDX-License-Identifier: Apache-2.0
"""One YAML file an experiment: every key is a field here, and an unknown key is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..data.sampler import SamplerSettings
from ..tracking.network import ARCHITECTURES
from .losses import CORRELATION_LOSSES
from .supervised import LossRules

ELECTIONS = ("sample", "batch", "none")
TEACHER_INPUTS = ("enhanced", "clean")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "log")

Config = TypeVar("Config")


class ConfigError(ValueError):
    """An experiment file that cannot be used; the message names the file and the key."""


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


@dataclass(frozen=True)
class DistillationSettings:
    """What students learn from the teacher and from each other (arXiv 2312.07884).

    temperature: T of KDC and KDR.
    classification, regression: weights of KDC and KDR (0: off). With T = 10 and weight 1, KDC's
        gradient is about five times that of the supervised loss (mobile_s16 from daytime weights).
    correlation: weight of each kind of correlation-map loss; their gradients differ as much.
    mutual: weight of the mutual-learning loss.
    crl: kinds of correlation-map loss, one a student of the room.
    election: ``sample`` (the paper), ``batch`` (its code; for the ablation) or ``none`` (no ML).
    mutual_on_negatives: whether samples that do not show the target take part in mutual learning;
        a single confident peak is no merit there.
    gate: whether KDC and KDR count only where the teacher is the better one; False for ablation.
    teacher_input: ``enhanced``: what the student sees, enhanced (the paper). ``clean``: patches
        before they were darkened, real night patches enhanced.
    other_heads: share of KDC that a teacher of another kind of head gets: its map says where the
        target's centre is, not where the target is.
    paired: share of the samples that the students see clean as well, with the full loss on both
        views (arXiv 2304.14298); needs ``clean``, and costs as much of a step.
    consistency: weight of the clamped distance between a student's features of the two views.
    features: weight of that between its features and the teacher's, of the clean view.
    """

    temperature: float = 10.0
    classification: float = 0.25
    regression: float = 1.0
    correlation: Mapping[str, float] = field(
        default_factory=lambda: {"l2": 0.5, "spatial": 1.0, "threshold": 5.0}
    )
    mutual: float = 0.5
    crl: tuple[str, ...] = ("l2", "spatial", "threshold")
    election: str = "sample"
    mutual_on_negatives: bool = False
    gate: bool = True
    teacher_input: str = "enhanced"
    other_heads: float = 1.0
    paired: float = 0.0
    consistency: float = 0.0
    features: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.paired <= 1:
            raise ValueError(f"paired must be a share, 0 to 1, not {self.paired:g}")
        if self.teacher_input != "clean" and (self.paired or self.consistency):
            raise ValueError("paired and consistency need teacher_input: clean")
        _check_choice("election", self.election, ELECTIONS)
        _check_choice("teacher_input", self.teacher_input, TEACHER_INPUTS)
        for kind in self.crl:
            _check_choice("crl", kind, (*CORRELATION_LOSSES, "none"))
        for kind in self.correlation:
            _check_choice("correlation", kind, tuple(CORRELATION_LOSSES))
        for kind in self.crl:
            if kind != "none" and kind not in self.correlation:
                raise ValueError(f"correlation gives no weight for {kind}, which crl names")
        if len(set(self.crl)) != len(self.crl):
            raise ValueError(f"crl names a kind twice: {', '.join(self.crl)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature:g}")


@dataclass(frozen=True)
class TrainingConfig:
    """An experiment.

    architecture: a name of ``tracking.network.ARCHITECTURES``.
    seed: of initialisation, sampling and augmentation.
    steps, batch: length; one step is one batch of pairs over all processes.
    epoch: steps between two lines of ``epochs.csv`` (means, election statistics).
    optimizer: ``adamw`` or ``sgd`` (momentum 0.9).
    learning_rate, trunk_factor: peak rate of correlation and head, and the trunk's share of it
        (0: it is kept as it is, and a step costs half).
    warm_up, warm_up_start: steps of linear warm-up, and the share of the peak rate it starts from.
    schedule, final_rate: ``cosine`` or ``log`` decay, and the share of the peak rate at the end.
    freeze_batch_norm: keep the running statistics of the start (batches here are small and of
        mixed light).
    mixed_precision: half precision where the device is a GPU; on a CPU with bfloat16 in hardware
        only the teachers are run in it, for the gradients of depth-wise convolutions are slower.
    half_on_cpu: there train the students in it as well: faster where dense convolutions prevail, as
        in a lightfc_s16.
    ema: decay of the averaged weights, which are what is evaluated and shipped.
    regression_weight: of the regression loss (1.2 in arXiv 2312.07884).
    gradient_clip: largest norm of a step's gradient, of each student.
    near: share of the steps whose search regions are cut to one of ``sampler.NEAR_SIDES``, so that
        the student is at home in the smaller regions of the near look in flight.
    losses: how boxes and scores are supervised, see ``supervised.LossRules``.
    save_every, log_every: steps between checkpoints and between lines of ``log.csv``.
    snapshot_every: steps between students that are written on the way, as candidates of
        ``mlkd select`` (0: only the last ones).
    sampler: augmentation and night share, see ``data.sampler.SamplerSettings``.
    distillation: used where there is a teacher.
    """

    architecture: str = "mobile_s16"
    seed: int = 0
    steps: int = 4000
    batch: int = 32
    epoch: int = 500
    optimizer: str = "adamw"
    learning_rate: float = 2e-4
    trunk_factor: float = 0.5
    weight_decay: float = 1e-4
    warm_up: int = 200
    warm_up_start: float = 0.0
    schedule: str = "cosine"
    final_rate: float = 0.02
    freeze_batch_norm: bool = True
    mixed_precision: bool = True
    half_on_cpu: bool = False
    ema: float = 0.998
    regression_weight: float = 1.2
    gradient_clip: float = 10.0
    near: float = 0.0
    save_every: int = 250
    log_every: int = 20
    snapshot_every: int = 0
    losses: LossRules = field(default_factory=LossRules)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)

    def __post_init__(self) -> None:
        _check_choice("architecture", self.architecture, sorted(ARCHITECTURES))
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("steps", "batch", "epoch", "save_every", "log_every", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.near <= 1:
            raise ValueError(f"near must be a share, 0 to 1, not {self.near:g}")
        if not 0 < self.final_rate <= 1:
            raise ValueError(f"final_rate must be above 0 and at most 1, not {self.final_rate:g}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the provenance of a checkpoint."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class EnhancerConfig:
    """Training of the enhancer with zero-reference losses (Zero-DCE, arXiv 2001.06826).

    seed, steps, batch: length; one step is ``batch`` crops of ``side`` pixels.
    iterations: times that the curve is applied. channels: width of the network.
    downscale: the curves are estimated on an image this much smaller (2, 4, ...).
    learning_rate, weight_decay, gradient_clip: of Adam.
    exposure: mean level, 0..1, that regions of 16 x 16 pixels are brought to (0.6 in the paper, for
        people's eyes; where night is black that is nothing but amplified noise).
    *_weight: of the four losses, see ``enhancer.zero_reference_losses``.
    min_scale: crops are enlarged or reduced by a factor between this and 1 / this.
    save_every, log_every: steps between checkpoints and between lines of ``log.csv``.
    """

    seed: int = 0
    steps: int = 1500
    batch: int = 8
    side: int = 192
    iterations: int = 8
    channels: int = 32
    downscale: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    gradient_clip: float = 0.1
    exposure: float = 0.3
    exposure_weight: float = 10.0
    colour_weight: float = 5.0
    spatial_weight: float = 1.0
    smoothness_weight: float = 200.0
    min_scale: float = 0.7
    save_every: int = 250
    log_every: int = 20

    def __post_init__(self) -> None:
        if self.side % (16 * self.downscale):
            raise ValueError(f"side must be a multiple of 16 * downscale, not {self.side}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the provenance of a checkpoint."""
        return dataclasses.asdict(self)


def _default(item: dataclasses.Field[Any]) -> Any:
    factory = item.default_factory
    return item.default if factory is dataclasses.MISSING else factory()


def _convert(value: Any, default: Any, where: str, key: str) -> Any:
    """``value`` as the type of its field's default; a wrong type is an error."""
    if dataclasses.is_dataclass(default):
        return _build(type(default), value, f"{where}: {key}")
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(value)
    wanted: type = Mapping if isinstance(default, Mapping) else type(default)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if isinstance(value, str) else ""
        kind = "a list" if wanted is tuple else wanted.__name__.lower()
        raise ConfigError(f"{where}: {key} must be {kind}, got {value!r}{hint}")
    return value


def _build(cls: type[Config], values: Any, where: str) -> Config:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: needs a mapping of settings, got {type(values).__name__}")
    known = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}: known are {', '.join(sorted(known))}")
    given = {k: _convert(v, _default(known[k]), where, k) for k, v in values.items()}
    try:
        return cls(**given)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _override(content: dict[str, Any], setting: str) -> None:
    """Put ``key=value`` or ``group.key=value`` into the content of an experiment file."""
    import yaml

    path, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set {setting}: needs key=value, or group.key=value")
    *groups, key = path.split(".")
    for group in groups:
        content = content.setdefault(group, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {setting}: {group} is not a group of settings")
    content[key] = yaml.safe_load(text)


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    cls: type[Config] = TrainingConfig,  # type: ignore[assignment]
) -> Config:
    """Read an experiment; without a file the defaults. ``overrides`` are ``key=value`` texts.

    ConfigError names the file, and the key that is unknown or of the wrong type.
    """
    try:
        import yaml
    except ImportError:
        raise ImportError("experiment files need PyYAML: pip install mlkd_ros[train]") from None

    content: Any = {}
    if path is not None:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs a mapping of settings, got {type(content).__name__}")
    for setting in overrides:
        _override(content, setting)
    return _build(cls, content, str(path or "settings"))
