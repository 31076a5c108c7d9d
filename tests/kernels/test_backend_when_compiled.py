"""A backend asked for by a layer and by NORMSCOPE_BACKEND: compiled code does what eager code does."""

from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from normscope import LayerNorm
from normscope.kernels import BACKENDS, BackendUnavailable
from normscope.kernels.backends import choice
from support.family import sample


def step(module: nn.Module, *, compiled: bool) -> list[Tensor] | str:
    """Return the results of a step, or the error that says why a backend cannot be used."""
    torch.compiler.reset()
    x = sample(3, 8).requires_grad_()
    try:
        z = (torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module)(x)
        z.backward(sample(3, 8, seed=1))
    except Exception as error:
        reason = next((each for each in (error, error.__cause__) if isinstance(each, BackendUnavailable)), None)
        text = str(error if reason is None else reason)
        assert "computes on cuda tensors" in text, text
        return "triton"
    return [z.detach(), x.grad]


@pytest.mark.parametrize("variable", [None, *BACKENDS])
@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_compiled_code_does_what_eager_code_does(backend: choice.Backend | None, variable: str | None) -> None:
    module = LayerNorm(8, dtype=torch.float64, backend=backend)
    wanted = step(LayerNorm(8, dtype=torch.float64, backend="eager"), compiled=False)
    with (
        mock.patch.object(choice, "requested_backend", return_value=variable),
        mock.patch("normscope.kernels.dispatch._call", None),
    ):
        eager, compiled = step(module, compiled=False), step(module, compiled=True)
    if (backend or variable) == "triton":
        assert (eager, compiled) == ("triton", "triton")
        return
    for got in (eager, compiled):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)
