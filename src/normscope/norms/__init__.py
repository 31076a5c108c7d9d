"""Norms: one file has the definition as a plain function, the ``torch.nn.Module`` and its traits.

The function is the executable specification: differentiable, correct in float64, tested against independent oracles. A
module checks its input, then computes it. Statistics are in at least float32; the output has the dtype of the input.
"""

from normscope.norms.ada_norm import AdaNorm, ada_norm
from normscope.norms.batch_norm import BatchNorm, batch_moments, batch_norm
from normscope.norms.derf import Derf, derf
from normscope.norms.detach_norm import DetachNorm, detach_norm
from normscope.norms.dyt import DyT, dyt
from normscope.norms.frn import FRN, frn
from normscope.norms.layer_norm import LayerNorm, layer_norm
from normscope.norms.layer_norm_simple import LayerNormSimple, layer_norm_simple
from normscope.norms.none import NoNorm
from normscope.norms.rms_norm import RMSNorm, rms_norm
from normscope.norms.scale_norm import ScaleNorm, scale_norm
from normscope.norms.weight_norm import apply_weight_norm, weight_norm

__all__ = [
    "FRN",
    "AdaNorm",
    "BatchNorm",
    "Derf",
    "DetachNorm",
    "DyT",
    "LayerNorm",
    "LayerNormSimple",
    "NoNorm",
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
    "layer_norm",
    "layer_norm_simple",
    "rms_norm",
    "scale_norm",
    "weight_norm",
]
