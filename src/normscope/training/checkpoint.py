"""Checkpoints: the complete state of an unfinished run in a file that is written atomically."""

import io
import pickle
import struct
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import NormscopeError
from normscope.results.store import RunFolder


class CheckpointDamaged(NormscopeError, ValueError):
    """A checkpoint is damaged, or belongs to another network or version."""


@dataclass(kw_only=True)
class Progress:
    """State of a run besides weights and optimizer."""

    step: int = 0
    """Number of updates made."""
    best_key: list[float] = field(default_factory=list)
    """Validation value (lower is better) and loss of the best evaluation."""
    best_step: int = 0
    """Step of the best evaluation."""
    best_value: float = 0.0
    """Value of the best evaluation, in the metric's unit."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """State dict of the model at the best evaluation."""
    last_weights: list[dict[str, Tensor]] = field(default_factory=list)
    """State dicts of the last evaluations, if the recipe averages them."""
    losses: list[float] = field(default_factory=list)
    """Training losses since the last evaluation."""
    step_ms: list[float] = field(default_factory=list)
    """Milliseconds of every update."""
    saved_bytes: int = 0
    """Bytes saved by autograd for the backward pass in the first update."""
    peak_bytes: int | None = None
    """Peak device memory over earlier processes of the run."""
    seconds: float = 0.0
    """Training time."""
    seeds: dict[str, str] = field(default_factory=dict)
    """What the global generators were seeded with at the last evaluation of a custom task."""
    rows: list[str] = field(default_factory=list)
    """Lines of ``metrics.jsonl``; the file in the folder may be ahead of the checkpoint, or behind it."""


def save(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint atomically.

    Raises:
        LeaseLost: If another process has taken the run over.
    """
    buffer = io.BytesIO()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": dict(vars(progress))}
    torch.save(content, buffer)
    folder.write(folder.checkpoint, buffer.getvalue())


def restore(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
    """Restore model and optimizer from the checkpoint and return its progress, or None if there is no checkpoint.

    The file is loaded with ``weights_only=True``, so it cannot execute code.

    Raises:
        torch.OutOfMemoryError: If the device has too little memory.
        CheckpointDamaged: If loading fails otherwise. Model and optimizer may then be partly restored: build new ones.
    """
    if not folder.checkpoint.exists():
        return None
    # Read outside the try block: torch may raise OSError for damaged bytes, too, and a failing disk is another error.
    content = io.BytesIO(folder.checkpoint.read_bytes())
    try:
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        progress: dict[str, Any] = state["progress"]
        if "metrics_bytes" in progress:
            # Older versions kept the length of the file instead of its lines.
            written = folder.metrics.read_bytes() if folder.metrics.exists() else b""
            progress["rows"] = written[: progress.pop("metrics_bytes")].decode().splitlines()
        if set(progress) != {entry.name for entry in fields(Progress)}:
            raise CheckpointDamaged(f"{folder.checkpoint} was written by another version")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**progress)
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
        # torch's message is not shown: it advises weights_only=False, with which a malicious file could execute code.
        raise CheckpointDamaged(
            f"{folder.checkpoint} cannot be read ({type(error).__name__}): it is damaged, or not of this version"
        ) from error


def set_aside(folder: RunFolder) -> None:
    """Rename a damaged checkpoint to ``checkpoint.damaged``, replacing an earlier one.

    Raises:
        LeaseLost: If another process has taken the run over.
    """
    folder.check()
    folder.checkpoint.replace(folder.checkpoint.with_suffix(".damaged"))
