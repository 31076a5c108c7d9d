"""Backends: kernels in C for CPUs and in Triton for GPUs, and the choice between them."""

from normscope.kernels.backends.choice import BACKENDS, Backend, BackendUnavailable, check_backend, choose, describe

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendUnavailable",
    "check_backend",
    "choose",
    "describe",
]
