# SPDX-License-Identifier: Apache-2.0
"""Reads published PyTorch files without executing what is in them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..tracking.checkpoint import CheckpointError


def read_state_dict(path: Path, harmless: Sequence[Any] = ()) -> dict[str, Any]:
    """The dictionary in ``path``. ``harmless``: what else but tensors may be unpickled from it, as
    ``torch.serialization.safe_globals`` takes it.

    CheckpointError names a file that is missing, is not safe to load, or holds something else.
    """
    try:
        with torch.serialization.safe_globals(list(harmless)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: not a PyTorch state dict that is safe to load") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a state dict but {type(content).__name__}")
    return content
