"""Recurrent layers step by step: sizes, gradients, gates and the norms inside."""

from normscope.diagnostics.recurrent.profile import LayerSteps, NormSteps
from normscope.diagnostics.recurrent.watch import step_profile

__all__ = ["LayerSteps", "NormSteps", "step_profile"]
