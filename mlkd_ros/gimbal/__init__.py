# SPDX-License-Identifier: Apache-2.0
"""A gimbal that follows the target: it moves cameras, never vehicles, and only if asked for.

`follower` is the controller, without ROS; `node` the executable `gimbal`, which publishes rates.
Executable `mavlink` hands those on to a MAVLink gimbal manager.
"""
