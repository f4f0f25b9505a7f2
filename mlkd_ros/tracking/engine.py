# SPDX-License-Identifier: Apache-2.0
"""Runtimes of a student behind one small interface: windows of a frame in, peaks out.

============== ============================= =====================================================
engine         where                         what it runs
============== ============================= =====================================================
onnxruntime    CPU                           the graphs exported into the checkpoint
openvino       CPU                           the same graphs; optional
tensorrt       CUDA                          the same graphs, ONNX Runtime's TensorRT provider
torch          CPU                           the network itself, as it was trained: the reference
torch          CUDA                          the fused network, crop to arg-max in one CUDA graph
============== ============================= =====================================================

``create_engine`` picks; PyTorch is imported only when its engine is chosen, so that a CPU drone
starts fast and small.
"""

from __future__ import annotations

import abc
import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.frame import BgrFrame, Frame
from .candidates import PEAKS, STUDENT_SHAPES, PeakFinder, StudentShape
from .checkpoint import STUDENTS, Checkpoint, CheckpointError, shipped_student
from .geometry import CropWindow, crop
from .settings import TrackerSettings

if TYPE_CHECKING:
    import torch

#: What an engine remembers of one or more targets: arrays (or device tensors) with a leading batch
#: axis.
Template = tuple[Any, ...]

#: A checkpoint's search graphs, in the order of ``StudentShape.search_sizes``.
SEARCH_GRAPHS = ("search", "search_near")

#: Most windows in one run of the TensorRT engine.
TENSORRT_BATCH = 16

ENGINES = ("auto", "onnxruntime", "openvino", "tensorrt", "torch")


class EngineError(RuntimeError):
    """An engine or device that cannot be had; the message says which and what to install or set."""


@dataclass(frozen=True)
class Region:
    """A place to look for a target.

    width, height: the target's last size in image pixels. deviation: of its place about the
    window's middle, in image pixels.
    """

    window: CropWindow
    template: Template
    width: float
    height: float
    deviation: float

    def prior(self) -> tuple[float, float, float]:
        """What the ranking takes: the same three in patch pixels."""
        scale = self.window.scale
        return self.width / scale, self.height / scale, self.deviation / scale


def shape_of(checkpoint: Checkpoint) -> StudentShape:
    """The sizes of a checkpoint's student. CheckpointError when its architecture is unknown."""
    if checkpoint.architecture not in STUDENT_SHAPES:
        known = ", ".join(sorted(STUDENT_SHAPES))
        raise CheckpointError(
            f"{checkpoint.path}: unknown architecture {checkpoint.architecture!r}: "
            f"known are {known}"
        )
    return STUDENT_SHAPES[checkpoint.architecture]


def _exported_sizes(checkpoint: Checkpoint, shape: StudentShape) -> tuple[int, ...]:
    """Sides of the search regions that a checkpoint was exported for: all there are when it was not
    exported, so that a student flies alike on every engine of a CPU.
    """
    return tuple(
        size
        for size, graph in zip(shape.search_sizes, SEARCH_GRAPHS, strict=False)
        if not checkpoint.graphs or graph in checkpoint.graphs
    )


class Engine(abc.ABC):
    """Runs one student. ``name`` says what and where, for logs and diagnostics; ``device`` is
    ``cpu`` or ``cuda:N``.
    """

    name: str
    device: str = "cpu"

    def __init__(self, shape: StudentShape, settings: TrackerSettings) -> None:
        self.shape = shape
        self.settings = settings
        #: Sides in patch pixels that the windows given to ``locate`` may have, the largest first.
        self.search_sizes: tuple[int, ...] = (shape.search_size,)

    @abc.abstractmethod
    def template(self, patches: np.ndarray) -> Template:
        """Template features of ``(N, T, T, 3)`` uint8 BGR patches."""

    @abc.abstractmethod
    def locate(self, frame: Frame, regions: Sequence[Region]) -> np.ndarray:
        """The peaks in each region of one frame, the best first, ``(N, PEAKS, 6)`` floats: centre
        x, y, width and height in patch pixels, logit and rank (``candidates.PeakFinder``).
        """

    def warm_up(self) -> None:
        """Run every path once, so that the first real frame is not the slowest."""
        side = self.shape.template_size
        template = self.template(np.zeros((1, side, side, 3), np.uint8))
        side = self.shape.search_size
        frame = BgrFrame(np.zeros((side, side, 3), np.uint8))
        for size in self.search_sizes:
            region = Region(CropWindow(0, 0, size, size), template, 40.0, 40.0, 20.0)
            for _ in range(3):
                self.locate(frame, [region])


