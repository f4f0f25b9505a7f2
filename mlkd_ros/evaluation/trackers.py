# SPDX-License-Identifier: Apache-2.0
"""Trackers under evaluation: ours, OpenCV's, and plain loops around published networks.

A tracker is named on the command line as ``KIND`` or ``KIND=PATH[,PATH]``:

- ``ours`` or ``ours=STUDENT``: fast, accurate or a checkpoint;
- ``csrt``, ``kcf``, ``mil``: OpenCV's (the first two need an OpenCV with the contributed modules);
- ``opencv-nano=BACKBONE.onnx,HEAD.onnx``: OpenCV's TrackerNano (NanoTrack v1 and v2);
- ``nanotrack=BACKBONE.onnx,HEAD.onnx``: the same networks, and v3, in a plain loop on ONNX Runtime;
- ``vittrack=NETWORK.onnx``: OpenCV's TrackerVit (VitTrack);
- ``lightfc=TEMPLATE.onnx,SEARCH.onnx``: LightFC in its authors' plain loop, on ONNX Runtime;
- ``teacher=TRACKER[,TRACKER]@ENHANCER``: what distillation learns from, a checkpoint or
  ``nanotrackv3.pth`` in our own loop, with the enhancer in front of its patches only; several are
  an ensemble.

``@ENHANCER`` behind any of these puts a low-light enhancer in front of it, as published night
trackers have one: ``csrt@gamma``, ``kcf@zerodcepp.pth:12`` (see
``distillation.enhancer.load_enhancer``).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

Box = tuple[float, float, float, float]


class EvaluatedTracker(Protocol):
    """What evaluation needs. Images are uint8 BGR; boxes are ``x, y, w, h`` in their pixels; stamps
    are seconds, for those trackers that reckon with time.
    """

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target, forgetting the last one."""

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target in the next frame; None where it is reported lost."""


class OursTracker:
    """Our tracker, as the node runs it: a lost target is no box.

    confidence: published for the last image, NaN before.
    """

    confidence = math.nan

    def __init__(
        self, checkpoint: str | None = None, device: str = "auto", engine: str = "auto"
    ) -> None:
        from mlkd_ros.tracking import load_tracker

        self._tracker = load_tracker(checkpoint, device=device, engine=engine)

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target."""
        self._tracker.init(image, box, stamp)

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target."""
        result = self._tracker.update(image, stamp)
        self.confidence = result.confidence
        return result.box


class TeacherTracker:
    """The teacher in flight: enhanced patches, our loop, and always a box."""

    def __init__(self, tracker: str, enhancer: str) -> None:
        from mlkd_ros.distillation.selection import ALWAYS_THERE
        from mlkd_ros.distillation.teacher import teacher_tracker
        from mlkd_ros.tracking.settings import TrackerSettings

        settings = TrackerSettings(presence=ALWAYS_THERE)
        paths = [Path(part) for part in tracker.split(",") if part]
        if not paths:
            raise ValueError("teacher needs a tracker: teacher=TRACKER[,TRACKER][@ENHANCER]")
        self._tracker = teacher_tracker(paths, enhancer or "identity", settings=settings)

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target."""
        self._tracker.init(image, box, stamp)

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target."""
        return self._tracker.update(image, stamp).box


class EnhancedTracker:
    """A tracker that sees every frame through an enhancer of whole frames."""

    def __init__(
        self, tracker: EvaluatedTracker, enhance: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._tracker, self._enhance = tracker, enhance

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target."""
        self._tracker.init(self._enhance(image), box, stamp)

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target."""
        return self._tracker.update(self._enhance(image), stamp)


class OpenCvTracker:
    """A tracker of OpenCV. It takes whole pixels; where it reports failure there is no box.

    MIL draws at random, seeded by the time of day: it does not repeat itself.
    """

    def __init__(self, create: Callable[[], Any]) -> None:
        self._create = create
        self._tracker = create()

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target, with a fresh tracker."""
        self._tracker = self._create()
        left, top = round(box[0]), round(box[1])
        right, bottom = round(box[0] + box[2]), round(box[1] + box[3])
        self._tracker.init(image, (left, top, max(right - left, 1), max(bottom - top, 1)))

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target."""
        found, box = self._tracker.update(image)
        if not found:
            return None
        x, y, w, h = map(float, box)
        return x, y, w, h


class NanoTracker:
    """NanoTrack's networks in a plain loop, with the post-processing of the SiamRPN family.

    Template 127, search region 255, stride 16, raw BGR 0..255. Written for comparison: each step is
    the obvious one.
    """

    TEMPLATE, SEARCH, STRIDE = 127, 255, 16

    def __init__(
        self,
        backbone: Path,
        head: Path,
        window: float = 0.455,
        penalty: float = 0.138,
        rate: float = 0.348,
    ) -> None:
        """Load the networks; the defaults of the other parameters are those published for v3."""
        self._backbone = _onnx_session(backbone, any_size=True)
        self._head = _onnx_session(head)
        self._window, self._penalty, self._rate = window, penalty, rate

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target."""
        self._centre = np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])
        self._size = np.array([box[2], box[3]], np.float64)
        self._pad = image.mean(axis=(0, 1))
        self._template = self._features(self._cut(image, self._context(), self.TEMPLATE))

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target."""
        side = self._context() * self.SEARCH / self.TEMPLATE
        features = self._features(self._cut(image, side, self.SEARCH))
        inputs = [item.name for item in self._head.get_inputs()]
        logits, boxes = self._head.run(None, {inputs[0]: self._template, inputs[1]: features})
        self._follow(_softmax(logits[0]), boxes[0], self.SEARCH / side)
        height, width = image.shape[:2]
        self._centre = np.clip(self._centre, 0, [width, height])
        self._size = np.clip(self._size, 10, [width, height])
        x, y = self._centre - self._size / 2
        return float(x), float(y), float(self._size[0]), float(self._size[1])

    def _follow(self, scores: np.ndarray, distances: np.ndarray, scale: float) -> None:
        """Move to the best of the candidates ``scores (P, P)``, ``distances (4, P, P)``."""
        points = scores.shape[0]
        grid = (np.arange(points) - points // 2) * self.STRIDE
        x0, y0 = grid[None, :] - distances[0], grid[:, None] - distances[1]
        x1, y1 = grid[None, :] + distances[2], grid[:, None] + distances[3]
        w, h = x1 - x0, y1 - y0
        last = self._size * scale
        ratio = (last[0] / last[1]) / (w / h)
        growth = _padded(w, h) / _padded(last[0], last[1])
        change = np.maximum(ratio, 1 / ratio) * np.maximum(growth, 1 / growth)
        penalty = np.exp(-(change - 1) * self._penalty)
        hanning = np.hanning(points)
        rank = penalty * scores * (1 - self._window) + np.outer(hanning, hanning) * self._window
        best = np.unravel_index(rank.argmax(), rank.shape)
        self._centre = (
            self._centre + np.array([x0[best] + x1[best], y0[best] + y1[best]]) / 2 / scale
        )
        rate = penalty[best] * scores[best] * self._rate
        self._size = self._size * (1 - rate) + np.array([w[best], h[best]]) / scale * rate

    def _context(self) -> float:
        return float(_padded(self._size[0], self._size[1]))

    def _cut(self, image: np.ndarray, side: float, size: int) -> np.ndarray:
        """Cut a square of ``side`` pixels around the target, ``(size, size, 3)``."""
        step = side / size
        x, y = self._centre - side / 2 + step / 2 - 0.5
        return cv2.warpAffine(
            image,
            np.array([[step, 0, x], [0, step, y]]),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=self._pad.tolist(),
        )

    def _features(self, patch: np.ndarray) -> np.ndarray:
        data = np.ascontiguousarray(patch.transpose(2, 0, 1)[None], np.float32)
        (features,) = self._backbone.run(None, {self._backbone.get_inputs()[0].name: data})
        return np.asarray(features)


class LightFcTracker:
    """LightFC's networks in the plain loop of its authors (arXiv 2310.05392; OSTrack's loop).

    Template of twice the target's side, search region of four times, RGB / 255 with ImageNet's mean
    and deviation, padded with zeros; the best cell under a Hann window is the box, no more.
    """

    TEMPLATE, SEARCH, MARGIN = 128, 256, 10
    _MEAN, _DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))

    def __init__(self, template: Path, search: Path) -> None:
        self._graphs = _onnx_session(template), _onnx_session(search)
        for path, graph, kind in zip(
            (template, search), self._graphs, ("template", "search"), strict=True
        ):
            outputs = {item.name for item in graph.get_outputs()}
            expected = {
                "template": {"features"},
                "search": {"score_map", "size_map", "offset_map"},
            }[kind]
            if outputs != expected:
                raise ValueError(
                    f"{path}: outputs are {', '.join(sorted(outputs))}; LightFC's {kind} graph has "
                    f"{', '.join(sorted(expected))}"
                )

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target."""
        self._box = np.array(box, np.float64)
        patch = self._cut(image, self._side(2), self.TEMPLATE)
        (self._template,) = self._graphs[0].run(["features"], {"image": patch})

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Find the target."""
        side = self._side(4)
        patch = self._cut(image, side, self.SEARCH)
        score, size, offset = self._graphs[1].run(
            ["score_map", "size_map", "offset_map"], {"template": self._template, "image": patch}
        )
        cells = score.shape[-1]
        hanning = np.hanning(cells + 2)[1:-1]
        row, column = np.unravel_index(
            (score[0, 0] * np.outer(hanning, hanning)).argmax(), (cells, cells)
        )
        width, height = size[0, :, row, column] * side
        centre = (np.array([column, row]) + offset[0, :, row, column]) / cells * side
        x, y = self._box[:2] + self._box[2:] / 2 - side / 2 + centre
        self._box = self._clipped((x - width / 2, y - height / 2, width, height), image)
        x, y, width, height = self._box.tolist()
        return x, y, width, height

    def _clipped(self, box: Sequence[float], image: np.ndarray) -> np.ndarray:
        """The box's part inside the image, at least ``MARGIN`` pixels wide and high."""
        rows, columns = image.shape[:2]
        x, y, width, height = box
        x0, y0 = (min(max(v, 0.0), end - self.MARGIN) for v, end in ((x, columns), (y, rows)))
        x1, y1 = (
            min(max(v, self.MARGIN), end) for v, end in ((x + width, columns), (y + height, rows))
        )
        return np.array([x0, y0, max(x1 - x0, self.MARGIN), max(y1 - y0, self.MARGIN)])

    def _side(self, factor: float) -> int:
        return max(int(np.ceil(factor * np.sqrt(self._box[2] * self._box[3]))), 1)

    def _cut(self, image: np.ndarray, side: int, size: int) -> np.ndarray:
        """Cut a square of ``side`` pixels around the target, as the networks take it."""
        x0, y0 = (int(round(v)) for v in self._box[:2] + self._box[2:] / 2 - side / 2)
        patch = np.zeros((side, side, 3), np.uint8)
        inside = image[max(y0, 0) : max(y0 + side, 0), max(x0, 0) : max(x0 + side, 0)]
        top, left = max(-y0, 0), max(-x0, 0)
        patch[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        rgb = cv2.resize(patch, (size, size))[..., ::-1] / 255.0
        normal = (rgb - self._MEAN) / self._DEVIATION
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], np.float32)


