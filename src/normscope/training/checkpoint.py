"""Where an unfinished run goes on: everything that decides its next step, in one atomic file."""

import io
import pickle
import struct
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import NormscopeError
from normscope.files import write_atomically
from normscope.results.store import RunFolder


class CheckpointDamaged(NormscopeError, ValueError):
    """A checkpoint cannot be read, or belongs to another network or version."""


@dataclass(kw_only=True)
class Progress:
    """How far a run has come, beside its weights and its optimizer."""

    step: int = 0
    """Updates made."""
    best_key: list[float] = field(default_factory=list)
    """Validation value, smaller is better, and loss, of the best evaluation."""
    best_step: int = 0
    """When that was."""
    best_value: float = 0.0
    """Its value in the metric's unit."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """The model's state dict then."""
    last_weights: list[dict[str, Tensor]] = field(default_factory=list)
    """State dicts of the last evaluations, where the recipe averages them."""
    losses: list[float] = field(default_factory=list)
    """Training losses since the last evaluation."""
    step_ms: list[float] = field(default_factory=list)
    """Milliseconds of every update."""
    saved_bytes: int = 0
    """What autograd kept for backward in the first update."""
    peak_bytes: int | None = None
    """Most device memory over the processes before this one."""
    seconds: float = 0.0
    """Spent in training."""
    metrics_bytes: int = 0
    """Length of ``metrics.jsonl``: what stands after it was written later."""


def save(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint atomically: a kill leaves the one before it."""
    buffer = io.BytesIO()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": dict(vars(progress))}
    torch.save(content, buffer)
    write_atomically(folder.checkpoint, buffer.getvalue())


def restore(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
    """Put model and optimizer back where the checkpoint says, and tell how far that is; None where there is none.

    The file is loaded with ``weights_only=True``: nothing in it is executed.

    Raises:
        torch.OutOfMemoryError: If the device has too little memory; the file is not to blame.
        CheckpointDamaged: If anything else fails. Model and optimizer may then be changed in part: make new ones.
    """
    if not folder.checkpoint.exists():
        return None
    # A disk that cannot be read is another fault than bytes that make no sense, which torch may call an OSError, too.
    content = io.BytesIO(folder.checkpoint.read_bytes())
    try:
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        if set(state["progress"]) != {entry.name for entry in fields(Progress)}:
            raise CheckpointDamaged(f"{folder.checkpoint} was written by another version")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])
    except torch.OutOfMemoryError:
        raise
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
        struct.error,
    ) as error:
        # torch's own words advise to load it without weights_only, which would run whatever a hostile file holds.
        raise CheckpointDamaged(
            f"{folder.checkpoint} cannot be read ({type(error).__name__}): it is damaged, or not of this version"
        ) from error


def set_aside(folder: RunFolder) -> None:
    """Keep a damaged checkpoint under another name, out of the way; one that was kept before is replaced."""
    folder.checkpoint.replace(folder.checkpoint.with_suffix(".damaged"))
