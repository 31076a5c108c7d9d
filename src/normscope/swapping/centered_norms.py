"""The norms of a conversion to RMSNorm: what reads centered rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from normscope.norms import LayerNorm, RMSNorm
from normscope.swapping.biased_rms_norm import BiasedRMSNorm
from normscope.swapping.channels_first import ChannelsFirst
from normscope.swapping.fast_path import leave_fast_path
from normscope.swapping.kinds import Norm
from normscope.swapping.writers import owner_of


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
    weight = None if norm.gain is None else holder._parameters[norm.gain]
    bias = None if norm.bias is None else holder._parameters[norm.bias]
    if weight is not None and norm.unit_offset:
        weight = nn.Parameter(weight.detach() + 1, requires_grad=weight.requires_grad)
    if bias is not None and not centers and bool(bias.detach().count_nonzero()):
        new: nn.Module = BiasedRMSNorm(norm.shape, eps, weight, bias)
    else:
        new = (LayerNorm if centers else RMSNorm)(norm.shape, eps, elementwise_affine=False)
        new.elementwise_affine = weight is not None
        new._parameters["weight"] = weight
        if centers:
            new._parameters["bias"] = bias
    return ChannelsFirst(new) if norm.channels_first else new


def make_exact(twin: nn.Module, chosen: Sequence[Norm]) -> None:
    """Put plain layer norms in the places of foreign ones, some of which round to float32 within.

    That they compute the same was seen when they were found.

    Args:
        twin: A copy of the model in which they were found.
        chosen: The layer norms.
    """
    for norm in chosen:
        old = twin.get_submodule(norm.name)
        if not isinstance(norm.holder, nn.LayerNorm):
            _set(twin, norm, converted(norm, old, centers=True))


def put_rms(twin: nn.Module, chosen: Sequence[Norm]) -> dict[str, list[float]]:
    """Put RMS norms into a copy of a model.

    Args:
        twin: The copy, after :func:`make_exact`.
        chosen: The layer norms.

    Returns:
        From names to what is seen when the copy runs: the largest mean of a row, over the size of the input.
    """
    moments: dict[str, list[float]] = {norm.name: [] for norm in chosen}
    axis = {norm.name: 1 if norm.channels_first else -1 for norm in chosen}

    def look(name: Any, x: Tensor) -> None:
        size = float(x.square().mean().sqrt())
        moments[name].append(float(x.mean(axis[name]).abs().amax()) / size if size else 0.0)

    for norm, old in [(norm, twin.get_submodule(norm.name)) for norm in chosen]:
        plain = isinstance(norm.holder, nn.LayerNorm)
        known = norm if plain else dataclasses.replace(norm, gain="weight", bias="bias", unit_offset=False)
        new = converted(known, old)
        new.register_forward_pre_hook(
            lambda module, given, named, name=norm.name: look(name, [*given, *named.values()][0]), with_kwargs=True
        )
        _set(twin, norm, new)
    leave_fast_path(twin, {id(twin.get_submodule(norm.name)) for norm in chosen})
    return moments


def _set(twin: nn.Module, norm: Norm, new: nn.Module) -> None:
    for name in norm.names:
        owner, key = owner_of(twin, name)
        owner._modules[key] = new
