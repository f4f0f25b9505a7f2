# SPDX-License-Identifier: Apache-2.0
"""Every image, from anywhere, one way: frames, encodings, drawing. Imports no ROS and nothing else
of this package.
"""
