# SPDX-License-Identifier: Apache-2.0
"""Weights of exported graphs, stored once: a student's three graphs share nearly all of them.

A graph is taken apart into a skeleton, the ONNX file without the bytes of its larger initialisers,
and these initialisers; joined again it is the same file, byte for byte. ONNX files are protobuf
messages (protobuf.dev/programming-guides/encoding); the three messages on the way to an initialiser
are walked here, because a drone has ONNX Runtime but not the package ``onnx``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

#: Initialisers of fewer bytes stay in the skeleton.
_LEAST = 256
#: Field numbers of ModelProto, GraphProto and TensorProto (onnx.proto).
_MODEL_GRAPH, _GRAPH_INITIALISER = 7, 5
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 2, 8, 9
_FLOAT = 1  # TensorProto.DataType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class GraphError(ValueError):
    """Bytes that are no ONNX graph, or a skeleton whose initialisers are missing."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number at ``at``, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """Number, value and encoded form of each field of a message."""
    at = 0
    while at < len(data):
        begin = at
        key, at = _varint(data, at)
        value: bytes | int = b""
        if key & 7 == _VARINT:
            value, at = _varint(data, at)
        elif key & 7 == _BYTES:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif key & 7 in (_FIXED32, _FIXED64):
            at += 4 if key & 7 == _FIXED32 else 8
        else:
            raise GraphError(f"wire type {key & 7} at byte {begin}")
        if at > len(data):
            raise GraphError(f"the field at byte {begin} does not end")
        yield key >> 3, value, data[begin:at]


def _rebuilt(data: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """A message with ``change`` made to the fields of ``number``, which are messages."""
    try:
        parts = [
            _field(number, change(value))
            if field == number and isinstance(value, bytes)
            else encoded
            for field, value, encoded in _fields(data)
        ]
    except IndexError:
        raise GraphError("it ends within a number") from None
    return b"".join(parts)


def _in_initialisers(graph: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return _rebuilt(graph, _MODEL_GRAPH, lambda inner: _rebuilt(inner, _GRAPH_INITIALISER, change))


def _name(tensor: bytes) -> str:
    names = (value for field, value, _ in _fields(tensor) if field == _TENSOR_NAME)
    name = next(names, b"")
    return name.decode() if isinstance(name, bytes) else ""


def split(graph: bytes) -> tuple[bytes, dict[str, np.ndarray]]:
    """An ONNX file as skeleton and its larger float32 initialisers, ``(n,)`` each, by name."""
    taken: dict[str, np.ndarray] = {}

    def without(tensor: bytes) -> bytes:
        parts = list(_fields(tensor))
        raw = parts[-1][1] if parts and parts[-1][0] == _TENSOR_RAW else b""
        floats = any(field == _TENSOR_TYPE and value == _FLOAT for field, value, _ in parts)
        if not floats or not isinstance(raw, bytes) or len(raw) < _LEAST:
            return tensor
        taken[_name(tensor)] = np.frombuffer(raw, np.dtype("<f4"))
        return b"".join(encoded for *_, encoded in parts[:-1])

    return _in_initialisers(graph, without), taken


def join(skeleton: bytes, tensors: Mapping[str, np.ndarray]) -> bytes:
    """The ONNX file of a skeleton. GraphError names an initialiser that the skeleton lacks."""
    left = dict(tensors)

    def complete(tensor: bytes) -> bytes:
        values = left.pop(_name(tensor), None)
        if values is None:
            return tensor
        raw = np.ascontiguousarray(values, np.dtype("<f4")).tobytes()
        return tensor + _field(_TENSOR_RAW, raw)

    graph = _in_initialisers(skeleton, complete)
    if left:
        raise GraphError(f"it has no initialiser {next(iter(left))}")
    return graph
