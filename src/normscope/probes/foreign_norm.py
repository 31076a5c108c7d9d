"""A norm whose class is not known, told by what it computes: never by its name alone."""

import copy
import inspect
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

EpsPlace = Literal["variance", "deviation", "length"]

_USUAL_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
"""Tried where a module does not tell its own."""
_SCALES = (1.0, 10.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Sizes of rows: eps, and where it stands, shows in the small ones."""
_SAME = 2e-5
"""Relative to the largest output: ten roundings of float32, in which a foreign norm may compute, and more."""


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


def worth_a_look(module: nn.Module) -> bool:
    """Tell whether a module may be a norm: a leaf called one, or with an eps and at most two vectors of one width."""
    if any(True for _ in module.children()) or type(module).__module__.startswith("torch.nn.utils."):
        # What stands in a parametrization is about weights.
        return False
    widths = {_width(p.shape) for p in module.parameters(recurse=False)}
    if not isinstance(module, nn.LocalResponseNorm) and "norm" in type(module).__name__.lower():
        return True
    return bool(_eps_of(module)) and len(widths) == 1 and 0 not in widths


def observe(module: nn.Module) -> Facts | str:
    """Run a copy of a module on random rows, away from the identity, and find the equation that gives the same.

    The module itself is not run, its hooks neither; the copy is in float64 on the CPU, with parameters of its own.

    Args:
        module: A leaf with few parameters: all of them are copied.

    Returns:
        What it is, or in words why it is taken for nothing.
    """
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    widths = {_width(p.shape) for p in parameters.values()}
    if not parameters:
        told = getattr(module, "normalized_shape", getattr(module, "dim", None))
        widths = {_width(torch.Size(told))} if isinstance(told, tuple | list) else {told} if told else set()
    if len(parameters) > 2 or len(widths) != 1 or not all(isinstance(width, int) and width > 1 for width in widths):
        return "has no gain and bias of one width, and nothing else that tells its width"
    taken = list(inspect.signature(type(module).forward).parameters)[1:]
    if len(taken) != 1:
        return f"its forward takes other than one input: {', '.join(taken)}"
    (width,) = widths
    try:
        twin = copy.deepcopy(module).to(device="cpu", dtype=torch.float64)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return f"cannot be copied: {error}"
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draw, dtype=torch.float64) + 0.5)
    sizes = [size for size in (3, 5, 7) if size != width][:2]
    for axis, shape in ((-1, (2, sizes[0], width)), (1, (2, width, *sizes))):
        x = _rows(shape, axis, draw)
        try:
            with torch.no_grad():
                z: Any = twin.forward(x)
        except Exception:
            continue
        if not isinstance(z, Tensor) or z.shape != x.shape:
            continue
        found = _match(x.movedim(axis, -1), z.double().movedim(axis, -1), module, dict(twin.named_parameters()))
        if found is not None:
            return Facts(width=width, channels_first=axis == 1, **found)
    return "computes no layer norm and no RMS norm that is known here (tried on random rows)"


def _match(x: Tensor, z: Tensor, module: nn.Module, parameters: dict[str, Tensor]) -> dict[str, Any] | None:
    """Find the equation that turns the rows of ``x`` into those of ``z``."""
    roles = [
        (gain, bias)
        for gain, bias in itertools.permutations([*parameters, None], 2)
        if {*parameters} <= {gain, bias} and (gain is not None or bias is None)
    ] or [(None, None)]
    # Without an eps all places are one: that is asked last.
    every = sorted(dict.fromkeys([*_eps_of(module), *_USUAL_EPS]), key=lambda eps: eps == 0)
    largest = z.abs().amax()
    for eps, kind, place, unbiased in itertools.product(
        every, ("rms_norm", "layer_norm"), ("variance", "deviation", "length"), (False, True)
    ):
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


def _rows(shape: tuple[int, ...], axis: int, draw: torch.Generator) -> Tensor:
    """Draw rows of several sizes, none of them centered."""
    rows = torch.randn(shape, generator=draw, dtype=torch.float64).movedim(axis, -1) + 0.7
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
