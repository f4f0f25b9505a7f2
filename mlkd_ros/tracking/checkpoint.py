# SPDX-License-Identifier: Apache-2.0
"""One file for one student: weights, exported graphs, settings and provenance, as safetensors.

Tensors named ``student.*`` are the network's state dict; ``onnx.template``, ``onnx.search`` and,
unless the file is an old one, ``onnx.search_near`` (uint8) are its exported graphs, so that a drone
without PyTorch's exporter flies the same student. What the graphs share with each other or with the
state dict is stored once, as ``shared.*`` or ``student.*`` (``graph_storage``); the header's
``initialisers`` says what goes where. Tensors that lose nothing by it are stored in half precision.
The header also holds the architecture, the tracker settings and the provenance as JSON. Nothing in
the file is ever executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .graph_storage import GraphError, join, split
from .settings import TrackerSettings

FORMAT = "mlkd-student/2"
#: Of before the graphs shared their weights.
_READABLE = (FORMAT, "mlkd-student/1")
_STUDENT, _GRAPH, _SHARED = "student.", "onnx.", "shared."


class CheckpointError(ValueError):
    """A file that is not a usable student checkpoint; the message names the file and what is
    wrong.
    """


@dataclass(frozen=True)
class Checkpoint:
    """A loaded student.

    architecture: a name of ``network.ARCHITECTURES``.
    weights: state dict as NumPy arrays, float32.
    graphs: ONNX bytes by name (``template``, ``search``, ``search_near``), see
        ``distillation.export``; empty when the student was not exported.
    provenance: how it was trained (start, data, command, date, figures), JSON types.
    """

    architecture: str
    settings: TrackerSettings
    weights: dict[str, np.ndarray]
    graphs: dict[str, bytes] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    path: str = ""


#: The students that ship with the package, by name.
STUDENTS = {"fast": "student.safetensors", "accurate": "accurate.safetensors"}


def shipped_student(name: str) -> Path:
    """File of a student that ships with the package. KeyError when there is none of that name."""
    return Path(str(resources.files("mlkd_ros") / "weights" / STUDENTS[name]))


def default_checkpoint() -> Path:
    """The student that flies on a CPU unless another one is asked for."""
    return shipped_student("fast")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex: what the model card names."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def load_checkpoint(path: str | Path | None = None) -> Checkpoint:
    """Read a checkpoint (the shipped one by default). CheckpointError names the file and what is
    wrong with it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path) if path is not None else default_checkpoint()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: _single(file.get_tensor(name)) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    if header.get("format") not in _READABLE:
        raise CheckpointError(
            f"{path}: format is {header.get('format')!r}, needed is {FORMAT!r} (see `mlkd select`)"
        )
    try:
        settings = TrackerSettings.from_dict(json.loads(header["settings"]))
        provenance = json.loads(header.get("provenance", "{}"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: unusable header: {error}") from error
    try:
        graphs = _joined(tensors, json.loads(header.get("initialisers", "{}")))
    except (KeyError, GraphError) as error:
        raise CheckpointError(f"{path}: its graphs are incomplete: {error}") from error
    return Checkpoint(
        architecture=header.get("architecture", ""),
        settings=settings,
        weights={k[len(_STUDENT) :]: v for k, v in tensors.items() if k.startswith(_STUDENT)},
        graphs=graphs,
        provenance=provenance,
        path=str(path),
    )


def _halved(values: np.ndarray) -> np.ndarray:
    """In half precision where every value stays the same."""
    if values.dtype != np.float32:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else values


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _split(
    graphs: dict[str, bytes], weights: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, str]]]:
    """The tensors to store of exported graphs beside ``weights``, and of each graph the tensor that
    each of its larger initialisers is.
    """

    def content(values: np.ndarray) -> str:
        return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()

    known = {content(value): name for name, value in weights.items()}
    stored: dict[str, np.ndarray] = {}
    places: dict[str, dict[str, str]] = {}
    for graph, data in graphs.items():
        skeleton, initialisers = split(data)
        stored[_GRAPH + graph] = np.frombuffer(skeleton, np.uint8)
        places[graph] = {}
        for name, values in initialisers.items():
            key = content(values)
            if key not in known:
                known[key] = f"{_SHARED}{len(known)}"
                stored[known[key]] = values
            places[graph][name] = known[key]
    return stored, places


def _joined(
    tensors: dict[str, np.ndarray], initialisers: dict[str, dict[str, str]]
) -> dict[str, bytes]:
    """The exported graphs among the tensors of a file. KeyError or GraphError when a part is
    missing.
    """
    graphs = {k[len(_GRAPH) :]: v.tobytes() for k, v in tensors.items() if k.startswith(_GRAPH)}
    for graph, places in initialisers.items():
        parts = {name: tensors[key] for name, key in places.items()}
        graphs[graph] = join(graphs[graph], parts)
    return graphs


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a checkpoint: to a temporary file first, then renamed, so that a reader never sees half
    of it.
    """
    from safetensors.numpy import save_file

    tensors = {_STUDENT + k: np.ascontiguousarray(v) for k, v in checkpoint.weights.items()}
    graphs, initialisers = _split(checkpoint.graphs, tensors)
    tensors = {name: _halved(value) for name, value in (tensors | graphs).items()}
    header = {
        "format": FORMAT,
        "initialisers": json.dumps(initialisers),
        "architecture": checkpoint.architecture,
        "settings": json.dumps(checkpoint.settings.to_dict()),
        "provenance": json.dumps(checkpoint.provenance),
    }
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, str(temporary), metadata=header)
    temporary.chmod(0o644)
    os.replace(temporary, path)
