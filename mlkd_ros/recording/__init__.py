# SPDX-License-Identifier: Apache-2.0
"""Flights on disk: record them, mend what was cut off, play them again."""
