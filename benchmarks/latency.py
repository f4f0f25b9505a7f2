# SPDX-License-Identifier: Apache-2.0
"""How long one image takes in the flying part, stage by stage, and what its peers take.

    python benchmarks/latency.py                       # everything there is, some minutes
    python benchmarks/latency.py --quick               # the same in short, for development
    python benchmarks/latency.py --only sizes --csrt --nano backbone.onnx,head.onnx

Cases of one table run in turns of ten images, so that whatever else the machine does meets all of
them alike. Times are wall-clock milliseconds. The target's search region has the same size in every
image size, as when a camera with more pixels sees a larger scene.

Leave the machine alone meanwhile; every table says the load around it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from scene import TARGET, Scene, started, update

from mlkd_ros.imaging.compressed import CompressedFrame
from mlkd_ros.imaging.encode import encode
from mlkd_ros.imaging.encodings import ENCODINGS, frame_over
from mlkd_ros.imaging.frame import Frame
from mlkd_ros.tracking import EngineError, Tracker, TrackState, load_tracker, update_together
from mlkd_ros.tracking.engine import MapEngine, Region
from mlkd_ros.tracking.geometry import CropWindow, crop
from mlkd_ros.tracking.global_motion import GlobalMotion
from mlkd_ros.tracking.peaks import Peak

SIZES = ((640, 480), (1280, 720), (1920, 1080), (3840, 2160))
TARGETS = (1, 2, 4, 8, 16)
TABLES = ("sizes", "peers", "busy", "encodings", "stages", "targets", "engines", "lost", "enhancer")
#: Seconds between two images, and images of one case in a row.
PAUSE, TURN = 0.0005, 10
#: A step is one image of one case; it returns nothing that matters.
Step = Callable[[int], object]
LARGE = (220, 140)
#: As many as are followed at most.
LOOKALIKES = 4


def in_doubt(tracker: Tracker) -> Tracker:
    """One to which each image speaks against the target, a little: it looks at the near window,
    then at the whole region, and watches the camera's motion in each image. It is never lost.
    """
    settings = tracker.settings
    belief = replace(settings.belief, evidence=(-1.0, 0.0, 0.0, 0.0, 0.0))
    presence = replace(settings.presence, lost_below=0.0)
    return Tracker(tracker._engine, replace(settings, belief=belief, presence=presence))


def beside_lookalikes(tracker: Tracker, scene: Scene) -> list[Tracker]:
    """One whose target has four lookalikes beside it, and follows all of them."""
    (one,) = started(in_doubt(tracker), scene)
    track, (x, y, w, h) = one._track, scene.boxes(0)[0]
    assert track is not None
    away, at = 0.9 * max(w, h), (x + w / 2, y + h / 2)
    peaks = [Peak(at[0] + dx, at[1] + dy, w, h, 8.0, 2.0, 0.9)
             for dx, dy in ((away, 0.0), (-away, 0.0), (0.0, away), (0.0, -away))]  # fmt: skip
    track.lookalikes.begin(peaks, Peak(*at, w, h, 12.0, 4.0, 0.99))
    return [one]


def _beside_step(trackers: list[Tracker], scene: Scene, step: int) -> None:
    track = trackers[0]._track
    assert track is not None
    for one in track.lookalikes.tracks:
        one.unseen = 0.0  # as if it had been seen in the image before
    update(trackers, scene.image, step)
    if len(track.lookalikes.tracks) != LOOKALIKES:
        raise RuntimeError(f"{len(track.lookalikes.tracks)} lookalikes in step {step}")


def measure(
    title: str, cases: dict[str, Step], count: int, rest: Callable[[], object] = lambda: None
) -> None:
    """Run the cases in turns and print a table, with each median against the first one's. ``rest``
    is what happens between images, and is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    load = os.getloadavg()[0]
    warm_up = max(3, count // 10)
    for first in range(0, count + warm_up, TURN):
        for name, case in cases.items():
            for step in range(first, min(first + TURN, count + warm_up)):
                begin = time.perf_counter()
                case(step)
                if step >= warm_up:
                    times[name].append((time.perf_counter() - begin) * 1e3)
                time.sleep(PAUSE)
                rest()
    load_after = os.getloadavg()[0]
    print(f"\n### {title} (load {load:.1f} before, {load_after:.1f} after)\n")
    print("| case | median ms | p95 | p99 | best | against the first |")
    print("| --- | --- | --- | --- | --- | --- |")
    reference = float(np.median(times[next(iter(cases))]))
    for name, values in times.items():
        median, p95, p99 = np.percentile(values, (50, 95, 99))
        print(
            f"| {name} | {median:.2f} | {p95:.2f} | {p99:.2f} | {min(values):.2f} "
            f"| {median / reference:.2f} |"
        )


@contextlib.contextmanager
def busy_core(core: int | None) -> Iterator[None]:
    """Keep one other core at full load."""
    process = multiprocessing.Process(target=_spin, args=(core,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _spin(core: int | None) -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if core is not None:
        os.sched_setaffinity(0, {core})
    while True:
        pass


def peers(arguments: argparse.Namespace) -> dict[str, Step]:
    """OpenCV's trackers at 1280x720."""
    from mlkd_ros.evaluation.trackers import create_tracker

    specifications = ["csrt"] * arguments.csrt
    if arguments.nano:
        specifications += [f"opencv-nano={arguments.nano}", f"nanotrack={arguments.nano}"]
    names = {"csrt": "CSRT", "opencv-nano": "TrackerNano", "nanotrack": "NanoTrack, plain loop"}
    scene = Scene((1280, 720))
    cases: dict[str, Step] = {}
    for specification in specifications:
        tracker = create_tracker(specification)
        tracker.init(scene.images[0], scene.boxes(0)[0])
        kind = specification.partition("=")[0]
        label = names[kind] if kind == "nanotrack" else f"OpenCV {cv2.__version__} {names[kind]}"
        cases[label] = partial(_peer_step, tracker, scene)
    return cases


def _peer_step(tracker: object, scene: Scene, step: int) -> None:
    tracker.update(scene.image(step))  # type: ignore[attr-defined]


def table_sizes(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """Whole ``update`` by image size."""
    cases: dict[str, Step] = {}
    for size in sorted(SIZES, key=lambda size: size != (1280, 720)):
        scene = Scene(size)
        cases[f"{size[0]}x{size[1]}"] = partial(update, started(tracker, scene), scene.image)
    measure("Whole update, bgr8, one target", cases, arguments.count)


def table_peers(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """The same against the peers."""
    scene = Scene((1280, 720))
    ours = {
        "ours": partial(update, started(tracker, scene), scene.image),
        "ours, in doubt": partial(update, started(in_doubt(tracker), scene), scene.image),
    }
    measure("Peers at 1280x720", ours | peers(arguments), arguments.count // 4)


def table_busy(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """The same with another core kept busy, and with templates renewed between images as the node
    does it.
    """
    scene = Scene((1280, 720))
    plain, settled = started(tracker, scene), started(tracker, scene)
    cases: dict[str, Step] = {
        "1280x720": partial(update, plain, scene.image),
        "templates renewed between images": partial(update, settled, scene.image),
    }
    ours, cores = os.sched_getaffinity(0), set(range(os.cpu_count() or 1))
    others = sorted(cores - ours) or sorted(ours)[:-1]
    with busy_core(others[0] if others else None):
        title = "Whole update, one other core busy"
        measure(title, cases, 2 * arguments.count, settled[0].settle)


def table_encodings(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """Decoding from the camera's bytes and ``update``, by encoding."""
    scene, cases = Scene((1280, 720)), {}
    for name in ENCODINGS:
        encoded = [encode(image, name) for image in scene.images]
        frames = partial(_decoded, encoded, name, scene)
        trackers = [tracker.sibling()]
        trackers[0].init(frames(0), scene.boxes(0)[0])
        cases[name] = partial(update, trackers, frames)
    for name, target in (("JPEG", TARGET), ("JPEG, a large target", LARGE)):
        scene = Scene((1280, 720), target=target)
        pictures = partial(_picture, _jpegs(scene), scene)
        trackers = [tracker.sibling()]
        trackers[0].init(pictures(0), scene.boxes(0)[0])
        cases[name] = partial(update, trackers, pictures)
    measure("From bytes to box at 1280x720, by encoding", cases, arguments.count)


def _jpegs(scene: Scene) -> list[bytes]:
    return [cv2.imencode(".jpg", image)[1].tobytes() for image in scene.images]


def _picture(files: list[bytes], scene: Scene, step: int) -> Frame:
    return CompressedFrame(files[scene.index(step)], "jpeg")


def _decoded(encoded: list[np.ndarray], name: str, scene: Scene, step: int) -> Frame:
    rows = encoded[scene.index(step)]
    return frame_over(rows.data.cast("B"), 1280, 720, rows.shape[1], name)


def table_stages(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """The parts of one image's way; with ROS installed also its messages."""
    engine, scene = tracker._engine, Scene((1280, 720))
    if not isinstance(engine, MapEngine):
        print(f"\nStages: {engine.name} runs crop to arg-max as one step, see the other tables")
        return
    settings, box = tracker.settings, scene.boxes(0)[0]
    encoded = [encode(image, "bgr8") for image in scene.images]
    frames = [_decoded(encoded, "bgr8", scene, step) for step in range(4)]
    side = engine.shape.context_side(box[2], box[3], settings.context_amount)
    cx, cy = box[0] + box[2] / 2, box[1] + box[3] / 2
    exemplar = CropWindow.around(cx, cy, side, engine.shape.template_size)
    template = engine.template(crop(frames[0], exemplar)[None])
    result = update_together(started(tracker, scene), scene.images[1])[0]
    camera, period = GlobalMotion(), 1 / 30
    cases: dict[str, Step] = {
        "whole update": partial(update, started(tracker, scene), scene.image),
        "whole update, in doubt": partial(update, started(in_doubt(tracker), scene), scene.image),
        "decode (a view of the message)": partial(_decoded, encoded, "bgr8", scene),
        "whole update, in doubt, beside four lookalikes": partial(
            _beside_step, beside_lookalikes(tracker, scene), scene
        ),
        "camera's motion, in doubt": lambda step: camera.look(frames[step % 4], period, True),
        "camera's motion with turn and zoom": lambda step: camera.look(
            frames[step % 4], period, True, turning=True
        ),
    }
    for size in reversed(engine.search_sizes):
        window = CropWindow.around(cx, cy, side * size / exemplar.size, size)
        region = Region(window, template, box[2], box[3], box[3])
        cases |= _stages_of(engine, frames, region, f", {size}x{size}")
    measure(f"Stages, {engine.name}", cases | _publishing(result), arguments.count)


def _stages_of(
    engine: MapEngine, frames: list[Frame], region: Region, note: str
) -> dict[str, Step]:
    """Stages of one window."""
    patches = engine._crops(frames[0], [region]).copy()
    maps = [part.copy() for part in engine.search(region.template, patches)]
    prior = np.array([region.prior()], np.float32)
    finder = engine._finders[region.window.size]
    return {
        f"crop and resize{note}": lambda step: engine._crops(frames[step % 4], [region]),
        f"network{note}": lambda step: engine.search(region.template, patches),
        f"find peaks{note}": lambda step: finder.find(*maps, prior),
    }


def _publishing(result: object) -> dict[str, Step]:
    """Making and publishing detections and status of one target."""
    try:
        import rclpy
    except ImportError:
        return {}
    from std_msgs.msg import Header
    from vision_msgs.msg import Detection2DArray

    from mlkd_ros.msg import TrackStatus
    from mlkd_ros.node import messages
    from mlkd_ros.session.targets import TargetReport

    rclpy.init()
    node = rclpy.create_node("latency_benchmark")
    detections = node.create_publisher(Detection2DArray, "latency_benchmark/detections", 10)
    status = node.create_publisher(TrackStatus, "latency_benchmark/status", 10)
    report = TargetReport("1", result, 0.003)  # type: ignore[arg-type]
    counts = messages.Counts(received=1, processed=1, dropped=0)

    def publish(step: int) -> None:
        header = Header(stamp=messages.time_message(step), frame_id="camera")
        detections.publish(messages.detections(header, [report], "target"))
        status.publish(messages.status(header, report, (1280, 720), counts, 0.01))

    return {"publish": publish}


def table_targets(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """Several targets in one image."""
    cases = {}
    for count in TARGETS:
        scene = Scene((1920, 1080), count)
        cases[f"{count} targets"] = partial(update, started(tracker, scene), scene.image)
    measure("Whole update at 1920x1080, by targets", cases, max(5, arguments.count // 4))


def table_engines(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """Every engine that is installed, with 1 and 2 threads."""
    scene = Scene((1280, 720))
    cases: dict[str, Step] = {}
    choices = [("cpu", name) for name in ("onnxruntime", "openvino", "torch")]
    choices += [("cuda", name) for name in ("torch", "tensorrt")]
    for device, name in choices:
        for threads in (1, 2) if device == "cpu" and name != "torch" else (1,):
            try:
                other = load_tracker(arguments.checkpoint, device, name, threads)
            except EngineError as error:
                print(f"\n(no {name} on {device}: {error})")
                break
            trackers = started(other, scene)
            cases[other.engine_name] = partial(update, trackers, scene.image)
    measure("Whole update at 1280x720, by engine", cases, arguments.count)


def table_lost(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """An image while the target is lost: the search on the whole image, within its budget."""
    scene = Scene((1280, 720))
    cases: dict[str, Step] = {}
    for budget in (None, 0.02, 0.005):
        other = load_tracker(arguments.checkpoint, arguments.device, arguments.engine)
        if budget is not None:
            other.search_budget = budget
        other.init(scene.images[0], scene.boxes(0)[0])
        while other.update(scene.without[0]).state != TrackState.LOST:
            pass
        name = "no budget" if budget is None else f"budget {budget * 1e3:.0f} ms"
        cases[f"lost, {name}"] = partial(_lost_step, other, scene)
    measure("Whole update while lost, 1280x720", cases, arguments.count)


def _lost_step(tracker: Tracker, scene: Scene, step: int) -> None:
    # One instant again and again: it never gets late enough to give up.
    assert tracker._track is not None
    tracker._track.existence.lost_for = 0.0
    if tracker.update(scene.without[scene.index(step)]).state != TrackState.LOST:
        raise RuntimeError("found a target where there is none")


def table_enhancer(tracker: Tracker, arguments: argparse.Namespace) -> None:
    """The paper's comparison: the student against an enhancer and the same student."""
    if not arguments.enhancer:
        print("\n(no --enhancer given: its cost is not measured)")
        return
    import torch

    from mlkd_ros.distillation.enhancer import enhance_image, load_enhancer

    torch.set_num_threads(1)
    enhancer = load_enhancer(arguments.enhancer)
    scene = Scene((1280, 720))
    trackers = [started(tracker, scene) for _ in range(3)]
    whole = partial(update, trackers[0], scene.image)
    size = tracker.shape.search_size

    def crop_first(step: int) -> None:
        enhance_image(enhancer, np.ascontiguousarray(scene.image(step)[:size, :size]))
        update(trackers[1], scene.image, step)

    def image_first(step: int) -> None:
        enhance_image(enhancer, scene.image(step))
        update(trackers[2], scene.image, step)

    cases: dict[str, Step] = {
        "student": whole,
        f"enhancer at {size}x{size}, then student": crop_first,
        "enhancer at 1280x720, then student": image_first,
    }
    measure("Cost of an enhancer", cases, max(3, arguments.count // 40))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="student (default: the shipped one)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=400, help="images of each case")
    parser.add_argument("--quick", action="store_true", help="40 images of each case")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE")
    parser.add_argument("--csrt", action="store_true", help="with OpenCV's CSRT (contrib)")
    parser.add_argument("--nano", help="BACKBONE.onnx,HEAD.onnx of NanoTrack v2")
    parser.add_argument("--enhancer", help="as for `mlkd evaluate`: gamma, or a file")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.count = 40
    return arguments


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def main(argv: list[str] | None = None) -> None:
    """Run the tables asked for."""
    arguments = parse(argv)
    cv2.setNumThreads(arguments.threads)
    tracker = load_tracker(
        arguments.checkpoint, arguments.device, arguments.engine, arguments.threads
    )
    print(f"{_processor()}, {os.cpu_count()} cores; {tracker.engine_name}")
    for name in arguments.only:
        globals()[f"table_{name}"](tracker, arguments)


if __name__ == "__main__":
    main()
