"""The norms of a conversion to RMSNorm: what reads centered rows."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normscope.norms import LayerNorm, RMSNorm
from normscope.swapping.biased_rms_norm import BiasedRMSNorm
from normscope.swapping.channels_first import ChannelsFirst
from normscope.swapping.fast_path import leave_fast_path
from normscope.swapping.hooks import share_hooks
from normscope.swapping.kinds import Norm
from normscope.swapping.outputs_apart import NUDGE
from normscope.swapping.writers import owner_of
from normscope.torch_internals import children_of, parameters_of


def converted(norm: Norm, old: nn.Module, *, centers: bool = False) -> nn.Module:
    """Make the RMS norm that takes over a layer norm's parameters.

    Args:
        norm: The layer norm, as it was found.
        old: What stands in its place, in the model or in a copy.
        centers: Make a plain layer norm instead.

    Returns:
        An ``RMSNorm``, a ``BiasedRMSNorm`` where there is a bias other than zero, or a ``LayerNorm``; in a
        ``ChannelsFirst`` where the features are on axis 1.
    """
    holder = old.norm if isinstance(old, ChannelsFirst) else old
    eps = 0.0 if norm.eps is None else norm.eps
    weight = None if norm.gain is None else parameters_of(holder)[norm.gain]
    bias = None if norm.bias is None else parameters_of(holder)[norm.bias]
    if weight is not None and norm.unit_offset:
        weight = nn.Parameter(weight.detach() + 1, requires_grad=weight.requires_grad)
    if bias is not None and not centers and bool(bias.detach().count_nonzero()):
        new: nn.Module = BiasedRMSNorm(norm.shape, eps, weight, bias)
    else:
        new = (LayerNorm if centers else RMSNorm)(norm.shape, eps, elementwise_affine=False)
        new.elementwise_affine = weight is not None
        parameters_of(new)["weight"] = weight
        if centers:
            parameters_of(new)["bias"] = bias
    return ChannelsFirst(new) if norm.channels_first else new


def make_exact(twin: nn.Module, chosen: Sequence[Norm]) -> None:
    """Put plain layer norms in the places of foreign ones, some of which round to float32 within; let all of them run.

    That they compute the same was seen when they were found. A fused path would pass them by.

    Args:
        twin: A copy of the model in which they were found.
        chosen: The layer norms.
    """
    for norm in chosen:
        old = twin.get_submodule(norm.name)
        if not isinstance(norm.holder, nn.LayerNorm):
            _set(twin, norm, converted(norm, old, centers=True))
    leave_fast_path(twin, {id(twin.get_submodule(norm.name)) for norm in chosen})


@contextmanager
def nudged(twin: nn.Module, chosen: Sequence[Norm]) -> Iterator[None]:
    """Move all that the norms give by :data:`~normscope.swapping.outputs_apart.NUDGE`, at random, inside."""
    generator = torch.Generator().manual_seed(1)

    def nudge(module: nn.Module, given: Any, z: Any) -> Any:
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        return z * (1 + NUDGE * noise).to(z)

    handles = [twin.get_submodule(norm.name).register_forward_hook(nudge) for norm in chosen]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def put_rms(twin: nn.Module, chosen: Sequence[Norm]) -> dict[str, list[float]]:
    """Put RMS norms into a copy of a model.

    Args:
        twin: The copy, after :func:`make_exact`.
        chosen: The layer norms.

    Returns:
        From names to what is seen when the copy runs: the largest mean of a row, over what the row is divided by. A
        layer norm and an RMS norm differ by that.
    """
    moments: dict[str, list[float]] = {norm.name: [] for norm in chosen}

    def look(norm: Norm, x: Tensor) -> None:
        axes = 1 if norm.channels_first else tuple(range(-len(norm.shape), 0))
        size = (x.square().mean(axes) + (norm.eps or 0.0)).sqrt()
        mean = x.mean(axes).abs()
        if mean.numel():
            moments[norm.name].append(float(torch.where(mean > 0, mean / size, mean).amax()))

    for norm, old in [(norm, twin.get_submodule(norm.name)) for norm in chosen]:
        plain = isinstance(norm.holder, nn.LayerNorm)
        known = norm if plain else dataclasses.replace(norm, gain="weight", bias="bias", unit_offset=False)
        new = converted(known, old)
        _set(twin, norm, new)
        new.register_forward_pre_hook(
            lambda module, given, named, norm=norm: look(norm, [*given, *named.values()][0]), with_kwargs=True
        )
    leave_fast_path(twin, {id(twin.get_submodule(norm.name)) for norm in chosen})
    return moments


def _set(twin: nn.Module, norm: Norm, new: nn.Module) -> None:
    share_hooks(twin.get_submodule(norm.name), new)
    for name in norm.names:
        owner, key = owner_of(twin, name)
        children_of(owner)[key] = new
