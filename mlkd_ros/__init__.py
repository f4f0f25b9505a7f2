# SPDX-License-Identifier: Apache-2.0
"""Night-time UAV target tracking for ROS 2 with mutual-learning knowledge distillation (MLKD)."""