class MapEngine(Engine):
    """An engine whose network makes maps on the CPU; the windows are cropped and the maps ranked
    here.
    """

    #: Windows run at once. On a CPU one at a time is the fastest: its maps stay in the cache.
    batch = 1
    #: Joins the parts of several templates along the batch axis.
    _concatenate: Any = staticmethod(np.concatenate)

    def __init__(self, shape: StudentShape, settings: TrackerSettings) -> None:
        super().__init__(shape, settings)
        self._finders = {
            size: PeakFinder(shape, settings.belief, size=size) for size in shape.search_sizes
        }
        self._patches: dict[int, np.ndarray] = {}
        self._joined: tuple[list[Template], Template] = ([], ())

    @abc.abstractmethod
    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps of ``(N, S, S, 3)`` uint8 BGR patches, ``S`` one of ``search_sizes``: classification
        logits ``(N, 2K, s, s)`` and regression ``(N, 4K, s, s)``, float32. ``template`` has
        ``N`` targets, or one that serves all patches.
        """

    def locate(self, frame: Frame, regions: Sequence[Region]) -> np.ndarray:
        """See ``Engine.locate``."""
        sizes = {region.window.size for region in regions}
        if len(sizes) == 1:
            return self._locate(frame, regions)
        found = np.empty((len(regions), PEAKS, 6), np.float32)
        for size in sorted(sizes):
            members = [i for i, region in enumerate(regions) if region.window.size == size]
            found[members] = self._locate(frame, [regions[i] for i in members])
        return found

    def _locate(self, frame: Frame, regions: Sequence[Region]) -> np.ndarray:
        """``locate`` for windows of one size."""
        maps = [
            self._maps(frame, regions[first : first + self.batch])
            for first in range(0, len(regions), self.batch)
        ]
        logits, regression = maps[0]
        if len(maps) > 1:
            logits, regression = (np.concatenate(parts) for parts in zip(*maps, strict=True))
        prior = np.array([region.prior() for region in regions], np.float32)
        found: np.ndarray = self._finders[regions[0].window.size].find(logits, regression, prior)
        return found

    def _maps(self, frame: Frame, regions: Sequence[Region]) -> tuple[np.ndarray, np.ndarray]:
        template = self._join([region.template for region in regions])
        return self.search(template, self._crops(frame, regions))

    def _crops(self, frame: Frame, regions: Sequence[Region]) -> np.ndarray:
        """The windows, of one size, as one batch, in memory that is kept from frame to frame."""
        count, size = len(regions), regions[0].window.size
        patches = self._patches.get(size)
        if patches is None or len(patches) < count:
            patches = self._patches[size] = np.empty((count, size, size, 3), np.uint8)
        for region, patch in zip(regions, patches, strict=False):
            crop(frame, region.window, patch)
        # The same array again and again, where it can be: it need not be bound anew.
        return patches if len(patches) == count else patches[:count]

    def _join(self, templates: list[Template]) -> Template:
        """The templates as one batch; the last one made is kept, for it rarely changes."""
        if len(templates) == 1:
            return templates[0]
        last, joined = self._joined
        if len(last) != len(templates) or any(
            a is not b for a, b in zip(last, templates, strict=True)
        ):
            joined = tuple(self._concatenate(parts) for parts in zip(*templates, strict=True))
            self._joined = templates, joined
        return joined


def _repeated(template: Template, count: int) -> Template:
    """A template of one target for ``count`` patches; others as they are."""
    return tuple(part if len(part) == count else part.repeat(count, 0) for part in template)


class OnnxRuntimeEngine(MapEngine):
    """The exported graphs on ONNX Runtime's CPU or TensorRT provider."""

    def __init__(self, checkpoint: Checkpoint, threads: int = 1, device: str = "cpu") -> None:
        import onnxruntime

        super().__init__(shape_of(checkpoint), checkpoint.settings)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning workers would burn the core that the camera and DDS need between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        where = f"cpu, {threads} thread{'s' * (threads > 1)}"
        if device == "cpu":
            # With all sizes known, maps stay in the blocked layout of the convolutions.
            options.add_free_dimension_override_by_name("batch", 1)
        cpu = ["CPUExecutionProvider"]
        # The template branch, run twice a second, stays on the CPU in any case.
        self._template = onnxruntime.InferenceSession(
            checkpoint.graphs["template"], options, providers=cpu
        )
        parts = [item.name for item in self._template.get_outputs()]
        self._searches: dict[int, _Search] = {}
        if device == "cpu":
            self.search_sizes = _exported_sizes(checkpoint, self.shape)
            for size, graph in zip(self.search_sizes, SEARCH_GRAPHS, strict=False):
                session = onnxruntime.InferenceSession(
                    checkpoint.graphs[graph], options, providers=cpu
                )
                self._searches[size] = _BoundSearch(session, parts, self.shape, size)
        else:
            # On a GPU a smaller window saves next to nothing: there is one size.
            where, self.batch = f"TensorRT on {device}", TENSORRT_BATCH
            session = _tensorrt_session(checkpoint.graphs["search"], options, device)
            self._searches[self.shape.search_size] = _Search(session, parts)
        self.name = f"onnxruntime {onnxruntime.__version__} {where}"

    def template(self, patches: np.ndarray) -> Template:
        """See ``Engine.template``."""
        made = [self._template.run(None, {"patch": patch[None]}) for patch in patches]
        return tuple(made[0] if len(made) == 1 else map(np.concatenate, zip(*made, strict=True)))

    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``MapEngine.search``."""
        inputs = (patches, *_repeated(template, len(patches)))
        return self._searches[patches.shape[1]].run(inputs)


class _Search:
    """The search graph of one size."""

    def __init__(self, session: Any, parts: Sequence[str]) -> None:
        """parts: names of the template's parts, of which a graph may take some only."""
        self._session = session
        self._names = [item.name for item in session.get_inputs()]
        self._taken = [["patch", *parts].index(name) for name in self._names]

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Classification and regression of windows and all parts of their templates."""
        taken = [inputs[i] for i in self._taken]
        classification, regression = self._session.run(
            None, dict(zip(self._names, taken, strict=True))
        )
        return classification, regression


class _BoundSearch(_Search):
    """A search graph that reads its inputs where they are and writes to arrays that are kept: for a
    network of 1 ms the ordinary call's conversions and allocations are a tenth.
    """

    def __init__(self, session: Any, parts: Sequence[str], shape: StudentShape, size: int) -> None:
        super().__init__(session, parts)
        self._binding = session.io_binding()
        self._bound: list[np.ndarray | None] = [None] * len(self._names)
        candidates, cells = max(1, len(shape.anchor_ratios)), shape.cells_of(size)
        self._outputs = [np.empty((1, n * candidates, cells, cells), np.float32) for n in (2, 4)]
        for name, array in zip(("classification", "regression"), self._outputs, strict=True):
            self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """See ``_Search.run``; the windows are run one after the other."""
        if len(inputs[0]) > 1:
            windows = [self.run(window) for window in zip(*map(_rows, inputs), strict=True)]
            classification, regression = map(np.concatenate, zip(*windows, strict=True))
            return classification, regression
        for i, taken in enumerate(self._taken):
            if self._bound[i] is not inputs[taken]:
                self._bind(i, np.ascontiguousarray(inputs[taken]))
        self._session.run_with_iobinding(self._binding)
        classification, regression = (array.copy() for array in self._outputs)
        return classification, regression

    def _bind(self, index: int, array: np.ndarray) -> None:
        self._binding.bind_input(
            self._names[index], "cpu", 0, array.dtype, array.shape, array.ctypes.data
        )
        # Kept, because the binding holds its address only.
        self._bound[index] = array


def _rows(array: np.ndarray) -> list[np.ndarray]:
    """The rows of a batch, each as a batch of one."""
    return [array[i : i + 1] for i in range(len(array))]


def _tensorrt_session(graph: bytes, options: Any, device: str) -> Any:
    """A session that runs on TensorRT. EngineError when it could not be started."""
    import onnxruntime

    inputs = onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"]
    ).get_inputs()
    session = onnxruntime.InferenceSession(
        graph, options, providers=_tensorrt_providers(device, inputs)
    )
    if "TensorrtExecutionProvider" not in session.get_providers():
        raise EngineError(
            f"engine tensorrt: ONNX Runtime {onnxruntime.__version__} could not start "
            "TensorRT; see that its libraries are on the loader's path"
        )
    return session


def _tensorrt_providers(device: str, inputs: Sequence[Any]) -> list[Any]:
    """TensorRT with half precision, one engine for 1 to ``TENSORRT_BATCH`` windows, cached because
    building it takes minutes.
    """
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    cache = os.path.join(home, "mlkd_ros", "tensorrt")
    os.makedirs(cache, exist_ok=True)
    index = int(device.partition(":")[2] or 0)
    settings = {
        "device_id": index,
        "trt_fp16_enable": True,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": cache,
    }
    for bound, batch in (("min", 1), ("opt", 1), ("max", TENSORRT_BATCH)):
        settings[f"trt_profile_{bound}_shapes"] = ",".join(
            f"{item.name}:" + "x".join(map(str, (batch, *item.shape[1:]))) for item in inputs
        )
    # Operators that TensorRT does not take fall to the next one.
    return [
        ("TensorrtExecutionProvider", settings),
        ("CUDAExecutionProvider", {"device_id": index}),
    ]


class OpenVinoEngine(MapEngine):
    """The exported graphs on OpenVINO's CPU plugin, compiled for a batch of one (or whatever size
    is asked for), because they are slower with the batch axis left open.
    """

    def __init__(self, checkpoint: Checkpoint, threads: int = 1) -> None:
        import openvino

        super().__init__(shape_of(checkpoint), checkpoint.settings)
        self._core = openvino.Core()
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Half precision, its default on some CPUs, is another student.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._graphs = checkpoint.graphs
        self.search_sizes = _exported_sizes(checkpoint, self.shape)
        outputs = self._core.read_model(self._graphs["template"]).outputs
        self._inputs = ["patch", *(item.any_name for item in outputs)]
        self._requests: dict[tuple[str, int], tuple[Any, list[int]]] = {}
        version = openvino.__version__.split("-")[0]
        self.name = f"openvino {version} cpu, {threads} thread{'s' * (threads > 1)}"

    def _run(self, graph: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A graph's outputs for a batch of windows and all parts of their templates."""
        key = graph, len(inputs[0])
        if key not in self._requests:
            self._requests[key] = self._compiled(*key)
        request, taken = self._requests[key]
        results = request.infer([inputs[i] for i in taken], share_inputs=True, share_outputs=False)
        return [results[i] for i in range(len(results))]

    def _compiled(self, graph: str, count: int) -> tuple[Any, list[int]]:
        """A graph for ``count`` windows, and which of the inputs it takes."""
        model = self._core.read_model(self._graphs[graph])
        model.reshape(
            {
                item.any_name: [count]
                + [side.get_length() for side in list(item.partial_shape)[1:]]
                for item in model.inputs
            }
        )
        compiled = self._core.compile_model(model, "CPU", self._settings)
        taken = [self._inputs.index(item.any_name) for item in model.inputs]
        return compiled.create_infer_request(), taken

    def template(self, patches: np.ndarray) -> Template:
        """See ``Engine.template``."""
        return tuple(self._run("template", [np.ascontiguousarray(patches)]))

    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``MapEngine.search``."""
        inputs = [patches, *_repeated(template, len(patches))]
        graph = SEARCH_GRAPHS[self.shape.search_sizes.index(patches.shape[1])]
        classification, regression = self._run(graph, inputs)
        return classification, regression


class TorchEngine(MapEngine):
    """The network itself in PyTorch on the CPU, as it was trained: the reference."""

    batch = 16

    def __init__(self, checkpoint: Checkpoint, threads: int = 1) -> None:
        try:
            import torch
        except ImportError:
            raise EngineError(
                "engine torch is not installed: pip install 'mlkd-ros[cuda]', or use onnxruntime"
            ) from None

        from .network import fuse_batch_norm

        super().__init__(shape_of(checkpoint), checkpoint.settings)
        self.search_sizes = _exported_sizes(checkpoint, self.shape)
        self._torch = torch
        self._concatenate = torch.cat
        torch.set_num_threads(threads)
        student: Any = fuse_batch_norm(load_student(checkpoint))
        self._student = student.to(memory_format=torch.channels_last)
        self.name = f"torch {torch.__version__} cpu"

    def _input(self, patches: np.ndarray) -> torch.Tensor:
        # A permuted NHWC tensor already is channels-last: no copy.
        return self._torch.from_numpy(patches).permute(0, 3, 1, 2).float()

    def template(self, patches: np.ndarray) -> Template:
        """See ``Engine.template``."""
        with self._torch.inference_mode():
            return tuple(self._student.template(self._input(patches)))

    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``MapEngine.search``."""
        count = len(patches)
        with self._torch.inference_mode():
            parts = (
                part.expand(count, *part.shape[1:]) if len(part) == 1 else part for part in template
            )
            output = self._student.search(self._input(patches), *parts)
            return output.classification.numpy(), output.regression.numpy()


