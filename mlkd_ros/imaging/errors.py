# SPDX-License-Identifier: Apache-2.0
"""What footage can have wrong with it."""

from __future__ import annotations

__all__ = ["DatasetError"]


class DatasetError(ValueError):
    """A file of footage or of a data set is missing or wrong; the message names it and says what
    would be right.
    """
