# SPDX-License-Identifier: Apache-2.0
"""MAVLink's common message set, from pymavlink."""

from __future__ import annotations

try:
    from pymavlink.dialects.v20 import common as mavlink
except ImportError as error:
    raise ImportError(
        "MAVLink needs pymavlink: pip install 'mlkd-ros[mavlink]', or pymavlink pyserial"
    ) from error

__all__ = ["mavlink"]