def _padded(w: np.ndarray | float, h: np.ndarray | float) -> Any:
    """Side of the square with half the mean side of context around."""
    pad = (w + h) / 2
    return np.sqrt((w + pad) * (h + pad))


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Foreground share of ``(2, P, P)`` logits."""
    share: np.ndarray = 1 / (1 + np.exp(logits[0].astype(np.float64) - logits[1]))
    return share


def _onnx_session(path: Path, any_size: bool = False) -> Any:
    """Open an ONNX network on one thread.

    ``any_size`` drops the fixed height and width of its input: published backbones state 255 though
    they are fully convolutional, and the template is smaller.
    """
    import onnxruntime

    model: Any = str(path)
    if any_size:
        try:
            import onnx
        except ImportError:
            raise ImportError("the plain NanoTrack loop needs onnx: pip install onnx") from None
        graph = onnx.load(str(path))
        for value in (*graph.graph.input, *graph.graph.output):
            for axis in (2, 3):
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
        del graph.graph.value_info[:]
        model = graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _opencv(name: str) -> Callable[..., Any]:
    """Find OpenCV's constructor of a tracker, or say what is missing."""
    create: Callable[..., Any] | None = getattr(cv2, f"Tracker{name}_create", None)
    if create is None:
        raise ImportError(
            f"OpenCV {cv2.__version__} has no Tracker{name}: "
            "install opencv-contrib-python-headless in an environment of its own"
        )
    return create


