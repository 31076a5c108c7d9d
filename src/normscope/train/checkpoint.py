"""Where an unfinished run goes on: everything that decides its next step, in one atomic file."""

import io
import pickle
from typing import Any

import torch

from normscope.results.store import RunFolder, write_bytes


def save(folder: RunFolder, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a kill leaves the one before it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(folder.checkpoint, buffer.getvalue())


def load(folder: RunFolder, device: torch.device) -> dict[str, Any] | None:
    """Read a checkpoint, with ``weights_only=True``, or None where there is none.

    Raises:
        ValueError: If the file cannot be read; the message names it and says how to go on without it.
    """
    if not folder.checkpoint.exists():
        return None
    try:
        return torch.load(folder.checkpoint, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        # torch's own words advise to load it without weights_only, which would run whatever a hostile file holds.
        raise ValueError(
            f"{folder.checkpoint} cannot be read ({type(error).__name__}): it is damaged, or not a checkpoint of ours; "
            "delete it to begin this run again"
        ) from error
