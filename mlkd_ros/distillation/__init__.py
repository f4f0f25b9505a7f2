# SPDX-License-Identifier: Apache-2.0
"""Training of the night student: supervised fine-tuning and MLKD (arXiv 2312.07884)."""
