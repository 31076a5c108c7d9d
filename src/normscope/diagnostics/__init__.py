"""Measurements of a running model, and the rules that name a cause. A probe leaves the model unchanged."""

from normscope.diagnostics.depth import CoordinateCheck, StackDepth, coordinate_check, depth_profile
from normscope.diagnostics.diagnosis import Diagnosis, diagnose
from normscope.diagnostics.gradients import (
    GradientShares,
    GradientStep,
    NormGradients,
    gradient_shares,
    gradients_at_norms,
    gradients_through_training,
)
from normscope.diagnostics.numeric_range import NormRange, numeric_range
from normscope.diagnostics.rules import CAUSES, Cause, Finding
from normscope.diagnostics.warmup import warmup_features

__all__ = [
    "CAUSES",
    "Cause",
    "CoordinateCheck",
    "Diagnosis",
    "Finding",
    "GradientShares",
    "GradientStep",
    "NormGradients",
    "NormRange",
    "StackDepth",
    "coordinate_check",
    "depth_profile",
    "diagnose",
    "gradient_shares",
    "gradients_at_norms",
    "gradients_through_training",
    "numeric_range",
    "warmup_features",
]
