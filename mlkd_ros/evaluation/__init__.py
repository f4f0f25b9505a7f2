# SPDX-License-Identifier: Apache-2.0
"""One-pass evaluation of trackers on annotated sequences; no ROS."""
