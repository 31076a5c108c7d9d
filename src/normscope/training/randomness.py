"""Named random streams: what two runs with one seed share, they share whatever else differs between them.

One seed gives many streams, each by its name: the order of the data, the dropout masks of a step, the first weights
of a module. A stream does not know how much another one has drawn, so an arm whose norm has parameters that another
arm lacks leaves data order, dropout and every shared weight as they were. Within one step dropout masks follow one
another: a norm that itself drew random numbers in its forward pass would shift those after it, until the next step.
"""

import hashlib

import torch
from torch import nn

from normscope.torch_internals import private_reset_of


def seed_for(seed: int, *names: str | int) -> int:
    """Derive the seed of a named stream.

    Args:
        seed: The run's seed.
        names: What the stream is for, such as ``("init", "blocks.0.linear")``.

    Returns:
        An integer in [0, 2^63), from SHA-256, so that it is the same everywhere and for ever.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a new generator at the beginning of a named stream."""
    return torch.Generator().manual_seed(seed_for(seed, *names))


def initialize(model: nn.Module, seed: int) -> None:
    """Draw every module's first parameters anew, in place, from a stream named after the module.

    A module draws what its own ``reset_parameters`` draws, so the distribution is the module's; modules of equal name,
    type and shape start equal in every model. The global generator is left as it was.

    Raises:
        TypeError: If a module owns parameters and cannot reset them: two arms could not be made equal.
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


def seed_dropout(seed: int, step: int, device: torch.device) -> None:
    """Set the generator that dropout draws from, so that the masks of a step depend on seed and step alone."""
    value = seed_for(seed, "dropout", step)
    if device.type == "cpu":
        torch.default_generator.manual_seed(value)
    else:
        torch.manual_seed(value)
