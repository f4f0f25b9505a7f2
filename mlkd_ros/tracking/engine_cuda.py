# SPDX-License-Identifier: Apache-2.0
"""The CUDA engine: pixels of the search windows up, a few peaks a window down, once a frame.

A frame's way: the visible pixels of every window are packed behind a small header into pinned
memory, one copy takes them to the device, one CUDA graph crops, resizes, normalises, runs the
network and finds the peaks, one copy brings them back, and there is one
synchronisation. The same step runs eagerly on any device, the CPU included, which is how it is
tested; where a graph cannot be captured it runs eagerly on CUDA too.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..imaging.frame import Frame
from .candidates import PEAKS, PeakFinder, StudentShape
from .checkpoint import Checkpoint
from .engine import Engine, Region, Template, load_student, shape_of
from .fused import fuse
from .geometry import crop, visible
from .settings import BeliefSettings

_LOGGER = logging.getLogger(__name__)

#: Windows of one batch; more are run as several batches.
MAX_BATCH = 16
#: Room for one window's pixels. A larger window is resized on the CPU first, whose cost depends on
#: the patch's size only, while that of an upload grows with the window's.
_SLOT = 512 * 512 * 3
#: One window's header: offset of its pixels, side, the visible part's left, top, width and height
#: inside the window, fill colour (3), then the ranking's prior (3).
_FIELDS = 12
_HEADER = MAX_BATCH * _FIELDS * 8


class SearchStep(nn.Module):
    """Bytes of packed windows and their templates in, peaks out, all on one device."""

    def __init__(
        self, student: nn.Module, shape: StudentShape, belief: BeliefSettings, device: torch.device
    ) -> None:
        super().__init__()
        self._student: Any = student
        self._dtype = next(student.parameters()).dtype
        self._finder = PeakFinder(
            shape, belief, torch, lambda array: torch.from_numpy(array).to(device)
        )
        self._size = shape.search_size
        self._pixel = torch.arange(shape.search_size, device=device) + 0.5
        self._channel = torch.arange(3, device=device)

    def forward(self, packed: Tensor, count: int, template: Template) -> Tensor:
        """``(count, PEAKS, 6)`` float32, see ``Engine.locate``."""
        header = packed[:_HEADER].view(torch.float64)[: count * _FIELDS].reshape(count, _FIELDS)
        patches = self.patches(packed[_HEADER:], header)
        # Normalisation is part of the network, which takes values 0..255.
        images = patches.permute(0, 3, 1, 2).to(self._dtype)
        output = self._student.search(images, *template)
        peaks: Tensor = self._finder.find(
            output.classification.float(), output.regression.float(), header[:, 9:12].float()
        )
        return peaks

    def patches(self, pixels: Tensor, header: Tensor) -> Tensor:
        """``geometry.crop`` of each window: ``(N, S, S, 3)`` float32, whole numbers 0..255."""
        whole = header[:, :6].long()
        side = whole[:, 1]
        across = self._taps(side)
        # Row by row, then column by column; what lies outside the image is the fill colour.
        fill = header[:, 6:9].float()[:, None, None, :]
        rows = []
        for y, wy in across:
            left, right = (
                self._gather(pixels, whole, x, y, fill) * wx[:, None, :, None] for x, wx in across
            )
            rows.append((left + right) * wy[:, :, None, None])
        return (rows[0] + rows[1]).round()

    def _taps(self, side: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The two source pixels of each patch pixel along one axis, ``(N, S)``, and their weights:
        linear interpolation between pixel centres, ends repeated.
        """
        source = self._pixel * (side[:, None].float() / self._size) - 0.5
        low = source.floor()
        weight = source - low
        last = side[:, None] - 1
        first = torch.minimum(low.long().clamp(min=0), last)
        second = torch.minimum((low.long() + 1).clamp(min=0), last)
        return [(first, 1.0 - weight), (second, weight)]

    def _gather(self, pixels: Tensor, whole: Tensor, x: Tensor, y: Tensor, fill: Tensor) -> Tensor:
        """Pixels of the windows at columns ``x`` and rows ``y``, ``(N, S)`` each, as
        ``(N, S, S, 3)``.
        """
        offset, left, top = whole[:, 0, None], whole[:, 2, None], whole[:, 3, None]
        width, height = whole[:, 4, None], whole[:, 5, None]
        column, row = x - left, y - top
        inside_x, inside_y = (column >= 0) & (column < width), (row >= 0) & (row < height)
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        index = (offset + row * width * 3)[:, :, None] + (column * 3)[:, None, :]
        index = torch.where(inside, index, 0)[..., None] + self._channel
        values = torch.take(pixels, index).float()
        return torch.where(inside[..., None], values, fill)


def pack(frame: Frame, regions: Sequence[Region], size: int, buffer: np.ndarray) -> int:
    """Write header and pixels of up to ``MAX_BATCH`` windows into ``buffer`` (uint8); returns the
    bytes used.
    """
    header = buffer[:_HEADER].view(np.float64).reshape(MAX_BATCH, _FIELDS)
    used = _HEADER
    for fields, region in zip(header, regions, strict=False):
        window, fill = region.window, (128.0, 128.0, 128.0)
        part = visible(frame, window)
        if part is None:
            place: tuple[int, ...] = (window.side, 0, 0, 0, 0)
        else:
            x0, y0, x1, y1 = part
            width, height = x1 - x0, y1 - y0
            if width * height * 3 > _SLOT:
                place, width, height = (size, 0, 0, size, size), size, size
                pixels = crop(frame, window)
            else:
                place = (window.side, x0 - window.x, y0 - window.y, width, height)
                pixels = frame.window(x0, y0, x1, y1)
                if (width, height) != (window.side, window.side):
                    fill = tuple(np.rint(pixels.reshape(-1, 3).mean(0)).tolist())
            end = used + width * height * 3
            np.copyto(buffer[used:end].reshape(height, width, 3), pixels)
        fields[:] = (used - _HEADER, *place, *fill, *region.prior())
        used += place[3] * place[4] * 3
    return used


