"""Gradients at the norms of a model, in one training step and throughout training."""

from normscope.diagnostics.gradients.at_norms import NormGradients, gradients_at_norms
from normscope.diagnostics.gradients.history import GradientStep, gradients_through_training
from normscope.diagnostics.gradients.shares import GradientShares, gradient_shares

__all__ = [
    "GradientShares",
    "GradientStep",
    "NormGradients",
    "gradient_shares",
    "gradients_at_norms",
    "gradients_through_training",
]