def load_student(checkpoint: Checkpoint) -> torch.nn.Module:
    """The network of a checkpoint, in eval mode."""
    import torch

    from .network import build_student

    student = build_student(checkpoint.architecture)
    weights = {
        name: torch.from_numpy(np.array(value)) for name, value in checkpoint.weights.items()
    }
    student.load_state_dict(weights)
    return student.eval()


def _cuda_driver_present() -> bool:
    """Whether a CUDA driver is installed: a cheap look that avoids importing PyTorch where there is
    none.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_device(device: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` to ``cpu`` or ``cuda:N``. EngineError when it
    cannot be had.
    """
    if device == "cpu" or (device == "auto" and not _cuda_driver_present()):
        return "cpu"
    name, _, index = device.partition(":")
    if device != "auto" and (name != "cuda" or not (index.isdigit() or index == "")):
        raise EngineError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N")
    try:
        import torch
    except ImportError:
        if device == "auto":
            return "cpu"
        raise EngineError(
            f"device {device!r} needs PyTorch: pip install 'mlkd-ros[cuda]', or use cpu"
        ) from None

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = int(index or 0)
    if wanted < count:
        return f"cuda:{wanted}"
    if device == "auto":
        return "cpu"
    raise EngineError(
        f"device {device!r}: PyTorch {torch.__version__} sees {count} CUDA devices; use cpu or auto"
    )


