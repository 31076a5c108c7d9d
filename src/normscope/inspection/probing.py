"""Copies of a module run on random rows: the inputs, forward and backward runs, and the affine map they reveal."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.preserve_state import copy_of

_FEW = (1.0, 10.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-13)
"""Sizes of rows: the small ones reveal eps and its place."""
_MANY = (1.0, 10.0, 1e3, 1e5, 1e-2, 1e-4, 1e-6)
"""Sizes of rows: the large ones reveal a limit on the input."""
_SPIKE = 30.0
"""An entry of so many row lengths dominates its row: normalized, it is the square root of the width."""
_LARGE = 1e3
"""Size of weights that reveals a limit on the output; of both signs, to reveal an absolute value of the weight."""
_AFFINE_TOLERANCE = 1e-4
"""Relative: a hundred roundings of float32 and more, as some norms compute in float32 internally."""


@contextmanager
def isolated() -> Iterator[None]:
    """Run copies inside: gradients are enabled whatever the mode outside, and torch's random state is restored."""
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        yield


def few_rows(shape: tuple[int, ...], axis: int) -> Tensor:
    """Draw rows of several sizes along an axis, with a mean other than zero, in float64."""
    return _scaled(_drawn(shape, 1).movedim(axis, -1) + 0.7, _FEW).movedim(-1, axis)


def many_rows(shape: tuple[int, ...], axis: int) -> Tensor:
    """Draw rows of sizes from 1e-6 to 1e5 along an axis, a third of them with one entry that outweighs the others."""
    rows = _drawn(shape, 1).movedim(axis, -1) + 0.7
    flat = rows.reshape(-1, rows.shape[-1]).clone()
    spiked = torch.arange(0, len(flat), 3, device="cpu")
    flat[spiked, spiked % flat.shape[-1]] = _SPIKE * flat.shape[-1] ** 0.5
    return _scaled(flat.reshape(rows.shape), _MANY).movedim(-1, axis)


def upstream(shape: tuple[int, ...]) -> Tensor:
    """Draw an upstream gradient."""
    return _drawn(shape, 4)


def enlarged_copy(module: nn.Module, training: bool) -> nn.Module:
    """Copy a module in the given mode, with large parameters of both signs."""
    twin = copy_of(module, generator=torch.Generator().manual_seed(5))
    signs = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in twin.parameters():
            drawn = torch.randint(0, 2, parameter.shape, generator=signs, device="cpu")
            parameter.mul_(_LARGE * (2 * drawn - 1))
    twin.train(training)
    return twin


def run(
    forward: Callable[[Tensor], Any], x: Tensor, g: Tensor, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]] | str:
    """Run a function forward and backward.

    Args:
        forward: From rows to rows.
        x: Its input.
        g: The gradient at its output.
        parameters: Further tensors to differentiate by.

    Returns:
        The output and the gradients, that of the input under an empty name, zeros where there is none. If the output is
        not a tensor of the input's shape, or a pass raises, a text that says so.
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
        # Another library's code may raise anything, and that is an answer.
        return f"raises {type(error).__name__}: {error}"
    return z.detach().double(), {name: each.detach() for name, each in zip(wanted, got, strict=True)}


@lru_cache(maxsize=4)
def _drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw normal numbers once for all norms of a width; callers must not write into them."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")


def _scaled(rows: Tensor, sizes: tuple[float, ...]) -> Tensor:
    """Scale the rows on the last axis to the given sizes in turn."""
    count = rows.shape[:-1].numel()
    each = torch.tensor(sizes, dtype=torch.float64, device="cpu").repeat(-(-count // len(sizes)))
    return rows * each[:count].reshape(*rows.shape[:-1], 1)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Which parameters of a module are its weight and its bias."""

    weight: str | None = None
    bias: str | None = None
    unit_offset: bool = False
    """Whether the factor is one plus the weight."""


def probed_affine(module: nn.Module, shape: tuple[int, ...]) -> Affine:
    """Find the weight and the bias of a module of ``[..., *shape]`` by running copies with changed parameters.

    A parameter to which the output is proportional, entry by entry, is a weight; one that is added to it is a bias.

    Args:
        module: Any module; it is not changed.
        shape: The sizes of the last axes.
    """
    for dtype in (torch.float64, torch.float32):
        try:
            with torch.no_grad():
                return _probed(module, shape, dtype)
        except Exception:
            # It does not run on the CPU, or not in this dtype.
            continue
    return Affine()


def _probed(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Affine:
    draw = torch.Generator().manual_seed(4)
    twin = copy_of(module, generator=draw).eval().to(dtype)
    x = torch.randn(4, 6, *shape, generator=draw, dtype=dtype) + 0.7
    fit = [name for name, p in twin._parameters.items() if p is not None and p.numel() == torch.Size(shape).numel()]

    def line(name: str) -> tuple[Tensor, Tensor] | None:
        """Return the output at zero and the slope, if the output is linear in every entry of the parameter."""
        parameter = twin.get_parameter(name)
        before = parameter.detach().clone()
        outputs = []
        for values in (torch.zeros_like(before), torch.ones_like(before), before):
            parameter.copy_(values)
            outputs.append(twin(x).double())
        at_zero, at_one, at_before = outputs
        slope = at_one - at_zero
        return (at_zero, slope) if _same(at_before, at_zero + before.reshape(shape) * slope, slope) else None

    lines = {name: linear for name in fit if (linear := line(name)) is not None}
    biases = [name for name, (_, slope) in lines.items() if _same(slope, torch.ones_like(slope), slope)]
    for name in biases:
        twin.get_parameter(name).zero_()
    weights = {}
    for name in [name for name in lines if name not in biases]:
        linear = line(name)
        for offset in (False, True):
            if linear is not None and _same(linear[0], offset * linear[1], linear[1]):
                weights[name] = offset
    # More than one candidate is ambiguous: then none is used.
    weight = next(iter(weights)) if len(weights) == 1 else None
    bias = biases[0] if len(biases) == 1 else None
    return Affine(weight=weight, bias=bias, unit_offset=weight is not None and weights[weight])


def _same(first: Tensor, second: Tensor, scale: Tensor) -> bool:
    bound = _AFFINE_TOLERANCE * scale.abs().amax().clamp(min=1e-300)
    return first.shape == second.shape and bool((first - second).abs().amax() <= bound)
