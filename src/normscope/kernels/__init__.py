"""How a norm is computed fast. Imports nothing of ours."""

from normscope.kernels.backends.choice import BACKENDS, Backend, BackendUnavailable, check_backend, describe
from normscope.kernels.dispatch import fused

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendUnavailable",
    "check_backend",
    "describe",
    "fused",
]
