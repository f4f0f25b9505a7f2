# SPDX-License-Identifier: Apache-2.0
"""The ROS face of the tracker: images in, detections, status and services out."""