def choose_student(
    student: str | os.PathLike[str] | None = None, device: str = "auto", engine: str = "auto"
) -> Path:
    """File of the student to fly: ``fast``, ``accurate``, a path, or ``auto`` (also empty or None).

    ``auto`` takes the accurate one where a GPU runs it, on which its cost does not show, and the
    fast one on a CPU. CheckpointError names a word that is neither; EngineError is
    ``resolve_device``'s.
    """
    name = os.fspath(student or "auto")
    if name == "auto":
        cpu_only = engine in ("onnxruntime", "openvino")
        name = "fast" if cpu_only or resolve_device(device) == "cpu" else "accurate"
    if name in STUDENTS:
        return shipped_student(name)
    path = Path(name)
    if not path.suffix and path.name == name and not path.exists():
        known = ", ".join(STUDENTS)
        raise CheckpointError(
            f"student {name!r} is unknown: use auto, {known}, or the path of a .safetensors file"
        )
    return path


def _require_graphs(checkpoint: Checkpoint, engine: str, package: str) -> None:
    """EngineError when an engine's graphs or its package are missing."""
    if not {"template", "search"} <= set(checkpoint.graphs):
        raise EngineError(
            f"{checkpoint.path}: holds no exported graphs, which engine {engine} needs; write them "
            "with `mlkd export --format checkpoint`"
        )
    if importlib.util.find_spec(package) is None:
        raise EngineError(f"engine {engine} is not installed: pip install {package}")


