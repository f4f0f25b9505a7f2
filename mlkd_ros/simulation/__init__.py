# SPDX-License-Identifier: Apache-2.0
"""Cameras that are not there: a rendered night flight, and recordings played back."""
