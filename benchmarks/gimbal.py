# SPDX-License-Identifier: Apache-2.0
"""The gimbal's loop, closed over rendered flights: how well the target stays in the middle.

    python benchmarks/gimbal.py --plot gimbal.svg

Time is the flight's, not this machine's: an image is tracked by the shipped student, and what it
says reaches the follower `--delay` seconds after the exposure. The follower, which commands at 30
Hz, is told nothing of the delay but the images' stamps. The aircraft sways by `--sway`
degrees and the camera with it. With `--geometry` nothing is rendered or tracked: the target's place
is reckoned, and a sure tracker's error of 0.25 degrees is added; that takes seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.gimbal.follower import Follower, FollowerSettings, Mode
from mlkd_ros.session.bearing import Calibration, Camera
from mlkd_ros.simulation.gimbal import SimulatedGimbal
from mlkd_ros.tracking import load_tracker

RATE = 30.0
#: The follower is on before the figures count: the target is not in the middle when it begins.
SETTLING_S = 2.0
#: Standard deviation of a bearing with --geometry, radians: 0.04 sides of a car 60 pixels wide.
_NOISE = math.radians(0.25)


@dataclass
class Run:
    """One flight: offset of the target's centre from the picture's, in shares of its half sides."""

    scenario: str
    delay: float | None
    times: list[float] = field(default_factory=list)
    offsets: list[tuple[float, float]] = field(default_factory=list)
    seen: list[bool] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)

    def settled(self) -> np.ndarray:
        """Which images count."""
        return np.array(self.times) >= SETTLING_S

    def middle(self) -> float:
        """Share of images with the target's centre in the middle third of width and height."""
        inside = (np.abs(np.array(self.offsets)) <= 1 / 3).all(1) & np.array(self.seen)
        return float(inside[self.settled()].mean())

    def outside(self) -> float:
        """Share of images in which the target has left the picture."""
        return float(1 - np.array(self.seen)[self.settled()].mean())

    def deviation(self) -> float:
        """RMS of the greater offset, per cent of the half side."""
        greatest = np.abs(np.array(self.offsets)).max(1)[self.settled() & np.array(self.seen)]
        return float(np.sqrt((greatest**2).mean())) * 100 if len(greatest) else math.nan

    def oscillation(self) -> float:
        """RMS of the commanded rate above 1 Hz, degrees a second: what no target asks for."""
        rates = np.array(self.rates)[self.settled()]
        if not len(rates):
            return math.nan
        spectrum = np.fft.rfft(rates - rates.mean(0), axis=0)
        spectrum[np.fft.rfftfreq(len(rates), 1 / RATE) < 1.0] = 0
        fast = np.fft.irfft(spectrum, len(rates), axis=0)
        return math.degrees(float(np.sqrt((fast**2).sum(1).mean())))


def fly(
    scenario: str,
    delay: float | None,
    tracker: Any,
    size: tuple[int, int],
    duration: float,
    settings: FollowerSettings,
    sway: float,
    geometry: bool,
    seed: int = 0,
) -> Run:
    """Fly with the target followed by the gimbal, or with the camera fixed where delay is None."""
    flight = NightFlight(scenario, seed, size, RATE, duration)
    gimbal = SimulatedGimbal(sway=math.radians(sway))
    # It starts on the target, as an operator's camera does.
    gimbal.yaw, gimbal.pitch = (-angle for angle in gimbal.turn(0.0))
    follower, camera = Follower(settings), _camera(flight)
    run, pending = Run(scenario, delay), deque[Any]()
    following, before = False, gimbal.turn(0.0)
    rng = np.random.default_rng(seed)
    for index in range(flight.frame_count):
        now = index / RATE
        gimbal.advance(now, flight.depression(index) - gimbal.turn(now)[1])
        turn = gimbal.turn(now)
        if geometry:
            box, sight = _reckon(flight, index, turn, rng)
            _note(run, now, box, size)
        else:
            frame = flight.render(index, turn, before)
            box = frame.targets[0][1]
            _note(run, now, box, size)
            if delay is not None and not following:
                tracker.init(frame.image, box, now)
                following = True
            sight = _look(tracker, frame.image, now, camera) if following else None
        before = turn
        if delay is None:
            continue
        pending.append((now + delay, now, sight))
        while pending and pending[0][0] <= now:
            _hand_on(follower, *pending.popleft())
        command = follower.command(now)
        if command.mode is not Mode.OFF:
            gimbal.command(now, command.yaw, command.pitch)
        run.rates.append((command.yaw, command.pitch))
    return run


#: Yaw and pitch of the target from the optical axis, and their variances.
Sight = tuple[float, float, tuple[float, float]]