def _cpu_engine(checkpoint: Checkpoint, engine: str, threads: int) -> Engine:
    if engine == "openvino":
        _require_graphs(checkpoint, engine, "openvino")
        return OpenVinoEngine(checkpoint, threads)
    if engine != "torch":
        try:
            _require_graphs(checkpoint, "onnxruntime", "onnxruntime")
            return OnnxRuntimeEngine(checkpoint, threads)
        except EngineError:
            if engine != "auto":
                raise
    if "torch" not in sys.modules:
        # OpenMP workers that sleep, not spin, between frames.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return TorchEngine(checkpoint, threads)


def create_engine(
    checkpoint: Checkpoint, device: str = "auto", engine: str = "auto", threads: int = 1
) -> Engine:
    """The engine for ``device`` (auto, cpu, cuda, cuda:N) and ``engine`` (one of ``ENGINES``).

    EngineError names what is missing. ``auto`` never fails where PyTorch or ONNX Runtime is
    installed.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is unknown: use one of {', '.join(ENGINES)}")
    cpu_only = engine in ("onnxruntime", "openvino")
    where = "cpu" if cpu_only and device == "auto" else resolve_device(device)
    if cpu_only and where != "cpu":
        raise EngineError(f"engine {engine} runs on the CPU, not on {where}: set device to cpu")
    if engine == "tensorrt":
        return _tensorrt_engine(checkpoint, where)
    if where == "cpu":
        return _cpu_engine(checkpoint, engine, threads)
    from .engine_cuda import CudaEngine

    return CudaEngine(checkpoint, where)


def _tensorrt_engine(checkpoint: Checkpoint, device: str) -> Engine:
    if device == "cpu":
        raise EngineError("engine tensorrt needs a CUDA device: set engine to auto or onnxruntime")
    _require_graphs(checkpoint, "tensorrt", "onnxruntime")
    import onnxruntime

    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        raise EngineError(
            f"engine tensorrt: ONNX Runtime {onnxruntime.__version__} here was built without "
            "TensorRT: pip install onnxruntime-gpu in the place of onnxruntime"
        )
    return OnnxRuntimeEngine(checkpoint, device=device)
