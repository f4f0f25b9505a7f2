# SPDX-License-Identifier: Apache-2.0
"""What becomes of the targets when the GPU fails: they go on, on the CPU.

No ROS in here. Everything runs on the tracking thread but `reason`, which any thread may read.
"""

from __future__ import annotations

from collections.abc import Callable

from mlkd_ros.session.targets import DesignationError, TargetSet
from mlkd_ros.tracking import CheckpointError, EngineError, Tracker

__all__ = ["CpuFallback"]


class CpuFallback:
    """Loads the tracker, and loads it again on the CPU when its engine on a GPU fails.

    load: makes a tracker for a device and an engine, as named by the parameters.
    device, engine: what the parameters say.
    told: called with a sentence for the log about what failed and what runs instead.
    """

    def __init__(
        self,
        load: Callable[[str, str], Tracker],
        device: str,
        engine: str,
        told: Callable[[str], object],
    ) -> None:
        self._load = load
        self._device = device
        self._engine = engine
        self._told = told
        #: What failed and what runs instead; empty while all is as the parameters say.
        self.reason = ""

    def load(self) -> Tracker:
        """The tracker that the parameters ask for.

        With device auto, one on the CPU when the GPU that was found does not do it. What cannot be
        had by its settings (CheckpointError, EngineError) is raised in any case.
        """
        try:
            return self._load(self._device, self._engine)
        except (CheckpointError, EngineError):
            raise
        except Exception as error:
            if self._device != "auto":
                raise
            return self._on_cpu(error)

    def recover(self, targets: TargetSet, error: BaseException | None) -> bool:
        """Whether `error` was the engine's and the targets are on the CPU now: try again."""
        if targets.device == "cpu" or not _is_of_the_engine(error):
            return False
        targets.move_to(self._on_cpu(error))
        return True

    def _on_cpu(self, error: BaseException | None) -> Tracker:
        tracker = self._load("cpu", "auto")
        # Errors of CUDA go on for pages.
        text = (str(error).strip().splitlines() or [""])[0][:200]
        self.reason = (
            f"the engine on the GPU failed ({type(error).__name__}: {text}): "
            f"{tracker.engine_name} is used instead, until the node is configured anew"
        )
        self._told(self.reason)
        return tracker


def _is_of_the_engine(error: BaseException | None) -> bool:
    # ValueError is an image that cannot be used; the next one may be good.
    return isinstance(error, Exception) and not isinstance(error, (ValueError, DesignationError))
