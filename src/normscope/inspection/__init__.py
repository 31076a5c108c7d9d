"""Which norms a model has: found, and described by their class or by what they compute."""

from normscope.inspection.find import find_norms
from normscope.inspection.norm_in_model import NormInModel, Unreachable, traits_of

__all__ = [
    "NormInModel",
    "Unreachable",
    "find_norms",
    "traits_of",
]
