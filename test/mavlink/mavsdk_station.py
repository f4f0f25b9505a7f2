# SPDX-License-Identifier: Apache-2.0
"""A MAVSDK ground station that designates by point and by rectangle and stops, as a process.

    python mavsdk_station.py PORT X Y LEFT TOP RIGHT BOTTOM

It listens on that UDP port of this machine and prints one JSON object a line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from mavsdk import ComponentType, Configuration, Mavsdk
from mavsdk.plugins.camera import Camera

CAMERA = 100


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def attempt(name: str, call: Any, *arguments: Any) -> None:
    began = time.monotonic()
    try:
        call(*arguments)
        result = "SUCCESS"
    except Exception as error:
        result = str(error)
    say(call=name, result=result, seconds=round(time.monotonic() - began, 3))


def main() -> None:
    port, *numbers = sys.argv[1:]
    x, y, left, top, right, bottom = map(float, numbers)
    station = Mavsdk(Configuration.create_with_component_type(ComponentType.GROUND_STATION))
    station.add_any_connection(f"udpin://127.0.0.1:{port}")
    end = time.monotonic() + 60
    while not station.get_systems():
        assert time.monotonic() < end, "no system"
        time.sleep(0.05)
    camera = Camera(station.get_systems()[0])
    while not camera.camera_list().cameras:
        assert time.monotonic() < end, "no camera"
        time.sleep(0.05)
    found = camera.camera_list().cameras[0]
    say(
        component=found.component_id,
        vendor=found.vendor_name,
        model=found.model_name,
        resolution=[found.horizontal_resolution_px, found.vertical_resolution_px],
    )
    while not (stream := camera.get_video_stream_info(CAMERA).settings).uri:
        assert time.monotonic() < end, "no video stream"
        time.sleep(0.1)
    say(uri=stream.uri, hfov=stream.horizontal_fov_deg, width=stream.horizontal_resolution_pix)
    attempt("track_point", camera.track_point, CAMERA, x, y, 0.05)
    time.sleep(1.0)
    attempt("track_stop", camera.track_stop, CAMERA)
    attempt("track_rectangle", camera.track_rectangle, CAMERA, left, top, right, bottom)
    attempt("track_rectangle outside", camera.track_rectangle, CAMERA, 0.5, 0.5, 1.5, 0.6)
    station.destroy()


if __name__ == "__main__":
    main()
