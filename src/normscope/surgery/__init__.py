"""Change the norms of an existing model: swap, undo, convert to RMSNorm, group for weight decay."""

from normscope.surgery.report import SwapReport
from normscope.surgery.swap import swap
from normscope.surgery.to_rms_norm.convert import CenterReport, to_rms_norm
from normscope.surgery.weight_decay import norm_parameter_groups, norm_parameters

__all__ = [
    "CenterReport",
    "SwapReport",
    "norm_parameter_groups",
    "norm_parameters",
    "swap",
    "to_rms_norm",
]
