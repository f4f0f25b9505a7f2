# SPDX-License-Identifier: Apache-2.0
"""Template memory: how the target looked when it was designated, and how it looks of late.

Lamps change colour, a car turns: the designated template alone fades within seconds. Template
features enter the correlation linearly, so a mixture of two templates is one template at no cost in
flight (running averages of templates go back to Bolme et al. 2010; UpdateNet, arXiv 1908.00855,
section 3, discusses them for Siamese trackers). The first template is never overwritten and always
has the larger share: what was once mistaken for the target cannot take it over.
"""

from __future__ import annotations

from .engine import Template
from .settings import MemorySettings


def mixed(first: Template, second: Template, share: float) -> Template:
    """``(1 - share) first + share second``, part by part."""
    return tuple(a + share * (b - a) for a, b in zip(first, second, strict=True))


class TemplateMemory:
    """The templates of one target. ``current`` is what the search correlates with."""

    def __init__(self, settings: MemorySettings, first: Template) -> None:
        self.settings = settings
        self.first = first
        self.current = first
        self._recent: Template | None = None
        self._age = 0.0

    def due(self, confidence: float, elapsed: float) -> bool:
        """Whether this frame, ``elapsed`` seconds after the last, shows the target well and
        anew.
        """
        self._age += elapsed
        settings = self.settings
        fresh = settings.share > 0 and self._age >= settings.interval
        return fresh and confidence >= settings.above

    def renew(self, seen: Template) -> None:
        """Take in the template of a frame that was ``due``."""
        self._age = 0.0
        recent = self._recent
        self._recent = seen if recent is None else mixed(recent, seen, self.settings.renewal)
        self.current = mixed(self.first, self._recent, self.settings.share)
