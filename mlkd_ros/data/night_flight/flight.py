# SPDX-License-Identifier: Apache-2.0
"""A UAV's camera follows a target through a town at night.

A flight is made of a scenario, a seed and a frame number, and of nothing else: any frame can be
rendered alone, in any order, and is always the same.

The ground of the town, its lamps' light included, is painted once. A frame warps it, lets
headlights and shadows change its light, paints vehicles, people, trees, houses and lamps from far
to near, and takes the result with the low-light camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlkd_ros.data.night_flight import actors
from mlkd_ros.data.night_flight.actors import Camera, Painter, Trace
from mlkd_ros.data.night_flight.ground import GroundWarp, box_blur, relight_ground
from mlkd_ros.data.night_flight.painting import in_view, paint_scene
from mlkd_ros.data.night_flight.pilot import CameraPlan
from mlkd_ros.data.night_flight.scenarios import SCENARIO_SETTINGS
from mlkd_ros.data.night_flight.sensor import NightSensor
from mlkd_ros.data.night_flight.town import PERIOD_M, build_town
from mlkd_ros.data.night_flight.traffic import Clock, Mover, Placed, traffic

FOCAL_PER_WIDTH = 0.8  # focal length over picture width: 64 degrees of horizontal field of view
MIN_SIDE_PX = 32

SCENARIOS: dict[str, str] = {name: s.description for name, s in SCENARIO_SETTINGS.items()}
"""Name and description of every scenario."""

Target = tuple[str, tuple[float, float, float, float], float, str]


@dataclass(frozen=True)
class RenderedFrame:
    """One picture of a flight with its ground truth.

    ``targets`` holds ``(id, box, visible fraction, class)`` of every driving vehicle and every
    person at least partly inside the picture's borders. The first entry is the main target; it is
    always there. ``box`` is x, y, w, h in pixels, top-left origin: the whole body as if nothing
    covered it, without its light, cut at the picture's borders. The visible fraction is what
    neither borders nor other objects hide; when it is 0 the main target's box may be empty.
    """

    image: np.ndarray
    stamp: float
    targets: list[Target]


class NightFlight:
    """A rendered flight.

    Args:
        scenario: a name in :data:`SCENARIOS`.
        seed: chooses the town's details, the traffic and the noise.
        size: width and height of the pictures, pixels.
        rate: frames per second.
        duration: length of the flight, seconds.

    Raises:
        ValueError: for an unknown scenario or a size, rate or duration that is not positive.
    """

    def __init__(
        self,
        scenario: str = "crossing",
        seed: int = 0,
        size: tuple[int, int] = (1280, 720),
        rate: float = 30.0,
        duration: float = 60.0,
    ) -> None:
        if scenario not in SCENARIO_SETTINGS:
            raise ValueError(
                f"unknown scenario {scenario!r}; there are: {', '.join(SCENARIO_SETTINGS)}"
            )
        if min(size) < MIN_SIDE_PX:
            raise ValueError(f"size must be at least {MIN_SIDE_PX} pixels a side, not {size}")
        if not (rate > 0 and duration > 0 and math.isfinite(rate * duration)):
            raise ValueError(f"rate and duration must be positive, not {rate} Hz and {duration} s")
        self.scenario, self.seed, self.size, self.rate = scenario, int(seed), size, float(rate)
        self.frame_count = max(1, int(round(duration * rate)))
        self._settings = SCENARIO_SETTINGS[scenario]
        self._town = build_town(self.seed, self._settings.light, self._settings.dense_trees)
        self._sensor = NightSensor(self._settings.sensor, size, self.seed)
        clock = Clock(self.frame_count, self.rate)
        self._movers = traffic(self._settings, clock, np.random.default_rng([self.seed, 1]))
        self._aim = CameraPlan(self._settings, self._movers[0], clock, self.seed)
        self._warp = GroundWarp(size)
        actors.prepare()

    @property
    def focal_px(self) -> float:
        """Focal length of the camera, pixels; the principal point is the centre of the picture."""
        return FOCAL_PER_WIDTH * self.size[0]

    def render(
        self,
        when: int | float,
        turn: tuple[float, float] = (0.0, 0.0),
        turn_before: tuple[float, float] | None = None,
    ) -> RenderedFrame:
        """Render one frame.

        Args:
            when: frame number (int) or time since the start in seconds (float).
            turn: how far a gimbal has turned the camera from where this flight points it, radians
                to the right and up.
            turn_before: the same in the frame before, for the blur; not given: as in this one.

        Raises:
            IndexError: outside the flight.
        """
        index = when if isinstance(when, (int, np.integer)) else int(round(when * self.rate))
        if not 0 <= index < self.frame_count:
            raise IndexError(f"frame {index} is outside this flight of {self.frame_count} frames")
        camera = self._camera(index, turn)
        scene = self._warp.apply(self._town.ground, camera)
        before = turn if turn_before is None else turn_before
        pan_blur, own_blur = self._motion(index, camera, before)
        scene = box_blur(scene, pan_blur, least_px=3)
        movers = self._movers_in_view(index, camera)
        relight_ground(scene, camera, self._town, movers)
        painter = Painter(scene)
        paint_scene(painter, camera, self._town, self._settings, movers)
        scene = box_blur(scene, own_blur)
        image = self._sensor.develop(scene, np.random.default_rng([self.seed, 2, index]))
        targets = _targets(painter.traces, self._movers[0], self.size)
        return RenderedFrame(image, index / self.rate, targets)

    def target_pixel(
        self, when: int, turn: tuple[float, float] = (0.0, 0.0)
    ) -> tuple[float, float] | None:
        """Where the main target's middle is in the picture of a frame, without rendering it.

        In pixels whose centres are whole numbers; None behind the camera. `turn`: as in `render`.
        """
        x, y = self._movers[0].pose[when, :2]
        seen, depth = self._camera(when, turn).project(np.array([[x, y, 0.7]]))
        return (float(seen[0, 0]), float(seen[0, 1])) if depth[0] > 0 else None

    def depression(self, when: int) -> float:
        """How far below the horizon this flight points the camera, without a gimbal, radians."""
        return -math.asin(float(self._camera(when).rotation[2, 2]))

    def _camera(self, index: int, turn: tuple[float, float] = (0.0, 0.0)) -> Camera:
        return self._aim.camera(index, self.focal_px, self.size, turn)

    def _motion(
        self, index: int, camera: Camera, turn_before: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Motion blur (x, y pixels) of the ground relative to the target, and of the target."""
        before = max(index - 1, 0)
        target = self._movers[0].pose
        spots = np.zeros((2, 3))
        spots[0, :2], spots[1, :2] = target[index, :2], target[before, :2]
        now, _ = camera.project(spots)
        then, _ = self._camera(before, turn_before).project(spots)
        own = now[0] - then[1]
        ground = now[0] - then[0]
        shutter = self._settings.shutter
        return (ground - own) * shutter, own * shutter

    def _movers_in_view(self, index: int, camera: Camera) -> list[Placed]:
        poses = np.array([mover.pose[index] for mover in self._movers])
        target = poses[0, :2]
        poses[:, :2] += PERIOD_M * np.round((target - poses[:, :2]) / PERIOD_M)
        seen, depth = camera.project(np.column_stack((poses[:, :2], np.full(len(poses), 0.7))))
        inside = in_view(seen, depth, self.size)
        inside[0] = True
        return [
            Placed(
                mover,
                (float(pose[0]), float(pose[1]), float(pose[2])),
                float(mover.walked[index]),
                self._town.light_at(pose[0], pose[1]),
            )
            for mover, pose, keep in zip(self._movers, poses, inside, strict=True)
            if keep
        ]


def _targets(traces: list[Trace], main: Mover, size: tuple[int, int]) -> list[Target]:
    """Ground truth of a frame, the main target first."""
    found = []
    first: Target = (main.identity, (0.0, 0.0, 0.0, 0.0), 0.0, main.kind)
    for trace in traces:
        box = _cut(trace.box, size)
        visible = float(np.count_nonzero(trace.mask)) / max(trace.whole, 1)
        if trace.identity == main.identity:
            first = (trace.identity, box, visible, trace.kind)
        elif box[2] > 0 and box[3] > 0:
            found.append((trace.identity, box, visible, trace.kind))
    return [first, *found]


def _cut(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    left, top = min(max(box[0], 0.0), size[0]), min(max(box[1], 0.0), size[1])
    right, bottom = min(max(box[0] + box[2], 0.0), size[0]), min(max(box[1] + box[3], 0.0), size[1])
    return left, top, right - left, bottom - top
