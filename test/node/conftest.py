# SPDX-License-Identifier: Apache-2.0
"""What several tests of the node share: the shipped tracker, loaded once."""

from __future__ import annotations

import pytest
from node_support import Scene

from mlkd_ros.tracking import Tracker, load_tracker


@pytest.fixture(scope="session")
def shipped_tracker() -> Tracker:
    return load_tracker(device="cpu")


@pytest.fixture(scope="session")
def scene() -> Scene:
    return Scene()
