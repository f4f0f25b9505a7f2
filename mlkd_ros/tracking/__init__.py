# SPDX-License-Identifier: Apache-2.0
"""The flying part: NumPy, OpenCV and a runtime for the student. Imports no ROS and no training
code.
"""

from .checkpoint import CheckpointError
from .engine import EngineError, choose_student
from .existence import TrackState
from .geometry import BoxOutsideImageError, InvalidBoxError
from .settings import BeliefSettings, PresenceSettings, TrackerSettings
from .tracker import TargetRecord, Tracker, TrackResult, load_tracker, update_together

__all__ = [
    "BeliefSettings",
    "BoxOutsideImageError",
    "CheckpointError",
    "EngineError",
    "InvalidBoxError",
    "PresenceSettings",
    "TargetRecord",
    "TrackResult",
    "TrackState",
    "Tracker",
    "TrackerSettings",
    "choose_student",
    "load_tracker",
    "update_together",
]
