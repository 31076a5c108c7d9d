"""Changes to the norms of an existing model: swap, undo, conversion to RMSNorm, weight decay groups."""

from normscope.surgery.report import SwapReport
from normscope.surgery.swap import swap
from normscope.surgery.to_rms_norm.convert import ConversionReport, to_rms_norm
from normscope.surgery.weight_decay import norm_parameter_groups, norm_parameters

__all__ = [
    "ConversionReport",
    "SwapReport",
    "norm_parameter_groups",
    "norm_parameters",
    "swap",
    "to_rms_norm",
]
