"""The norms of a conversion to RMSNorm, which read centered rows."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.norm_in_model import NormInModel, unwrapped
from normscope.kernels import fused
from normscope.kernels.formula import ROOT
from normscope.norms import ChannelsFirst, LayerNorm, RMSNorm, rms_norm
from normscope.norms.checks import check_eps, check_input
from normscope.surgery.guards import disable_fast_path, share_hooks
from normscope.surgery.to_rms_norm.same_function import NUDGE
from normscope.surgery.to_rms_norm.writers import owner_of


class BiasedRMSNorm(nn.Module):
    r"""RMSNorm, then a bias. Keys of the state dict are those of ``torch.nn.LayerNorm``.

    .. math:: h = g \odot \frac{x}{\sqrt{\tfrac{1}{H} \sum_i x_i^2 + \epsilon}} + b

    The output has the dtype of the input.

    Args:
        normalized_shape: The sizes of the trailing axes.
        eps: Added to the mean square.
        weight: The weight g, not copied; None for no weight.
        bias: The bias b, not copied.

    Raises:
        TypeError: In ``forward``, if the input is not floating point.
        ValueError: If ``eps`` is negative; in ``forward``, if the trailing axes of the input differ.
    """

    def __init__(
        self, normalized_shape: tuple[int, ...], eps: float, weight: nn.Parameter | None, bias: nn.Parameter
    ) -> None:
        super().__init__()
        self.normalized_shape = tuple(normalized_shape)
        self.eps = check_eps(eps)
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        z = fused(x, self.normalized_shape, self.weight, self.bias, None, ROOT, self.eps)
        if z is not None:
            return z
        check_input(self, x, self.normalized_shape)
        dtype = torch.promote_types(x.dtype, self.bias.dtype)
        y = rms_norm(x.to(dtype), self.weight, self.eps, axes=len(self.normalized_shape))
        return (y + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, eps={self.eps}, weight={self.weight is not None}"


def converted(norm: NormInModel, old: nn.Module, *, centers: bool = False) -> nn.Module:
    """Build the RMS norm that takes over a layer norm's parameters.

    Args:
        norm: The layer norm.
        old: The module in its place, in the model or in a copy.
        centers: Whether to build a plain layer norm instead.

    Returns:
        An ``RMSNorm``, a ``BiasedRMSNorm`` where there is a bias other than zero, or a ``LayerNorm``; in a
        ``ChannelsFirst`` where the features are on axis 1.
    """
    holder = unwrapped(old)
    eps = 0.0 if norm.eps is None else norm.eps
    weight = None if norm.weight_name is None else holder._parameters[norm.weight_name]
    bias = None if norm.bias_name is None else holder._parameters[norm.bias_name]
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


def make_exact(twin: nn.Module, chosen: Sequence[NormInModel]) -> None:
    """Replace layer norms of other libraries, some of which round to float32 internally, by plain ones.

    That they compute the same was verified when they were found. Fused paths are disabled, as they bypass the norms.

    Args:
        twin: A copy of the model.
        chosen: The layer norms of the model.
    """
    for norm in chosen:
        old = twin.get_submodule(norm.name)
        if not isinstance(norm.holder, nn.LayerNorm):
            _set(twin, norm, converted(norm, old, centers=True))
    disable_fast_path(twin, {id(twin.get_submodule(norm.name)) for norm in chosen})


@contextmanager
def nudged(twin: nn.Module, chosen: Sequence[NormInModel]) -> Iterator[None]:
    """Change the outputs of all norms at random by :data:`~normscope.surgery.to_rms_norm.same_function.NUDGE`."""
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


def put_rms(twin: nn.Module, chosen: Sequence[NormInModel]) -> dict[str, list[float]]:
    """Put RMS norms into a copy of a model.

    Args:
        twin: The copy, after :func:`make_exact`.
        chosen: The layer norms.

    Returns:
        From names to a list that is filled when the copy runs: the largest mean of a row, over the divisor of the row.
        This is the difference between a layer norm and an RMS norm.
    """
    moments: dict[str, list[float]] = {norm.name: [] for norm in chosen}

    def measure(norm: NormInModel, x: Tensor) -> None:
        axes = 1 if norm.channels_first else tuple(range(-len(norm.shape), 0))
        size = (x.square().mean(axes) + (norm.eps or 0.0)).sqrt()
        mean = x.mean(axes).abs()
        if mean.numel():
            moments[norm.name].append(float(torch.where(mean > 0, mean / size, mean).amax()))

    for norm, old in [(norm, twin.get_submodule(norm.name)) for norm in chosen]:
        plain = isinstance(norm.holder, nn.LayerNorm)
        known = norm if plain else dataclasses.replace(norm, weight_name="weight", bias_name="bias", unit_offset=False)
        new = converted(known, old)
        _set(twin, norm, new)
        new.register_forward_pre_hook(
            lambda module, given, named, norm=norm: measure(norm, [*given, *named.values()][0]), with_kwargs=True
        )
    disable_fast_path(twin, {id(twin.get_submodule(norm.name)) for norm in chosen})
    return moments


def _set(twin: nn.Module, norm: NormInModel, new: nn.Module) -> None:
    share_hooks(twin.get_submodule(norm.name), new)
    for name in norm.names:
        owner, key = owner_of(twin, name)
        owner._modules[key] = new
