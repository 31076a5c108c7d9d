"""The equations that a foreign norm is compared with, and the one that turns given rows into others."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

SAME = 2e-5
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


def matching(
    x: Tensor, z: Tensor, parameters: Mapping[str, Tensor], every_eps: Sequence[float], *, channels_first: bool
) -> Facts | None:
    """Find the equation that turns the rows of ``x`` into those of ``z``.

    Args:
        x: ``[..., D]``, float64.
        z: ``[..., D]``, what a module made of it.
        parameters: The module's, by name.
        every_eps: To be tried, in this order; zero is asked last, for without an eps all its places are one.
        channels_first: Whether the module has its features on axis 1.
    """
    roles = [
        (gain, bias)
        for gain, bias in itertools.permutations([*parameters, None], 2)
        if {*parameters} <= {gain, bias} and (gain is not None or bias is None)
    ] or [(None, None)]
    tried = sorted(dict.fromkeys(every_eps), key=lambda eps: eps == 0)
    kinds: tuple[Literal["rms_norm", "layer_norm"], ...] = ("rms_norm", "layer_norm")
    places: tuple[EpsPlace, ...] = ("variance", "deviation", "length")
    largest = z.abs().amax()
    for eps, kind, place, unbiased in itertools.product(tried, kinds, places, (False, True)):
        if unbiased and (kind == "rms_norm" or place == "length"):
            continue
        centered, size = _parts(x, kind, place, eps, unbiased)
        y = centered / size
        for (gain, bias), offset in itertools.product(roles, (False, True)):
            if (_affine(y, parameters, gain, bias, offset) - z).abs().amax() <= SAME * largest:
                return Facts(
                    kind=kind,
                    width=x.shape[-1],
                    eps=eps,
                    eps_place=place,
                    gain=gain,
                    bias=bias,
                    unit_offset=offset,
                    unbiased=unbiased,
                    channels_first=channels_first,
                )
    return None


def value_of(facts: Facts, x: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute an equation at rows ``[..., D]``: the output, and ``[..., 1]``, what the rows are divided by."""
    centered, size = _parts(x, facts.kind, facts.eps_place, facts.eps, facts.unbiased)
    return _affine(centered / size, parameters, facts.gain, facts.bias, facts.unit_offset), size


def _parts(x: Tensor, kind: str, place: str, eps: float, unbiased: bool) -> tuple[Tensor, Tensor]:
    width = x.shape[-1]
    centered = x - x.mean(-1, keepdim=True) if kind == "layer_norm" else x
    square = centered.square().sum(-1, keepdim=True)
    if place == "length":
        return centered, square.sqrt().clamp(min=max(eps, 1e-300)) / width**0.5
    mean = square / max(width - unbiased, 1)
    return centered, (mean + eps).sqrt() if place == "variance" else mean.sqrt() + eps


def _affine(y: Tensor, parameters: Mapping[str, Tensor], gain: str | None, bias: str | None, offset: bool) -> Tensor:
    scaled = y if gain is None else y * (parameters[gain].reshape(-1) + offset)
    return scaled if bias is None else scaled + parameters[bias].reshape(-1)


OVER_FEATURES: dict[type[nn.Module], str] = {nn.LayerNorm: "layer_norm", nn.RMSNorm: "rms_norm"}
"""Those that normalize the last axes."""

FEATURES_ON_AXIS_1: dict[type[nn.Module], str] = {
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.SyncBatchNorm: "batch_norm",
    nn.GroupNorm: "group_norm",
    nn.InstanceNorm1d: "instance_norm",
    nn.InstanceNorm2d: "instance_norm",
    nn.InstanceNorm3d: "instance_norm",
}
"""Those that have a gain and a bias for every entry of axis 1."""

KINDS = {**OVER_FEATURES, **FEATURES_ON_AXIS_1}
"""From a class to what it is called here."""


def base_of(module: nn.Module) -> type[nn.Module] | None:
    """Return the norm of torch that a module is, or is derived from; None for anything else.

    Args:
        module: Any module.
    """
    return next((kind for kind in KINDS if isinstance(module, kind)), None)
