"""What is measured on a running model, and the rules that name a cause. A probe changes nothing in the model."""

from normscope.diagnostics.depth.coordinate_check import coordinate_check
from normscope.diagnostics.depth.profile import StackDepth, depth_profile
from normscope.diagnostics.diagnosis import Diagnosis, diagnose
from normscope.diagnostics.gradients.at_norms import NormGradients, gradients_at_norms
from normscope.diagnostics.gradients.history import gradients_through_training
from normscope.diagnostics.gradients.shares import GradientShares, gradient_shares
from normscope.diagnostics.numeric_range import NormRange, numeric_range
from normscope.diagnostics.rules import Finding
from normscope.diagnostics.warmup import warmup_features

__all__ = [
    "Diagnosis",
    "Finding",
    "GradientShares",
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
