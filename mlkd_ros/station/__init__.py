# SPDX-License-Identifier: Apache-2.0
"""The operator's side: `mlkd init`, `mlkd stop`, `mlkd status`, and a ground station in a browser.

`mlkd_ros.cli.fly` is the command line. The web ground station is a ROS node in a thread of its own
(`link`, `picture`) and a web server (`server`, `clients`, `access`, `protocol`, `page/`); the
server asks the node through `RosThread` and is told through one callback. `command` starts both.
"""
