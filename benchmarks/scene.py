# SPDX-License-Identifier: Apache-2.0
"""A scene with textured targets, for the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from mlkd_ros.tracking import Tracker, TrackState, update_together

TARGET = (64, 40)


class Scene:
    """Textured targets that drift over a dark, noisy ground; a few images, shown to and fro.

    without: the same images without the targets.
    """

    images_held = 4

    def __init__(
        self, size: tuple[int, int], targets: int = 1, target: tuple[int, int] = TARGET
    ) -> None:
        self._target = target
        rng = np.random.default_rng(1)
        width, height = size
        coarse = rng.integers(10, 60, (height // 40, width // 40, 3), np.uint8)
        ground = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        columns = int(np.ceil(np.sqrt(targets)))
        looks = [
            cv2.resize(rng.integers(0, 255, (5, 8, 3), np.uint8), target) for _ in range(targets)
        ]
        self._starts = [
            ((i % columns + 1) * width / (columns + 1), (i // columns + 1) * height / (columns + 1))
            for i in range(targets)
        ]
        self.images, self.without = [], []
        for index in range(self.images_held):
            image = ground.copy()
            noise = rng.integers(0, 12, image.shape, np.uint8)
            self.without.append(cv2.add(image, noise))
            for look, (x, y, w, h) in zip(looks, self.boxes(index), strict=True):
                image[int(y) : int(y + h), int(x) : int(x + w)] = look
            self.images.append(cv2.add(image, noise))

    def boxes(self, index: int) -> list[tuple[float, float, float, float]]:
        """The targets' boxes in image ``index``."""
        w, h = self._target
        return [(x // 1 - w // 2 + 3 * index, y // 1 - h // 2, w, h) for x, y in self._starts]

    def image(self, step: int) -> np.ndarray:
        """The image of a step: 0 1 2 3 2 1 0 1 ..."""
        return self.images[self.index(step)]

    def index(self, step: int) -> int:
        """Which of the images a step shows."""
        last = self.images_held - 1
        return last - abs(last - step % (2 * last))


def started(tracker: Tracker, scene: Scene) -> list[Tracker]:
    """Trackers of all targets of a scene: siblings, on the engine of ``tracker``."""
    first = Tracker(tracker._engine, tracker.settings)
    trackers = [first, *(first.sibling() for _ in scene.boxes(0)[1:])]
    for each, box in zip(trackers, scene.boxes(0), strict=True):
        each.init(scene.images[0], box)
    return trackers


def update(trackers: list[Tracker], image: Callable[[int], object], step: int) -> None:
    """One image through all targets; a lost target would make the figures meaningless."""
    results = update_together(trackers, image(step))  # type: ignore[arg-type]
    if any(result.state not in (TrackState.TRACKING, TrackState.UNCERTAIN) for result in results):
        raise RuntimeError(f"a target was lost in step {step}")
