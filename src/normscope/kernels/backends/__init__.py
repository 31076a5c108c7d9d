"""What computes a norm: C on CPUs, Triton on GPUs, and the choice between them."""
