# SPDX-License-Identifier: Apache-2.0
"""The named scenarios of the rendered night flights."""

from __future__ import annotations

from dataclasses import dataclass

from mlkd_ros.data.lowlight import NightConditions
from mlkd_ros.data.night_flight.town import TownLight


@dataclass(frozen=True)
class Scenario:
    """What happens in a flight. Lengths in metres, angles in degrees, times in seconds."""

    description: str
    path: str = "turn"
    """Way of the target: turn, straight, outer, walk, park."""
    target: tuple[str, str] = ("sedan", "white")
    """Model and paint of the target; ``("person", "")`` for a person."""
    speed: float = 9.0
    traffic: int = 34
    lookalikes: float = 0.25
    """Fraction of the traffic with the target's model and paint."""
    people: int = 22
    lamps_of_target: bool = True
    altitude: float = 38.0
    altitude_swing: float = 3.0
    altitude_period: float = 26.0
    pitch: float = 50.0
    view: float = 35.0
    """Direction of view at the start, relative to the target's heading."""
    view_swing: float = 22.0
    follow_heading: float = 0.6
    """How far the camera turns with the target, 0 to 1."""
    lag: float = 0.7
    """Time constant with which the camera follows the target."""
    wander: float = 5.0
    """Amplitude of the unsteady aim, on the ground."""
    wander_rate: float = 0.16
    """Its main frequency, Hz."""
    vibration: float = 0.05
    excursion: tuple[float, float, float] | None = None
    """Period, duration and sideways aim of regular looks away from the target."""
    dense_trees: bool = False
    bridge: bool = False
    """Whether an elevated road crosses the avenue."""
    light: TownLight = TownLight()
    sensor: NightConditions = NightConditions(
        gain=4.0,
        full_well=7000.0,
        read_noise=3.0,
        noise_grain=0.5,
        chroma_grain=0.8,
        chroma_noise=0.55,
        contrast=1.05,
    )
    shutter: float = 0.5
    """Fraction of the frame time during which the shutter is open."""


DARK_SENSOR = NightConditions(
    gain=9.0, full_well=5500.0, read_noise=3.5, noise_grain=0.55, chroma_grain=0.9, chroma_noise=0.6
)

SCENARIO_SETTINGS: dict[str, Scenario] = {
    "crossing": Scenario(
        "A white car drives through town among similar cars and turns at a crossing.",
        lookalikes=0.12,
    ),
    "occlusion": Scenario(
        "A car drives under trees and below a bridge, out of sight for one to two seconds.",
        path="outer",
        target=("sedan", "silver"),
        speed=8.5,
        view=18.0,
        view_swing=10.0,
        dense_trees=True,
        bridge=True,
        altitude=40.0,
        traffic=18,
    ),
    "low_light": Scenario(
        "The crossing with few lamps burning and a noisy sensor: barely visible to a person.",
        light=TownLight(lamps=0.22, sky=0.006, lamp_fraction=0.7, windows=0.12),
        sensor=DARK_SENSOR,
        traffic=20,
    ),
    "fast_motion": Scenario(
        "A fast car and a restless camera: the target jumps by its own size between frames.",
        path="straight",
        target=("hatchback", "red"),
        speed=17.0,
        lag=0.25,
        wander=6.5,
        wander_rate=0.55,
        shutter=0.4,
        traffic=20,
        vibration=0.12,
    ),
    "small_target": Scenario(
        "A person walks along the pavement, 15 to 30 pixels tall, among other people.",
        path="walk",
        target=("person", ""),
        speed=1.35,
        people=40,
        altitude=42.0,
        wander=6.0,
        wander_rate=0.1,
        view=60.0,
        lag=1.5,
    ),
    "distractors": Scenario(
        "The target drives in dense traffic of the same model and colour, overtaking, overtaken.",
        path="straight",
        traffic=44,
        lookalikes=0.9,
        speed=8.0,
        view=25.0,
    ),
    "out_of_view": Scenario(
        "The camera looks away every ten seconds, and the target leaves the picture for about two.",
        path="straight",
        target=("suv", "black"),
        excursion=(10.0, 4.0, 62.0),
        speed=8.0,
    ),
    "scale_change": Scenario(
        "The aircraft sinks to 20 m and climbs to 64 m: the target grows and shrinks threefold.",
        path="straight",
        target=("van", "white"),
        altitude=42.0,
        altitude_swing=22.0,
        altitude_period=18.0,
        speed=8.0,
        view_swing=30.0,
    ),
}
