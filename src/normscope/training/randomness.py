"""Named random streams, which make runs with the same seed comparable across arms.

A seed determines many independent streams by name: the order of the data, the dropout masks of a step, the initial
weights of a module. Draws from a stream do not affect other streams, so data order, dropout and shared initial weights
are equal even if the norm of an arm has further parameters. Within a step, dropout masks are drawn in sequence: a norm
that draws random numbers in its forward pass shifts the masks after it, until the next step.
"""

import hashlib
import random

import numpy as np
import torch
from torch import nn

from normscope.arguments import check_arguments
from normscope.torch_internals import private_reset_of


def seed_for(seed: int, *names: str | int) -> int:
    """Derive the seed of a named stream.

    Args:
        seed: The run's seed.
        names: Name of the stream, such as ``("init", "blocks.0.linear")``.

    Returns:
        An integer in [0, 2^63), from SHA-256, so that it does not depend on platform or library versions.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a new generator for a named stream."""
    return torch.Generator().manual_seed(seed_for(seed, *names))


@check_arguments
def initialize(model: nn.Module, seed: int) -> None:
    """Initialize the parameters of every module in place, from a stream named after the module.

    The distribution is that of the module's ``reset_parameters``; modules with equal name, type and shape are equal in
    every model. The global generator is not changed.

    Raises:
        TypeError: If a module has parameters but no ``reset_parameters``, so that arms cannot be initialized equally.
    """
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        reset = getattr(module, "reset_parameters", None) or private_reset_of(module)
        if reset is None:
            raise TypeError(f"{type(module).__name__} at {name!r} has parameters but no reset_parameters()")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "init", name))
            reset()


def seed_dropout(seed: int, step: int, device: torch.device, *, rank: int = 0) -> None:
    """Seed the global generator of dropout, so that the masks of a step depend only on seed, step and rank.

    Args:
        seed: The run's seed.
        step: Number of updates made.
        device: Device of the model.
        rank: Number of the process among those that share the batches; the stream of the first is that of a run alone.
    """
    value = seed_for(seed, "dropout", step, *([rank] if rank else []))
    if device.type == "cpu":
        torch.default_generator.manual_seed(value)
    else:
        torch.manual_seed(value)


def generator_states(device: torch.device) -> dict[str, str]:
    """Return what the global generators were seeded with: torch's seeds, and digests of NumPy's and Python's states.

    Runs with different seeds that have an equal entry were seeded again, by code that does not use the run's seed.
    """
    states = {
        "torch": str(torch.initial_seed()),
        "numpy": repr([np.asarray(part).tobytes() for part in np.random.get_state()]),  # noqa: NPY002
        "python": repr(random.getstate()),
    }
    if device.type == "cuda":
        states["device"] = str(torch.cuda.default_generators[device.index or 0].initial_seed())
    return {name: hashlib.sha256(state.encode()).hexdigest()[:16] for name, state in states.items()}
