"""The axis on which a module has its features, and what stands in the place of a norm that has them elsewhere."""

import math
from typing import Any

import torch
from torch import nn

from normscope.inspection.find import recognize
from normscope.inspection.norm_in_model import TORCH_NORMS, NormInModel, torch_base
from normscope.inspection.preserve_state import copy_of
from normscope.inspection.probing import isolated
from normscope.norms import BatchNorm, ChannelsFirst, GroupNorm, InstanceNorm
from normscope.torch_internals import buffers_of, parameters_of


def has_features_first(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether a module has its features on axis 1 instead of on the last axis.

    Norms are described as :func:`~normscope.inspection.find.find_norms` describes them. Any other module has them on
    axis 1 if a copy runs on ``[N, C, ...]`` alone.

    Args:
        module: Any module of the features ``shape``; it is not changed.
        shape: Sizes of the features' axes.
    """
    if isinstance(module, ChannelsFirst | nn.LocalResponseNorm):
        return True
    norm = recognize(("",), module, for_replacement=False)
    if isinstance(norm, NormInModel):
        return norm.channels_first
    base = torch_base(module)
    if base is not None and TORCH_NORMS[base].channels_first:
        return True
    first, second = [size for size in (3, 5, 7) if size not in shape][:2]
    maps = [(2, *shape, first), (2, *shape, first, second), (2, *shape, first, second, first)]
    return len(shape) == 1 and not _runs(module, (2, first, *shape)) and any(_runs(module, each) for each in maps)


def oriented(norm: NormInModel, made: nn.Module, label: str, *, force: bool) -> tuple[nn.Module, nn.Module, str]:
    """Return a module for the place of a norm, whichever axis each of them has its features on.

    Where the norm has them on axis 1, a module that has them there is taken as it is, any other in a ``ChannelsFirst``.
    Where the norm has them on the last axis, torch's batch, group and instance norms are taken as ours.

    Args:
        norm: The norm that is replaced.
        made: The module that was made for its width.
        label: What made it, for the error message.
        force: Whether a module of the other axis is taken as it is.

    Returns:
        The module that has the parameters; the one to put into the place, the same or a ``ChannelsFirst`` of it; and a
        note for the report on what was forced, or an empty text.

    Raises:
        ValueError: If the module has its features on axis 1, the norm does not, and there is no such norm of ours.
    """
    first = has_features_first(made, norm.shape)
    inner = made.norm if isinstance(made, ChannelsFirst) else made
    if norm.channels_first:
        keeps = first and not isinstance(made, ChannelsFirst)
        contiguous = norm.kind == "instance_norm"
        return inner, inner if keeps else ChannelsFirst(inner, contiguous=contiguous), ""
    if not first or inner is not made:
        return inner, inner, ""
    ours = _features_last(made, norm.shape)
    axes = f"{type(made).__name__}, which has its features on axis 1, and {norm.name} has them on the last"
    if ours is None and not force:
        raise ValueError(
            f"{label} gave for {norm.name} a {axes}. Nothing was changed. Give a norm of the last axis, such as "
            "group_norm, instance_norm or batch_norm of normscope; force=True puts it in as it is"
        )
    return (made, made, f"{norm.name}: put in by force, a {axes}") if ours is None else (ours, ours, "")


def _features_last(module: nn.Module, shape: tuple[int, ...]) -> nn.Module | None:
    """Build the norm of ours that computes what one of torch's does, with the same parameters and buffers."""
    given: Any = module
    alike: nn.Module
    if type(module) is nn.GroupNorm:
        alike = GroupNorm(shape, given.eps, num_groups=given.num_groups, affine=given.affine)
    elif type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        tracked = given.track_running_stats
        alike = BatchNorm(shape, given.eps, given.momentum, affine=given.affine, track_running_stats=tracked)
    elif type(module) in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
        tracked = given.track_running_stats
        alike = InstanceNorm(shape, given.eps, given.momentum or 0.0, affine=given.affine, track_running_stats=tracked)
    else:
        return None
    parameters_of(alike).update(parameters_of(module))
    buffers_of(alike).update(buffers_of(module))
    return alike


def _runs(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether a copy of a module maps this shape to itself."""
    with isolated(), torch.no_grad():
        try:
            output: Any = copy_of(module).forward(torch.linspace(-1, 1, math.prod(shape)).double().reshape(shape))
        except Exception:
            # Any code may stand in a module, and refuse a shape in any way.
            return False
    return getattr(output, "shape", None) == torch.Size(shape)
