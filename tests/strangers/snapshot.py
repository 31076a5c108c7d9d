"""Compare a model, and the state of the process, before and after a call that must leave both as they were."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def digest(tensor: Tensor | None) -> str:
    """Hash the bits of a tensor with its dtype, shape and layout."""
    if tensor is None:
        return "None"
    kept = tensor.detach()
    if not tensor.is_sparse:
        kept = kept.cpu().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else kept
        content = hashlib.blake2b(kept.numpy().tobytes() if tensor.numel() else b"", digest_size=8).hexdigest()
    else:
        content = repr(kept)
    return f"{tensor.dtype} {tuple(tensor.shape)} {content}"


def _facts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules(remove_duplicate=False):
        here = f"{name or 'the model'}: "
        yield f"{here}module", (type(module), id(module))
        yield f"{here}training", module.training
        for attribute, value in vars(module).items():
            if "hook" in attribute and isinstance(value, dict):
                yield f"{here}{attribute}", tuple((key, id(hook)) for key, hook in value.items())
        yield f"{here}attributes", tuple(sorted(vars(module)))
        yield f"{here}forward", id(vars(module).get("forward"))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        kept = (id(parameter), parameter.requires_grad, digest(parameter), digest(parameter.grad), id(parameter.grad))
        yield f"{name}: parameter", kept
    for name, buffer in model.named_buffers(remove_duplicate=False):
        yield f"{name}: buffer", (id(buffer), digest(buffer))


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return everything of a model and of the process that an instrument must leave as it was, by name."""
    return dict(_facts(model)) | {
        "the random state of torch": digest(torch.get_rng_state()),
        "the random state of Python": hash(random.getstate()),
        "the random state of NumPy": hashlib.blake2b(np.random.get_state()[1].tobytes()).hexdigest(),  # type: ignore  # noqa: NPY002
        "the default dtype": torch.get_default_dtype(),
        "the gradient mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the number of threads": torch.get_num_threads(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name what differs between two snapshots."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]
