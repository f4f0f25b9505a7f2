# SPDX-License-Identifier: Apache-2.0
"""How a process of this package ends on Ctrl-C."""

from __future__ import annotations

import signal
import threading

__all__ = ["leave_interrupts_to_rclpy"]


def leave_interrupts_to_rclpy() -> None:
    """Have Ctrl-C end rclpy's context, and nothing else. To be called before `rclpy.init()`.

    Python's KeyboardInterrupt beside that comes up anywhere, also while rclpy converts a message,
    which makes another error of it: a process that was told to end would end as one that failed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: None)
