"""A norm whose class is not known, told by what it computes: never by its name alone."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from normscope.inspection.equation import SAME, Facts, base_of, matching, value_of
from normscope.inspection.preserve_state import copy_of

_USUAL_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
"""Tried where a module does not tell its own."""
_LONG = 40
"""Positions of the longer input."""
_SAME_GRADIENT = 1e-3
"""Of the upstream gradient over the size of the row: a statistic that is detached is seen from afar."""
_CALLED = {"layer_norm": "a layer norm", "rms_norm": "an RMS norm"}


def looks_like_norm(module: nn.Module) -> bool:
    """Return whether a module is worth a look: one called a norm or with an eps, or one with running moments.

    Children without parameters that are no norms, such as an activation, are no hindrance.

    Args:
        module: Any module.
    """
    if "running_mean" in module._buffers:
        return True
    if type(module).__module__.startswith("torch.nn.utils."):
        # What stands in a parametrization is about weights.
        return False
    own = [*module.parameters(recurse=False)]
    children = [*module.modules()][1:]
    if children and (not own or any(_is_more(child) for child in children)):
        return False
    if "norm" in type(module).__name__.lower():
        return True
    if not 0 < len(own) <= 2 or any(isinstance(p, UninitializedParameter) for p in own):
        return False
    return bool(_eps_of(module)) and all(width_of(p.shape) > 1 for p in own)


def observe(module: nn.Module) -> Facts | str:
    """Run copies of a module on random rows, away from the identity, and find the equation that gives the same.

    The module itself is not run, its hooks neither; the copies are in float64, on the CPU, with other parameters. What
    was found on a few rows is then tried on a longer input (40 positions) with rows of sizes from 1e-6 to 1e5, some
    with one entry that outweighs the others, and large gains of both signs, in evaluation and in training; the
    gradients of the input and of the parameters are compared, too. What shows only on longer inputs, in other dtypes,
    on other devices or after many calls is not seen.

    Args:
        module: Perhaps a layer norm or an RMS norm.

    Returns:
        What it is, or in words why it is taken for nothing.
    """
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    widths = {width_of(p.shape) for p in parameters.values()}
    if not parameters:
        told = getattr(module, "normalized_shape", None)
        widths = {width_of(torch.Size(told))} if isinstance(told, tuple | list) else set()
    if not parameters and "running_mean" in module._buffers:
        return "a batch norm whose moments, gain and bias are frozen constants"
    if not parameters and not widths:
        return "has no parameters, and nothing tells its width"
    if len(parameters) > 2 or len(widths) > 1 or 0 in widths:
        shapes = ", ".join(f"{name} {list(p.shape)}" for name, p in parameters.items())
        return f"has parameters that are no gain and bias of one width: {shapes}"
    if parameters and widths == {1}:
        return f"has one number ({', '.join(parameters)}) for all features, which is no gain of a width"
    if further := further_inputs(module):
        return further
    (width,) = widths
    one, two = [size for size in (5, 7, 9) if size != width][:2]
    with apart():
        for axis, few, more in (
            (-1, (2, one, width), (1, _LONG, width)),
            (1, (2, width, one, two), (1, width, 2, _LONG // 2)),
            (1, (2, width, one), (1, width, _LONG)),
        ):
            facts = _first_look(module, few, axis)
            if facts is not None:
                return _something_else(module, facts, more, axis) or facts
    return "computes no layer norm and no RMS norm that is known here (tried on random rows)"


def further_inputs(module: nn.Module) -> str | None:
    """Say which inputs a module's forward takes, if that is not one.

    Our norms take a second input, too, a residual: a gate or a mask that came there would be added without a word.

    Args:
        module: Any module.
    """
    taken = list(inspect.signature(type(module).forward).parameters)[1:]
    return f"its forward takes more than one input: {', '.join(taken)}" if len(taken) > 1 else None


def computes_as(module: nn.Module, base: type[nn.Module], shape: tuple[int, ...]) -> bool:
    """Return whether a module with a forward of its own computes what its base does, in training and in evaluation.

    Output, gradients and running moments are compared, on large numbers and small ones, behind large gains.

    Args:
        module: A subclass's instance; copies are run.
        base: A norm of torch, with features on axis 1.
        shape: Of an input; its last axis is made longer.
    """
    with apart():
        x = many_rows((*shape[:-1], _LONG), 1)
        g = upstream((*shape[:-1], _LONG))
        for training in (False, True):
            twins = [enlarged_copy(module, training) for _ in range(2)]
            # The forward of its class: another library's, on the instance, may be bound to the module itself.
            ours, theirs = (
                run(lambda x, twin=twin, kind=kind: kind.forward(twin, x), x, g, dict(twin.named_parameters()))
                for twin, kind in zip(twins, (base, type(module)), strict=True)
            )
            if isinstance(ours, str) or isinstance(theirs, str) or _apart(ours[0], theirs[0], SAME):
                return False
            if any(_apart(ours[1][name], theirs[1][name], _SAME_GRADIENT) for name in ours[1]):
                return False
            moments = zip(twins[0].buffers(), twins[1].buffers(), strict=True)
            if any(_apart(one.double(), two.double(), SAME) for one, two in moments):
                return False
    return True


def width_of(shape: torch.Size) -> int:
    """Return the size of the only axis that is not one, or 0 where there are several, or none at all."""
    return shape.numel() if shape.numel() == max(shape, default=0) else 0


def _first_look(module: nn.Module, shape: tuple[int, ...], axis: int) -> Facts | None:
    """Find the equation of a module on a few rows, in evaluation."""
    twin = copy_of(module, generator=torch.Generator().manual_seed(0))
    twin.eval()
    x = few_rows(shape, axis)
    try:
        with torch.no_grad():
            z: Any = type(twin).forward(twin, x)
    except Exception:
        # Not an input of this shape.
        return None
    if not isinstance(z, Tensor) or z.shape != x.shape:
        return None
    x, z = x.movedim(axis, -1), z.double().movedim(axis, -1)
    every_eps = [*_eps_of(module), *_USUAL_EPS]
    return matching(x, z, dict(twin.named_parameters()), every_eps, channels_first=axis == 1)


def _something_else(module: nn.Module, facts: Facts, shape: tuple[int, ...], axis: int) -> str | None:
    """Say in what a module departs from the equation that it has on a few rows, if it does."""
    x = many_rows(shape, axis)
    g = upstream(shape)
    twins = [enlarged_copy(module, training) for training in (False, True)]
    parameters = dict(twins[0].named_parameters())
    rows, behind = x.movedim(axis, -1), g.movedim(axis, -1)
    ours = run(lambda x: value_of(facts, x, parameters)[0], rows, behind, parameters)
    assert not isinstance(ours, str)
    largest = ours[0].abs().amax(-1, keepdim=True)
    gain = 1.0 if facts.gain is None else parameters[facts.gain].detach().reshape(-1) + facts.unit_offset
    steepest = (behind * gain).abs().amax(-1, keepdim=True) / value_of(facts, rows, parameters)[1].detach()
    for twin, training in zip(twins, (False, True), strict=True):
        theirs = run(lambda x, twin=twin: type(twin).forward(twin, x), x, g, dict(twin.named_parameters()))
        start = f"computes {_CALLED[facts.kind]} on a few rows in evaluation"
        if isinstance(theirs, str):
            mode = "in training" if training else "on more and larger rows, with a gradient,"
            return f"{start}; {mode} it {theirs}"
        if not ((theirs[0].movedim(axis, -1) - ours[0]).abs() <= SAME * largest).all():
            if training:
                return f"{start}, and something else in training (dropout, noise)"
            return f"{start}, and something else on more and larger ones (a limit, other code for longer inputs)"
        there = (theirs[1][""].movedim(axis, -1) - ours[1][""]).abs() <= _SAME_GRADIENT * steepest
        if not there.all() or any(_apart(ours[1][name], theirs[1][name], _SAME_GRADIENT) for name in parameters):
            return (
                f"computes {_CALLED[facts.kind]} forward, and another gradient: statistics or parameters that are "
                "detached, or a backward pass of its own"
            )
    return None


def _apart(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Return whether two tensors differ by more than a part of the largest number; also where one is not a number."""
    return not ((theirs - ours).abs() <= tolerance * ours.abs().amax()).all()


def _is_more(child: nn.Module) -> bool:
    """Return whether a child makes more of its parent than a norm with an activation."""
    named = "norm" in type(child).__name__.lower()
    return named or base_of(child) is not None or any(True for _ in child.parameters(recurse=False))


def _eps_of(module: nn.Module) -> list[float]:
    """List the numbers that a module calls eps, by whatever prefix."""
    named = [value for name, value in vars(module).items() if "eps" in name.lower()]
    return [float(value) for value in named if isinstance(value, float | int) and not isinstance(value, bool)]


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
