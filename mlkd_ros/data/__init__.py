# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation data, low-light physics and rendered night flights; no ROS."""
