# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of the operator's side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from station_support import Observer


@pytest.fixture
def observer() -> Iterator[Observer]:
    observer = Observer()
    yield observer
    observer.close()
