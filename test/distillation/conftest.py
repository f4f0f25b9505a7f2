# SPDX-License-Identifier: Apache-2.0
"""One CPU thread, and material that is rendered once for all tests of this folder."""

import pytest
import torch
from training_support import write_flights


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the machine; and sums in another order would differ in the last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """A tiny rendered training set: DATA/videos in the layout of the real one."""
    folder = tmp_path_factory.mktemp("material")
    write_flights(folder / "videos")
    return folder


@pytest.fixture(scope="session")
def cache(material):
    """Its windows, cut once."""
    from mlkd_ros.cli.train import open_or_build_cache

    open_or_build_cache([str(material)], material / "cache")
    return material / "cache"
