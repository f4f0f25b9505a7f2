# SPDX-License-Identifier: Apache-2.0
"""docs/interface.md says what the code does now."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from package_support import ROOT

MAKE = "python -m mlkd_ros.node.reference > docs/interface.md"


def test_the_interface_reference_is_up_to_date() -> None:
    # A process of its own: it makes a node and configures it.
    command = [sys.executable, "-m", "mlkd_ros.node.reference"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    committed = (ROOT / "docs/interface.md").read_text(encoding="utf-8")
    changes = difflib.unified_diff(committed.splitlines(), made.splitlines(), "docs", "code")
    assert made == committed, f"make it again: {MAKE}\n" + "\n".join(changes)


def test_the_security_policy_has_what_the_reference_has() -> None:
    reference = (ROOT / "docs/interface.md").read_text(encoding="utf-8")
    policy = ElementTree.parse(ROOT / "config/sros2_policy.xml")
    profile = policy.find(".//profile[@node='tracker']")
    assert profile is not None
    for title, kind, rule in (
        ("Subscriptions", "topic", "subscribe"),
        ("Publications", "topic", "publish"),
        ("Services", "service", "reply"),
    ):
        section = re.split(r"^## ", reference.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]
        # Names at the beginning of a row, and those of every (lifecycle) node in the text below.
        names = set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE))
        names |= set(re.findall(r"`(~/[^`]+)`", section))
        allowed = {
            element.text
            for group in profile.findall(f"{kind}s[@{rule}='ALLOW']")
            for element in group
        }
        everywhere = {"/clock", "/rosout", "/parameter_events"}
        of_parameters = {name for name in allowed if name and "parameter" in name}
        extra = everywhere | of_parameters | {"~/get_type_description"}
        assert names <= allowed, title
        assert allowed - extra == names, title
