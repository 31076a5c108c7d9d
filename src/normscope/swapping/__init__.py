"""Norms in somebody else's model: found, replaced, converted, listed; with a report and a way back."""

from normscope.swapping.center import to_rms_norm
from normscope.swapping.center_report import CenterReport
from normscope.swapping.decay import norm_parameter_groups, norm_parameters
from normscope.swapping.report import SwapReport
from normscope.swapping.swap import swap

__all__ = ["CenterReport", "SwapReport", "norm_parameter_groups", "norm_parameters", "swap", "to_rms_norm"]
