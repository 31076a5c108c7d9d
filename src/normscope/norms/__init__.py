"""Norms: one file has the definition as a plain function, the ``torch.nn.Module`` and its traits.

The function is the executable specification: differentiable, correct in float64, tested against independent oracles. A
module checks its input, then computes it. Statistics are in at least float32; the output has the dtype of the input.
"""

from collections.abc import Callable

from torch import nn

from normscope.norms.ada_norm import AdaNorm, ada_norm
from normscope.norms.batch_norm import BatchNorm, batch_moments, batch_norm
from normscope.norms.channels_first import ChannelsFirst
from normscope.norms.derf import Derf, derf
from normscope.norms.detach_norm import DetachNorm, detach_norm
from normscope.norms.dyt import DyT, dyt
from normscope.norms.frn import FRN, frn
from normscope.norms.group_norm import GroupNorm, group_norm
from normscope.norms.instance_norm import InstanceNorm, instance_norm
from normscope.norms.layer_norm import LayerNorm, layer_norm
from normscope.norms.layer_norm_simple import LayerNormSimple, layer_norm_simple
from normscope.norms.none import NoNorm
from normscope.norms.rms_norm import RMSNorm, rms_norm
from normscope.norms.scale_norm import ScaleNorm, scale_norm
from normscope.norms.traits import NormTraits
from normscope.norms.weight_norm import apply_weight_norm, weight_norm
from normscope.registry import Registry

NORMS: Registry[Callable[..., nn.Module]] = Registry(
    "norm",
    {
        "none": NoNorm,
        "layer_norm": LayerNorm,
        "layer_norm_simple": LayerNormSimple,
        "detach_norm": DetachNorm,
        "ada_norm": AdaNorm,
        "rms_norm": RMSNorm,
        "scale_norm": ScaleNorm,
        "dyt": DyT,
        "derf": Derf,
        "batch_norm": BatchNorm,
        "group_norm": GroupNorm,
        "instance_norm": InstanceNorm,
        "frn": FRN,
    },
    group="normscope.norms",
    # A module that is already built has one width.
    accepts=lambda entry: callable(entry) and not isinstance(entry, nn.Module),
    wanted="a class or function that makes a norm of a width",
    reserved=("weight_norm",),
)
"""Layers that map ``[..., D]`` to ``[..., D]``, made from a width and keyword arguments; the order of every table."""

PARAMETRIZATIONS: dict[str, Callable[[nn.Module], int]] = {"weight_norm": apply_weight_norm}
"""Arms that act on the weights of a network built with ``none``; each returns the number of weights it changed."""

__all__ = [
    "FRN",
    "NORMS",
    "PARAMETRIZATIONS",
    "AdaNorm",
    "BatchNorm",
    "ChannelsFirst",
    "Derf",
    "DetachNorm",
    "DyT",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LayerNormSimple",
    "NoNorm",
    "NormTraits",
    "RMSNorm",
    "ScaleNorm",
    "ada_norm",
    "apply_weight_norm",
    "batch_moments",
    "batch_norm",
    "derf",
    "detach_norm",
    "dyt",
    "frn",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "layer_norm_simple",
    "rms_norm",
    "scale_norm",
    "weight_norm",
]
