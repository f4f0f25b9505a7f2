# SPDX-License-Identifier: Apache-2.0
"""The aircraft's side: the tracker as a MAVLink camera, and a gimbal that follows.

`connections` are the links and what is framed and signed on them; `component` is the camera
component of the camera protocol, without ROS and without sockets; `vehicle` is what the autopilot
says of itself; `geolocation` puts a bearing on flat ground; `node` is the executable `mavlink`.

Needs pymavlink: ``pip install 'mlkd-ros[mavlink]'``. Nothing else of the package imports this.
"""