def _opencv_nano(backbone: Path, head: Path) -> Callable[[], Any]:
    create = _opencv("Nano")
    parameters: Any = getattr(cv2, "TrackerNano_Params")()  # noqa: B009  # not in OpenCV's stubs
    parameters.backbone, parameters.neckhead = str(backbone), str(head)
    return partial(create, parameters)


def _opencv_vit(network: Path) -> Callable[[], Any]:
    create = _opencv("Vit")
    parameters: Any = getattr(cv2, "TrackerVit_Params")()  # noqa: B009  # not in OpenCV's stubs
    parameters.net = str(network)
    return partial(create, parameters)


#: The networks of a published tracker, in the order they are named.
_NETWORKS = {
    "opencv-nano": ("BACKBONE", "HEAD"),
    "nanotrack": ("BACKBONE", "HEAD"),
    "lightfc": ("TEMPLATE", "SEARCH"),
    "vittrack": ("NETWORK",),
}


def _network_paths(kind: str, argument: str) -> list[Path]:
    paths = [Path(part) for part in argument.split(",") if part]
    wanted = _NETWORKS[kind]
    if len(paths) != len(wanted):
        count = "two networks" if len(wanted) == 2 else "one network"
        form = ",".join(f"{name}.onnx" for name in wanted)
        raise ValueError(f"{kind} needs {count}: {kind}={form}")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such network file, named for tracker {kind}")
    return paths


