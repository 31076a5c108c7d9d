"""PyTorch's own test samples of an operator and of a module."""

import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

# Float64 sums of at most twenty terms of order ten, in either order.
SAME = {"rtol": 0, "atol": 1e-12}


def operator_samples(name: str) -> list:
    """Return the samples of ``torch.nn.functional.<name>``, without the one of a negative eps, which we refuse."""
    (operator,) = [op for op in op_db if op.name == f"nn.functional.{name}"]
    torch.manual_seed(0)
    samples = list(operator.sample_inputs("cpu", torch.float64, requires_grad=True))
    kept = [s for s in samples if s.kwargs.get("eps", 1e-5) >= 0]
    assert len(kept) == len(samples) - 1
    return kept


def module_inputs(module: type[nn.Module]) -> list:
    """Return the samples of a module."""
    (info,) = [info for info in module_db if info.module_cls is module]
    torch.manual_seed(0)
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    return list(inputs)


def gradients(y: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Give the gradients of a random projection of ``y``, always the same one."""
    upstream = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad(y, tensors, upstream))
