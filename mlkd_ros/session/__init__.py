# SPDX-License-Identifier: Apache-2.0
"""What a node needs and needs no ROS for: the images of the last seconds, the tracking thread, the
targets and their designation, what is kept for after a crash, the state of image and camera.
"""
