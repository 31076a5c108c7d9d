"""Which norms a model has: found, described and tried by what they compute."""

from normscope.inspection.norms_in import find_norms

__all__ = [
    "find_norms",
]
