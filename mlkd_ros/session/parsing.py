# SPDX-License-Identifier: Apache-2.0
"""What people write on command lines about targets."""

from __future__ import annotations

import argparse

__all__ = ["parse_box"]


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Read ``x,y,w,h``."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a box: four numbers x,y,w,h are expected"
        ) from None
    return x, y, w, h
