# SPDX-License-Identifier: Apache-2.0
"""The gimbal's loop, closed over rendered flights: how well the target stays in the middle.

    python benchmarks/gimbal.py --plot gimbal.svg

Time is the flight's, not this machine's: an image is tracked by the shipped student, and what it
says reaches the follower `--delay` seconds after the exposure. The follower, which commands at 30
Hz, is told nothing of the delay but the images' stamps. The aircraft sways by `--sway`
degrees and the camera with it.
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
    for index in range(flight.frame_count):
        now = index / RATE
        gimbal.advance(now, flight.depression(index) - gimbal.turn(now)[1])
        turn = gimbal.turn(now)
        frame = flight.render(index, turn, before)
        before = turn
        box, visible = frame.targets[0][1], frame.targets[0][2]
        _note(run, now, box, visible, size)
        if delay is None:
            continue
        if not following:
            tracker.init(frame.image, box, now)
            following = True
        result = tracker.update(frame.image, now)
        if result.box is not None:
            pending.append((now + delay, now, camera.bearing(result.box, result.confidence)))
        else:
            pending.append((now + delay, now, None))
        while pending and pending[0][0] <= now:
            _hand_on(follower, *pending.popleft())
        command = follower.command(now)
        if command.mode is not Mode.OFF:
            gimbal.command(now, command.yaw, command.pitch)
        run.rates.append((command.yaw, command.pitch))
    return run


def _hand_on(follower: Follower, now: float, stamp: float, bearing: Any) -> None:
    if bearing is None:
        follower.unseen(now)
    else:
        variances = (bearing.covariance[0], bearing.covariance[3])
        follower.measure(now, stamp, bearing.azimuth, -bearing.elevation_down, variances)


def _camera(flight: NightFlight) -> Camera:
    width, height = flight.size
    f, x, y = flight.focal_px, (width - 1) / 2, (height - 1) / 2
    k = (f, 0.0, x, 0.0, f, y, 0.0, 0.0, 1.0)
    return Camera(Calibration(width, height, "plumb_bob", (0.0,) * 5, k), flight.size)


def _note(run: Run, now: float, box: Any, visible: float, size: tuple[int, int]) -> None:
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
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    settings = FollowerSettings(gain=given.gain)
    runs = []
    print("| flight | camera | in the middle third | left the picture | RMS offset | rate > 1 Hz |")
    print("| --- | --- | --- | --- | --- | --- |")
    for scenario in given.scenarios:
        for delay in (None, *given.delays):
            tracker = load_tracker(device="cpu")
            run = fly(
                scenario, delay, tracker, tuple(given.size), given.duration, settings, given.sway
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
