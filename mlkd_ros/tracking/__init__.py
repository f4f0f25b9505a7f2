# SPDX-License-Identifier: Apache-2.0
"""The flying part: NumPy, OpenCV and a runtime for the student. Imports no ROS and no training
code.
"""

from .checkpoint import CheckpointError
from .engine import EngineError
from .geometry import BoxOutsideImageError, InvalidBoxError
from .presence import TrackState
from .settings import PresenceSettings, TrackerSettings
from .tracker import (
    Expectation,
    TargetRecord,
    Tracker,
    TrackResult,
    load_tracker,
    update_together,
)

__all__ = [
    "BoxOutsideImageError",
    "CheckpointError",
    "EngineError",
    "Expectation",
    "InvalidBoxError",
    "PresenceSettings",
    "TargetRecord",
    "TrackResult",
    "TrackState",
    "Tracker",
    "TrackerSettings",
    "load_tracker",
    "update_together",
]
