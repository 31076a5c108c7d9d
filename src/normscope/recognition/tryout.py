"""Rows to try a norm on, and copies of it run there, forward and backward."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from normscope.recognition.detached_copy import copy_of

_FEW = (1.0, 10.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-13)
"""Sizes of rows: eps, and where it stands, shows in the small ones."""
_MANY = (1.0, 10.0, 1e3, 1e5, 1e-2, 1e-4, 1e-6)
"""A limit on what goes in shows in the large ones."""
_SPIKE = 30.0
"""An entry of so many lengths of its row is nearly all of it: normalized, it is the root of the width."""
_GAIN = 1e3
"""A limit on what comes out shows behind large gains; of both signs, so that a size of a gain is no gain."""


@contextmanager
def apart() -> Iterator[None]:
    """Run copies inside: with gradients, whatever the mode outside, and torch's random numbers as they were after."""
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        yield


def few_rows(shape: tuple[int, ...], axis: int) -> Tensor:
    """Draw rows of several sizes along an axis, none of them centered, in float64."""
    return _scaled(_drawn(shape, 1).movedim(axis, -1) + 0.7, _FEW).movedim(-1, axis)


def many_rows(shape: tuple[int, ...], axis: int) -> Tensor:
    """Draw rows of sizes from 1e-6 to 1e5 along an axis, a third of them with one entry that outweighs the others."""
    rows = _drawn(shape, 1).movedim(axis, -1) + 0.7
    flat = rows.reshape(-1, rows.shape[-1]).clone()
    spiked = torch.arange(0, len(flat), 3, device="cpu")
    flat[spiked, spiked % flat.shape[-1]] = _SPIKE * flat.shape[-1] ** 0.5
    return _scaled(flat.reshape(rows.shape), _MANY).movedim(-1, axis)


def upstream(shape: tuple[int, ...]) -> Tensor:
    """Draw a gradient that comes from behind."""
    return _drawn(shape, 4)


def enlarged_copy(module: nn.Module, training: bool) -> nn.Module:
    """Copy a module in a mode, with large parameters of both signs."""
    twin = copy_of(module, generator=torch.Generator().manual_seed(5))
    signs = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in twin.parameters():
            drawn = torch.randint(0, 2, parameter.shape, generator=signs, device="cpu")
            parameter.mul_(_GAIN * (2 * drawn - 1))
    twin.train(training)
    return twin


def run(
    forward: Callable[[Tensor], Any], x: Tensor, g: Tensor, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]] | str:
    """Run something forward and backward.

    Args:
        forward: From rows to rows.
        x: Its input.
        g: The gradient at its output.
        parameters: What else gradients are wanted of.

    Returns:
        The output and the gradients, the one of the input under an empty name, zeros where there is none; or in words
        why there are none, if the output is no tensor of the input's shape, or one of the two passes raises.
    """
    leaf = x.detach().clone().requires_grad_(True)
    wanted = {"": leaf, **parameters}
    try:
        z = forward(leaf)
        if not isinstance(z, Tensor) or z.shape != x.shape:
            return "gives something else than a tensor of its input's shape"
        if not z.requires_grad:
            return "gives no gradient"
        got = torch.autograd.grad(z.double(), [*wanted.values()], g, allow_unused=True, materialize_grads=True)
    except Exception as error:
        # Whatever a stranger's code raises is an answer.
        return f"raises {type(error).__name__}: {error}"
    return z.detach().double(), {name: one.detach() for name, one in zip(wanted, got, strict=True)}


@lru_cache(maxsize=4)
def _drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw normal numbers, once for all norms of a width; nobody writes into them."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")


def _scaled(rows: Tensor, sizes: tuple[float, ...]) -> Tensor:
    """Give the rows on the last axis one size after another."""
    count = rows.shape[:-1].numel()
    each = torch.tensor(sizes, dtype=torch.float64, device="cpu").repeat(-(-count // len(sizes)))
    return rows * each[:count].reshape(*rows.shape[:-1], 1)
