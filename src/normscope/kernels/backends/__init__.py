"""Backends: kernels in C for CPUs and in Triton for GPUs, and the choice between them."""