KINDS = ("ours", "csrt", "kcf", "mil", *_NETWORKS, "teacher")


def tracker_label(specification: str) -> str:
    """Name of a tracker's result folder: its kind, and the stem of its first file if it has one
    (of all files of a teacher).
    """
    specification, enhancer = _split(specification)
    kind, _, argument = specification.partition("=")
    stems = [Path(part).stem for part in argument.split(",")]
    stem = "+".join(stems) if kind == "teacher" else re.sub("_(backbone|template)$", "", stems[0])
    label = f"{kind}-{stem}" if stem else kind
    return f"{label}@{_enhancer_label(enhancer)}" if enhancer else label


def _split(specification: str) -> tuple[str, str]:
    """The tracker's part of a specification, and the enhancer's, which may be empty."""
    tracker, _, enhancer = specification.partition("@")
    return tracker, enhancer


def _enhancer_label(enhancer: str) -> str:
    from mlkd_ros.distillation.enhancer import enhancer_file

    path, downscale = enhancer_file(enhancer)
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        return enhancer.replace(":", "-")
    return path.stem if downscale is None else f"{path.stem}-{downscale}"


def tracker_identity(specification: str) -> str:
    """Hash of the kind and of the files that ``KIND=PATHS`` names (for ours, of its checkpoint)."""
    tracker, enhancer = _split(specification)
    kind, _, argument = tracker.partition("=")
    if kind not in KINDS:
        raise ValueError(f"tracker must be one of {', '.join(KINDS)}, not {kind!r}")
    files = [Path(part) for part in argument.split(",") if part]
    if kind == "ours":
        from mlkd_ros.tracking import choose_student

        files = [choose_student(argument)]
    digest = hashlib.sha256(kind.encode())
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path}: no such file, named for tracker {kind}")
        digest.update(path.read_bytes())
    if enhancer:
        from mlkd_ros.distillation.enhancer import enhancer_file

        digest.update(enhancer.encode())
        path, _ = enhancer_file(enhancer)
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def create_tracker(specification: str) -> EvaluatedTracker:
    """Make the tracker that ``KIND`` or ``KIND=PATHS`` names, with ``@ENHANCER`` behind one.

    Raises:
        ValueError: The kind is unknown, or its files are missing.
        ImportError: What the tracker runs on is not installed.
    """
    plain, enhancer = _split(specification)
    kind, _, argument = plain.partition("=")
    if kind == "teacher":
        return TeacherTracker(argument, enhancer)
    if enhancer:
        return EnhancedTracker(create_tracker(plain), _create_enhancer(enhancer))
    if kind == "ours":
        return OursTracker(argument or None)
    if kind in _NETWORKS:
        make: dict[str, Callable[..., EvaluatedTracker]] = {
            "opencv-nano": lambda *paths: OpenCvTracker(_opencv_nano(*paths)),
            "vittrack": lambda path: OpenCvTracker(_opencv_vit(path)),
            "nanotrack": NanoTracker,
            "lightfc": LightFcTracker,
        }
        return make[kind](*_network_paths(kind, argument))
    if kind in ("csrt", "kcf", "mil"):
        return OpenCvTracker(_opencv(kind.upper()))
    raise ValueError(f"tracker must be one of {', '.join(KINDS)}, not {kind!r}")


def _create_enhancer(specification: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 BGR to the same; a power curve as the look-up table it is."""
    from mlkd_ros.distillation.enhancer import GammaEnhancer, enhance_image, load_enhancer

    enhancer = load_enhancer(specification)
    if isinstance(enhancer, GammaEnhancer):
        levels = np.arange(256) / 255
        table = np.round(255 * levels**enhancer.gamma).astype(np.uint8)
        return lambda image: cv2.LUT(image, table)
    return lambda image: enhance_image(enhancer, image)
