# SPDX-License-Identifier: Apache-2.0
"""Video as drones send it, as images: RTSP, MPEG-TS over UDP, V4L2 devices, files."""
