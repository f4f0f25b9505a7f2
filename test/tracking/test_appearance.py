# SPDX-License-Identifier: Apache-2.0
"""Template memory with templates of one number."""

import numpy as np
import pytest

from mlkd_ros.tracking.appearance import TemplateMemory, mixed
from mlkd_ros.tracking.settings import MemorySettings


def template(value):
    return (np.full(2, value), np.full((1, 3), -value))


def test_the_first_template_always_leads():
    memory = TemplateMemory(MemorySettings(share=0.3, renewal=0.5), template(1.0))
    for _ in range(100):
        memory.renew(template(0.0))
    assert memory.current[0] == pytest.approx([0.7, 0.7])
    assert memory.current[1] == pytest.approx(np.full((1, 3), -0.7))
    assert memory.first[0] == pytest.approx([1.0, 1.0])


def test_recent_views_are_averaged():
    memory = TemplateMemory(MemorySettings(share=0.5, renewal=0.25), template(0.0))
    memory.renew(template(4.0))
    memory.renew(template(8.0))
    assert memory.current[0] == pytest.approx(0.5 * (4.0 + 0.25 * 4.0))
    assert mixed(template(1.0), template(3.0), 0.25)[0] == pytest.approx([1.5, 1.5])


def test_only_good_views_and_not_too_often():
    memory = TemplateMemory(MemorySettings(above=0.9, interval=0.5), template(1.0))
    assert not memory.due(1.0, 0.3)
    assert not memory.due(0.89, 0.3)
    assert memory.due(0.9, 0.0)
    memory.renew(template(1.0))
    assert not memory.due(1.0, 0.49)
    assert not TemplateMemory(MemorySettings(share=0.0), template(1.0)).due(1.0, 10.0)


def test_a_share_that_could_take_over_is_refused():
    with pytest.raises(ValueError, match="share"):
        MemorySettings(share=0.6)