def _look(tracker: Any, image: np.ndarray, now: float, camera: Camera) -> Sight | None:
    """What the tracker sees."""
    result = tracker.update(image, now)
    if result.box is None:
        return None
    found = camera.bearing(result.box, result.confidence)
    return found.azimuth, -found.elevation_down, (found.covariance[0], found.covariance[3])


def _reckon(
    flight: NightFlight, index: int, turn: tuple[float, float], rng: np.random.Generator
) -> tuple[Any, Sight | None]:
    """The target's place as a box of a pixel, and as a tracker would see it; no sight outside."""
    width, height = flight.size
    pixel = flight.target_pixel(index, turn)
    if pixel is None or not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
        return (0.0, 0.0, 0.0, 0.0), None
    x, y = (np.array(pixel) - ((width - 1) / 2, (height - 1) / 2)) / flight.focal_px
    yaw, up = math.atan(x) + _NOISE * rng.normal(), -math.atan(y) + _NOISE * rng.normal()
    return (pixel[0], pixel[1], 1.0, 1.0), (yaw, up, (_NOISE**2, _NOISE**2))


def _hand_on(follower: Follower, now: float, stamp: float, sight: Sight | None) -> None:
    if sight is None:
        follower.unseen(now)
    else:
        follower.measure(now, stamp, *sight)


def _camera(flight: NightFlight) -> Camera:
    width, height = flight.size
    f, x, y = flight.focal_px, (width - 1) / 2, (height - 1) / 2
    k = (f, 0.0, x, 0.0, f, y, 0.0, 0.0, 1.0)
    return Camera(Calibration(width, height, "plumb_bob", (0.0,) * 5, k), flight.size)


def _note(run: Run, now: float, box: Any, size: tuple[int, int]) -> None:
    x, y, w, h = box
    seen = w > 0 and h > 0
    offset = ((x + w / 2) / (size[0] / 2) - 1, (y + h / 2) / (size[1] / 2) - 1)
    run.times.append(now)
    run.seen.append(seen)
    run.offsets.append(offset if seen else (math.nan, math.nan))


def plot(runs: list[Run], path: Path) -> None:
    """The offset over time, with and without the gimbal, and the path in the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scenarios = sorted({run.scenario for run in runs})
    figure, axes = pyplot.subplots(
        len(scenarios), 1, figsize=(8, 2.1 * len(scenarios)), sharex=True, squeeze=False
    )
    for axis, scenario in zip(axes[:, 0], scenarios, strict=True):
        axis.axhspan(0, 1 / 3, color="#dbe9d5", label="middle third")
        axis.axhline(1.0, color="black", linewidth=0.8)
        for run in (run for run in runs if run.scenario == scenario):
            offsets = np.abs(np.array(run.offsets)).max(1)
            fixed = run.delay is None
            axis.plot(
                run.times,
                offsets,
                color="#b04a3a" if fixed else "#2f5d8a",
                linestyle="--" if fixed else "-",
                alpha=1.0 if fixed or run.delay <= 0.1 else 0.5,
                linewidth=1.2,
                label="fixed camera" if fixed else f"gimbal, {run.delay * 1000:.0f} ms late",
            )
        axis.set_ylim(0, 1.1)
        axis.set_ylabel(scenario)
    axes[0, 0].legend(loc="upper right", fontsize=7, ncols=2)
    axes[-1, 0].set_xlabel("seconds; offset of the target from the middle, 1 is the border")
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scenarios", nargs="+", default=["crossing", "fast_motion", "scale_change"]
    )
    parser.add_argument(
        "--delays", nargs="+", type=float, default=[0.05, 0.15, 0.3], help="seconds"
    )
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of each flight")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 360))
    parser.add_argument("--sway", type=float, default=35.0, help="degrees of yaw")
    parser.add_argument("--gain", type=float, default=FollowerSettings.gain)
    parser.add_argument("--geometry", action="store_true", help="neither render nor track")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    settings = FollowerSettings(gain=given.gain)
    runs = []
    print("| flight | camera | in the middle third | left the picture | RMS offset | rate > 1 Hz |")
    print("| --- | --- | --- | --- | --- | --- |")
    for scenario in given.scenarios:
        for delay in (None, *given.delays):
            tracker = None if given.geometry else load_tracker(device="cpu")
            run = fly(
                scenario,
                delay,
                tracker,
                tuple(given.size),
                given.duration,
                settings,
                given.sway,
                given.geometry,
            )
            runs.append(run)
            name = "fixed" if delay is None else f"gimbal, {delay * 1000:.0f} ms"
            fast = "-" if delay is None else f"{run.oscillation():.1f} deg/s"
            print(
                f"| {scenario} | {name} | {run.middle():.1%} | {run.outside():.1%} | "
                f"{run.deviation():.0f}% | {fast} |",
                flush=True,
            )
    if given.plot:
        plot(runs, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
