"""Measurements of a running model, and the rules that name a cause. A probe leaves the model unchanged."""

from collections.abc import Callable
from typing import Any

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
from normscope.diagnostics.measured import Cause, Finding
from normscope.diagnostics.numeric_range import NormRange, numeric_range
from normscope.diagnostics.recurrent import LayerSteps, NormSteps, step_profile
from normscope.diagnostics.rules import CAUSES
from normscope.diagnostics.warmup import warmup_features
from normscope.registry import Registry

PROBES: Registry[Callable[..., Any]] = Registry(
    "probe",
    {
        "gradient_shares": "normscope.diagnostics:gradient_shares",
        "gradients_at_norms": "normscope.diagnostics:gradients_at_norms",
        "gradients_through_training": "normscope.diagnostics:gradients_through_training",
        "depth_profile": "normscope.diagnostics:depth_profile",
        "coordinate_check": "normscope.diagnostics:coordinate_check",
        "step_profile": "normscope.diagnostics:step_profile",
        "warmup_features": "normscope.diagnostics:warmup_features",
        "numeric_range": "normscope.diagnostics:numeric_range",
        "invariances": "normscope.analysis:invariances",
        "parity": "normscope.analysis:parity",
        "curvature": "normscope.analysis:curvature",
        "standard_fisher": "normscope.analysis:standard_fisher",
        "normalized_fisher": "normscope.analysis:normalized_fisher",
        "implicit_learning_rate": "normscope.analysis:implicit_learning_rate",
    },
    group="normscope.probes",
    accepts=callable,
    wanted="a function",
)
"""Measurements of a running model or of a norm; every run of a study records the first one."""

__all__ = [
    "CAUSES",
    "PROBES",
    "Cause",
    "CoordinateCheck",
    "Diagnosis",
    "Finding",
    "GradientShares",
    "GradientStep",
    "LayerSteps",
    "NormGradients",
    "NormRange",
    "NormSteps",
    "StackDepth",
    "coordinate_check",
    "depth_profile",
    "diagnose",
    "gradient_shares",
    "gradients_at_norms",
    "gradients_through_training",
    "numeric_range",
    "step_profile",
    "warmup_features",
]
