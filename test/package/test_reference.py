# SPDX-License-Identifier: Apache-2.0
"""docs/interface.md says what the code does now."""

from __future__ import annotations

import difflib
import subprocess
import sys

from package_support import ROOT

MAKE = "python -m mlkd_ros.node.reference > docs/interface.md"


def test_the_interface_reference_is_up_to_date() -> None:
    # A process of its own: it makes a node and configures it.
    command = [sys.executable, "-m", "mlkd_ros.node.reference"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    committed = (ROOT / "docs/interface.md").read_text(encoding="utf-8")
    changes = difflib.unified_diff(committed.splitlines(), made.splitlines(), "docs", "code")
    assert made == committed, f"make it again: {MAKE}\n" + "\n".join(changes)
