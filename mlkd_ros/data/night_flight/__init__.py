# SPDX-License-Identifier: Apache-2.0
"""Rendered night flights with exact ground truth.

    from mlkd_ros.data.night_flight import NightFlight

    flight = NightFlight("crossing", seed=0)
    frame = flight.render(30)

`flight` puts a picture together; `scenarios` names what happens; `town` lays out and lights the
ground; `traffic` and `pilot` move everybody and the camera; `ground`, `painting` and `actors` draw;
`sensor` is the low-light camera at video rate.
"""

from mlkd_ros.data.night_flight.flight import SCENARIOS, NightFlight, RenderedFrame

__all__ = ["SCENARIOS", "NightFlight", "RenderedFrame"]