class CudaEngine(Engine):
    """The fused student on one CUDA device, in half precision and channels-last. It has one size of
    window: there a smaller one would save next to nothing.

    On ``cpu`` the same step runs eagerly in single precision: slow, for tests.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        super().__init__(shape_of(checkpoint), checkpoint.settings)
        self.device = device
        self._device = torch.device(device)
        self._on_cuda = self._device.type == "cuda"
        student: Any = fuse(load_student(checkpoint)).to(
            self._device, torch.float16 if self._on_cuda else torch.float32
        )
        self._student = student.to(memory_format=torch.channels_last)
        self._dtype = next(student.parameters()).dtype
        self._step = SearchStep(
            self._student, self.shape, self.settings.belief, self._device
        ).eval()
        size = _HEADER + MAX_BATCH * _SLOT
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=self._on_cuda)
        self._bytes = self._host.numpy()
        self._found = torch.zeros(MAX_BATCH, PEAKS, 6, pin_memory=self._on_cuda)
        self._packed = torch.zeros(size, dtype=torch.uint8, device=self._device)
        self._batches: dict[int, _Batch] = {}
        self._captures = self._on_cuda
        self.name = f"torch {torch.__version__} {device}"
        if self._on_cuda:
            self._stream = torch.cuda.Stream(self._device)
            self.name += f", {torch.cuda.get_device_name(self._device)}, half precision"

    def template(self, patches: np.ndarray) -> Template:
        """See ``Engine.template``."""
        if self._on_cuda:
            # Memory of a template given up may still be read by mixing, on the default stream.
            self._stream.wait_stream(torch.cuda.default_stream(self._device))
        with torch.inference_mode(), self._on_stream():
            images = torch.from_numpy(patches).to(self._device).permute(0, 3, 1, 2)
            template = tuple(self._student.template(images.to(self._dtype)))
            if self._on_cuda:
                # The tracker's memory mixes templates on the default stream.
                self._stream.synchronize()
            return template

    def locate(self, frame: Frame, regions: Sequence[Region]) -> np.ndarray:
        """See ``Engine.locate``."""
        parts = [
            self._locate(frame, regions[first : first + MAX_BATCH])
            for first in range(0, len(regions), MAX_BATCH)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _locate(self, frame: Frame, regions: Sequence[Region]) -> np.ndarray:
        count = len(regions)
        used = pack(frame, regions, self.shape.search_size, self._bytes)
        with torch.inference_mode(), self._on_stream():
            self._packed[:used].copy_(self._host[:used], non_blocking=True)
            batch = self._batches.get(count)
            if batch is None:
                batch = self._batches[count] = self._new_batch(count, regions[0].template)
            batch.load([region.template for region in regions])
            self._found[:count].copy_(batch.run(), non_blocking=True)
            if self._on_cuda:
                self._stream.synchronize()
        found: np.ndarray = self._found[:count].numpy().copy()
        return found

    def _on_stream(self) -> Any:
        return torch.cuda.stream(self._stream) if self._on_cuda else contextlib.nullcontext()

    def _new_batch(self, count: int, like: Template) -> _Batch:
        batch = _Batch(self._step, self._packed, count, like)
        if self._captures:
            try:
                with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                    batch.capture(self._stream)
            except RuntimeError as error:
                _LOGGER.warning("CUDA graph not captured, running without one: %s", error)
                self._captures = False
                self.name += ", no CUDA graph"
        return batch


class _Batch:
    """The step for one number of windows: its templates in place, and its graph if there is one."""

    def __init__(self, step: SearchStep, packed: Tensor, count: int, like: Template) -> None:
        self._step, self._packed, self._count = step, packed, count
        self._template = tuple(part.new_empty(count, *part.shape[1:]) for part in like)
        self._loaded: list[Template] = []
        self._graph: Any = None
        self._found: Tensor | None = None

    def load(self, templates: list[Template]) -> None:
        """Copy those templates into place that are not there already."""
        loaded = self._loaded or [()] * len(templates)
        changed = [i for i, template in enumerate(templates) if template is not loaded[i]]
        if changed and self._packed.is_cuda:
            # Mixed on the default stream, see ``memory``.
            current = torch.cuda.current_stream(self._packed.device)
            current.wait_stream(torch.cuda.default_stream(self._packed.device))
        for i in changed:
            for place, part in zip(self._template, templates[i], strict=True):
                place[i : i + 1].copy_(part)
        self._loaded = templates

    def capture(self, stream: Any) -> None:
        """Record the step as a CUDA graph, on its stream; a few eager runs come first, in which
        libraries choose their algorithms and constants are made.
        """
        for _ in range(3):
            self._run_step()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            found = self._run_step()
        self._graph, self._found = graph, found

    def run(self) -> Tensor:
        """The peaks ``(count, PEAKS, 6)`` of what is loaded; valid until the next run."""
        if self._graph is None:
            return self._run_step()
        self._graph.replay()
        assert self._found is not None
        return self._found

    def _run_step(self) -> Tensor:
        found: Tensor = self._step(self._packed, self._count, self._template)
        return found
