# SPDX-License-Identifier: Apache-2.0
"""Whether the tracker is there: found out within three seconds, and whether there are two.

DDS takes 10 to 20 s to miss a process that was killed. A tracker says something at least once a
second, in every state: its diagnostics. So does its silence.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from mlkd_ros.node.messages import nanoseconds

__all__ = ["GONE", "LIVE", "MISSING", "WAITING", "TrackerWatch"]

MISSING, GONE, WAITING, LIVE = "missing", "gone", "waiting", "live"

#: Seconds of silence after which a tracker is gone: two diagnostics, and a little.
_SILENT = 2.4
#: The diagnostic of each tracker whose message says in which state it is.
_MARK = ": images"
#: Seconds within which a tracker's word is looked at for a second one, and how often it has to be
#: said twice in them.
_WINDOW, _TWICE = 3.0, 3
#: The same of diagnostics, for two of one name and without images: one says 4 in that time, 5
#: where they come late; two say 8. By their stamps, too: whoever was held up hears many at once.
_SLOW_WINDOW, _MORE_THAN_ONE = 4.0, 6


def _at_work(status: DiagnosticStatus) -> bool:
    """Whether a tracker has images that a target can be marked on. Waiting for the first is no
    fault, but a designation would be answered by NO_IMAGE.
    """
    level = status.level if isinstance(status.level, bytes) else bytes([status.level])
    received = {item.key: item.value for item in status.values}.get("received")
    return level == DiagnosticStatus.OK and received != "0"


def _doubled(told: Sequence[tuple[float, float]]) -> bool:
    """Whether that is more than one says, given when it was heard and stamped, in seconds."""
    if len(told) < _MORE_THAN_ONE or told[0][0] <= time.monotonic() - _SLOW_WINDOW:
        return False
    stamps = [stamp for _, stamp in told]
    # The clocks of two may differ.
    return stamps != sorted(stamps) or stamps[-1] - stamps[0] < _SLOW_WINDOW


class TrackerWatch:
    """Listens to the diagnostics of the trackers in the node's namespace.

    phase: why the tracker says nothing of images, in its words; empty if it is at work. Waiting for
        the first image is no work yet.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._prefix = node.get_namespace().rstrip("/") + "/"
        self._last: float | None = None
        #: When each has spoken lately, and what stamp (seconds) it gave that.
        self._names: dict[str, deque[tuple[float, float]]] = {}
        self._repeats: deque[float] = deque()
        self.phase = ""
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 20)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.removesuffix(_MARK)
            # Only a tracker's, of this namespace and not of one below it.
            own = name.startswith(self._prefix) and "/" not in name[len(self._prefix) :]
            if own and name != status.name:
                self._last = time.monotonic()
                told = self._names.setdefault(name, deque(maxlen=_MORE_THAN_ONE))
                told.append((self._last, nanoseconds(message.header.stamp) * 1e-9))
                self.phase = "" if _at_work(status) else status.message

    def heard(self, twice: bool) -> None:
        """The tracker has said something about an image, perhaps a second time."""
        self._last = time.monotonic()
        if twice:
            self._repeats.append(self._last)

    def state(self, found: bool, at_work: bool) -> str:
        """One of the four, given whether its services are found and it speaks of images."""
        silent = self._last is None or time.monotonic() - self._last > _SILENT
        if silent:
            return MISSING if self._last is None or not found else GONE
        if not found:
            return MISSING
        return LIVE if at_work else WAITING

    def conflict(self) -> str:
        """Which trackers answer at once; empty if there is no more than one."""
        now = time.monotonic()
        while self._repeats and self._repeats[0] < now - _WINDOW:
            self._repeats.popleft()
        self._names = {
            name: told for name, told in self._names.items() if told[-1][0] > now - _SILENT
        }
        doubled = any(map(_doubled, self._names.values()))
        if len(self._repeats) < _TWICE and len(self._names) < 2 and not doubled:
            return ""
        names = ", ".join(sorted(self._names)) or self._prefix
        if len(self._names) == 1:
            names += " 2 times"
        return (
            f"Two trackers answer in {self._prefix.rstrip('/') or '/'}: {names}. What is shown is "
            "of both, and both get every mark. Stop one, or give it another namespace."
        )
