"""A norm whose class is not known, told by what it computes: never by its name alone."""

import inspect
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.recognition.detached_copy import copy_of

_USUAL_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
"""Tried where a module does not tell its own."""
_SCALES = (1.0, 1.0, 10.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
"""Sizes of rows: eps, and where it stands, shows in the small ones."""
_SAME = 2e-5
"""Relative: ten roundings of float32 and more; the divisors n and n - 1 are as near from a width of 25,000 on."""

EpsPlace = Literal["variance", "deviation", "length"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a module was seen to compute."""

    kind: Literal["layer_norm", "rms_norm"]
    width: int
    eps: float
    eps_place: EpsPlace
    gain: str | None
    bias: str | None
    unit_offset: bool
    unbiased: bool
    channels_first: bool


def looks_like_norm(module: nn.Module) -> bool:
    """Tell whether a module is worth a look: a leaf called a norm or with an eps, or one with running moments.

    Args:
        module: Any module.
    """
    if "running_mean" in module._buffers:
        return True
    if any(True for _ in module.children()) or type(module).__module__.startswith("torch.nn.utils."):
        # What stands in a parametrization is about weights.
        return False
    if "norm" in type(module).__name__.lower():
        return True
    shapes = [p.shape for p in module.parameters(recurse=False)]
    return 0 < len(shapes) <= 2 and bool(_eps_of(module)) and all(_width(shape) for shape in shapes)


def observe(module: nn.Module) -> Facts | str:
    """Run a copy of a module on random rows, away from the identity, and find the equation that gives the same.

    The module itself is not run, its hooks neither; the copy is in float64, on the CPU, with other parameters.

    Args:
        module: Perhaps a layer norm or an RMS norm.

    Returns:
        What it is, or in words why it is taken for nothing.
    """
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    widths = {_width(p.shape) for p in parameters.values()}
    if not parameters:
        told = getattr(module, "normalized_shape", None)
        widths = {_width(torch.Size(told))} if isinstance(told, tuple | list) else set()
    if not parameters and "running_mean" in module._buffers:
        return "a batch norm whose moments, gain and bias are frozen constants"
    if not parameters and not widths:
        return "has no parameters, and nothing tells its width"
    if len(parameters) > 2 or len(widths) > 1 or 0 in widths:
        shapes = ", ".join(f"{name} {list(p.shape)}" for name, p in parameters.items())
        return f"has parameters that are no gain and bias of one width: {shapes}"
    if further := further_inputs(module):
        return further
    (width,) = widths
    twin = copy_of(module, generator=torch.Generator().manual_seed(0))
    sizes = [size for size in (3, 5, 7) if size != width][:2]
    for channels_first, shape in ((False, (2, sizes[0], width)), (True, (2, width, *sizes)), (True, (2, width, 3))):
        x = _rows(shape, 1 if channels_first else -1)
        try:
            with torch.no_grad():
                # The forward of its class: another library's, on the instance, may be bound to the module itself.
                z: Any = type(twin).forward(twin, x)
        except Exception:
            continue
        if not isinstance(z, Tensor) or z.shape != x.shape:
            continue
        if channels_first:
            x, z = x.movedim(1, -1), z.movedim(1, -1)
        found = _match(x, z.double(), module, dict(twin.named_parameters()))
        if found is not None:
            return Facts(width=width, channels_first=channels_first, **found)
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
    """Tell whether a module with a forward of its own computes what its base does, in training and in evaluation.

    Args:
        module: A subclass's instance; copies are run.
        base: A norm of torch.
        shape: Of an input.
    """
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.7
    for training in (False, True):
        twins = [copy_of(module, generator=torch.Generator().manual_seed(0)).train(training) for _ in range(2)]
        try:
            with torch.no_grad():
                ours, theirs = base.forward(twins[0], x), type(module).forward(twins[1], x)
        except Exception:
            return False
        if not (isinstance(theirs, Tensor) and theirs.shape == ours.shape):
            return False
        if not (theirs.double() - ours).abs().amax() <= _SAME * ours.abs().amax():
            return False
    return True


def _match(x: Tensor, z: Tensor, module: nn.Module, parameters: dict[str, Tensor]) -> dict[str, Any] | None:
    """Find the equation that turns the rows of ``x`` into those of ``z``."""
    roles = [
        (gain, bias)
        for gain, bias in itertools.permutations([*parameters, None], 2)
        if {*parameters} <= {gain, bias} and (gain is not None or bias is None)
    ] or [(None, None)]
    # Without an eps all places are one: that is asked last.
    every = sorted(dict.fromkeys([*_eps_of(module), *_USUAL_EPS]), key=lambda eps: eps == 0)
    choices = itertools.product(every, ("rms_norm", "layer_norm"), ("variance", "deviation", "length"), (False, True))
    largest = z.abs().amax()
    for eps, kind, place, unbiased in choices:
        if unbiased and (kind == "rms_norm" or place == "length"):
            continue
        y = _normalized(x, kind, place, eps, unbiased)
        for (gain, bias), offset in itertools.product(roles, (False, True)):
            want = y if gain is None else y * (parameters[gain].reshape(-1) + offset)
            want = want if bias is None else want + parameters[bias].reshape(-1)
            if (want - z).abs().amax() <= _SAME * largest:
                return {
                    "kind": kind,
                    "eps": eps,
                    "eps_place": place,
                    "gain": gain,
                    "bias": bias,
                    "unit_offset": offset,
                    "unbiased": unbiased,
                }
    return None


def _normalized(x: Tensor, kind: str, place: str, eps: float, unbiased: bool) -> Tensor:
    width = x.shape[-1]
    centered = x - x.mean(-1, keepdim=True) if kind == "layer_norm" else x
    square = centered.square().sum(-1, keepdim=True)
    if place == "length":
        return centered / square.sqrt().clamp(min=max(eps, 1e-300)) * width**0.5
    mean = square / max(width - unbiased, 1)
    return centered / (mean + eps).sqrt() if place == "variance" else centered / (mean.sqrt() + eps)


def _rows(shape: tuple[int, ...], axis: int) -> Tensor:
    """Draw rows of several sizes, none of them centered."""
    draw = torch.Generator().manual_seed(1)
    wide = torch.Size(shape)
    rows = torch.randn(wide, generator=draw, dtype=torch.float64).movedim(axis, -1) + 0.7
    sizes = torch.tensor(_SCALES, dtype=torch.float64)
    count = rows.shape[:-1].numel()
    return (rows * sizes.repeat(-(-count // len(sizes)))[:count].reshape(*rows.shape[:-1], 1)).movedim(-1, axis)


def _eps_of(module: nn.Module) -> list[float]:
    """List the numbers that a module calls eps, by whatever prefix."""
    named = [value for name, value in vars(module).items() if "eps" in name.lower()]
    return [float(value) for value in named if isinstance(value, float | int) and not isinstance(value, bool)]


def _width(shape: torch.Size) -> int:
    """Return the size of the only axis that is not one, or 0 where there are several."""
    return shape.numel() if shape.numel() == max(shape, default=0) else 0
