"""A model lent out for a measurement, and given back as it was, to the bit."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Give a model, and the random states, back as they were when the block ends, also when it fails.

    Parameters, buffers (running moments), gradients, the modes of every module, and the random states of Python, NumPy
    and torch. Tensors keep their storage. Hooks that stand on the model do run inside, as in any forward pass, and what
    a forward writes into plain attributes is not known here.

    Args:
        model: Any module.
        seed: Of torch's random state inside, so that dropout is the same in two measurements. None goes on from the
            state as it is, which two blocks in a row then share.

    Yields:
        Nothing. Gradients are None inside.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 the global one is kept
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    with torch.random.fork_rng(sorted(device.index or 0 for device in devices)):
        if seed is not None:
            torch.manual_seed(seed)
        # In evaluation torch's transformer layers otherwise take a way around their norms.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for parameter, data in weights:
                parameter.data = data
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for module, name, buffer, saved in buffers:
                    buffer.copy_(saved)
                    module._buffers[name] = buffer
            for module, mode in modes:
                module.training = mode
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def draw_seed(generator: torch.Generator | None) -> int | None:
    """Draw the seed of a measurement; None without a generator."""
    return None if generator is None else int(torch.randint(2**62, (), generator=generator))
