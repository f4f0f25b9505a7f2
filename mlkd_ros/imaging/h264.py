# SPDX-License-Identifier: Apache-2.0
"""Counts the reference pictures of an H.264 stream (ITU-T H.264, 7.3.2.1, 7.3.3, 7.4.3)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["FrameNumbers"]

_SLICES, _IDR, _SPS = (1, 2, 5), 5, 7
#: Profiles whose parameter sets tell the format of the colours.
_WITH_COLOURS = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))


class _Bits:
    """Bits of a NAL unit behind its head, without the bytes that keep start codes unique."""

    def __init__(self, unit: bytes) -> None:
        data = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the NAL unit is cut short")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """An Exp-Golomb number."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        value = self.golomb()
        return (value + 1) // 2 if value % 2 else -value // 2


class FrameNumbers:
    """Says how many reference pictures are missing between one packet and the next."""

    def __init__(self) -> None:
        self._bits = 0
        self._gaps_allowed = self._planes = False
        self.begin()

    def begin(self) -> None:
        """The next packet is the first one."""
        self._last: int | None = None

    def parameters(self, kind: int, unit: bytes) -> None:
        """Take note of a sequence parameter set; other units, and such as are damaged, are not."""
        if kind != _SPS:
            return
        try:
            self._read_parameters(_Bits(unit))
        except ValueError:
            self._bits = 0

    def _read_parameters(self, bits: _Bits) -> None:
        profile = bits.read(8)
        bits.read(16)  # constraints, level
        bits.golomb()  # its number
        self._planes = False
        if profile in _WITH_COLOURS:
            chroma = bits.golomb()
            if chroma == 3:
                self._planes = bool(bits.read(1))
            bits.golomb(), bits.golomb(), bits.read(1)  # depths, lossless
            if bits.read(1):
                self._skip_scaling(bits, 12 if chroma == 3 else 8)
        self._bits = bits.golomb() + 4
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.read(1)
            bits.signed_golomb(), bits.signed_golomb()
            for _ in range(bits.golomb()):
                bits.signed_golomb()
        bits.golomb()  # number of reference frames
        self._gaps_allowed = bool(bits.read(1))

    @staticmethod
    def _skip_scaling(bits: _Bits, lists: int) -> None:
        for index in range(lists):
            if not bits.read(1):
                continue
            last = following = 8
            for _ in range(16 if index < 6 else 64):
                if following:
                    following = (last + bits.signed_golomb()) % 256
                last = following or last

    def missing(self, units: Iterable[tuple[int, bytes]]) -> int:
        """How many reference pictures the encoder made that never came, before these NAL units."""
        missing = 0
        for kind, unit in units:
            self.parameters(kind, unit)
            if kind in _SLICES and self._bits:
                missing += self._slice(kind, unit)
        return missing

    def _slice(self, kind: int, unit: bytes) -> int:
        bits = _Bits(unit[:64])
        try:
            bits.golomb(), bits.golomb(), bits.golomb()  # first macroblock, type, parameters
            if self._planes:
                bits.read(2)
            number = bits.read(self._bits)
        except ValueError:
            return 0  # damaged: its decoding says so
        size = 1 << self._bits
        # Slices and fields of one picture have one number; pictures that none refers to have the
        # number of the next that some do.
        step = 0 if kind == _IDR or self._last is None else (number - self._last) % size
        if unit[0] >> 5 & 3 or step > 1:
            self._last = number
        return step - 1 if step > 1 and not self._gaps_allowed else 0
