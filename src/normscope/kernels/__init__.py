"""Fast kernels for a family of norms, on CPUs and GPUs."""

from normscope.kernels.backends import BACKENDS, Backend, BackendUnavailable, check_backend, describe
from normscope.kernels.dispatch import fused

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendUnavailable",
    "check_backend",
    "describe",
    "fused",
]
