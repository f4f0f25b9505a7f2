# SPDX-License-Identifier: Apache-2.0
"""How long `mlkd score` takes for a long bag, and how much memory.

    python benchmarks/score_speed.py --minutes 10

Synthesises a bag of that length at 30 Hz (compressed images of --image-bytes each, ground truth
with 20 objects, detections, status), scores it in a process of its own, and prints seconds and peak
memory, beside those of a bag a fifth as long: memory that does not grow with the bag is the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RATE = 30.0
START = 1_700_000_000.0
PERIOD_IMAGES = 400

SCORE = """
import resource, sys, time
from mlkd_ros.evaluation.streaming import score_bag
began = time.perf_counter()
scores = score_bag(sys.argv[1])
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{scores.images} images in {seconds:.1f} s, peak memory {peak:.0f} MB")
"""


def main() -> int:
    """Measure; 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--objects", type=int, default=20, help="objects in the ground truth")
    parser.add_argument("--image-bytes", type=int, default=60_000)
    parser.add_argument("--folder", type=Path, help="where to write the bags (default: temporary)")
    options = parser.parse_args()
    for minutes in (options.minutes / 5, options.minutes):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            bag = Path(folder) / "bag"
            write_bag(bag, round(minutes * 60 * RATE), options.objects, options.image_bytes)
            size = sum(path.stat().st_size for path in bag.iterdir()) / 1e6
            print(f"{minutes:g} minutes, {size:.0f} MB:", flush=True)
            subprocess.run([sys.executable, "-c", SCORE, str(bag)], check=True)
    return 0


def write_bag(path: Path, images: int, objects: int, image_bytes: int) -> None:
    """Write a bag of a target that sways, reported 20 ms late, absent for a second now and then."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    types = message_types()
    picture = np.random.default_rng(0).integers(0, 256, image_bytes, dtype=np.uint8)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:

        def topic(name: str, kind: str) -> Any:
            return writer.add_connection(f"/mlkd/{name}", kind, typestore=types)

        array = "vision_msgs/msg/Detection2DArray"
        connections = {
            "image/compressed": topic("image/compressed", "sensor_msgs/msg/CompressedImage"),
            "ground_truth": topic("ground_truth", array),
            "detections": topic("detections", array),
        }
        for number in range(images):
            stamp = START + number / RATE
            left = 300 + 200 * np.sin(number / 20)
            seen = 0.0 if number % PERIOD_IMAGES < RATE else 1.0
            image = types.types["sensor_msgs/msg/CompressedImage"](
                header=_header(types, stamp), format="jpeg", data=picture
            )
            truth = _array(types, stamp, [(left + 15 * k, seen) for k in range(objects)])
            found = _array(types, stamp, [(left, 1.0)] if number % 7 else [])
            for name, message, delay in (
                ("image/compressed", image, 0.002),
                ("ground_truth", truth, 0.003),
                ("detections", found, 0.020),
            ):
                data = types.serialize_cdr(message, message.__msgtype__)
                writer.write(connections[name], round((stamp + delay) * 1e9), data)


def message_types() -> Any:
    """The types that rosbags knows, and those of vision_msgs from their definitions."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    folder = Path(__file__).parents[1] / "third_party" / "vision_msgs" / "msg"
    for path in sorted(folder.glob("*.msg")):
        text = path.read_text(encoding="utf-8")
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{path.stem}"))
    return store


def _header(types: Any, stamp: float) -> Any:
    nanoseconds = round(stamp * 1e9)
    time = types.types["builtin_interfaces/msg/Time"](
        sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9
    )
    return types.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def _array(types: Any, stamp: float, objects: list[tuple[float, float]]) -> Any:
    """Detections of (left, visible fraction), 60 x 40 pixels."""
    make = types.types
    header = _header(types, stamp)
    pose = make["geometry_msgs/msg/PoseWithCovariance"](
        pose=make["geometry_msgs/msg/Pose"](
            position=make["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
            orientation=make["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        covariance=np.zeros(36),
    )
    found = []
    for number, (left, seen) in enumerate(objects):
        centre = make["vision_msgs/msg/Pose2D"](
            position=make["vision_msgs/msg/Point2D"](x=float(left) + 30, y=320.0), theta=0.0
        )
        found.append(
            make["vision_msgs/msg/Detection2D"](
                header=header,
                results=[
                    make["vision_msgs/msg/ObjectHypothesisWithPose"](
                        hypothesis=make["vision_msgs/msg/ObjectHypothesis"](
                            class_id="car", score=float(seen)
                        ),
                        pose=pose,
                    )
                ],
                bbox=make["vision_msgs/msg/BoundingBox2D"](center=centre, size_x=60.0, size_y=40.0),
                id=f"car_{number}",
            )
        )
    return make["vision_msgs/msg/Detection2DArray"](header=header, detections=found)


if __name__ == "__main__":
    sys.exit(main())
