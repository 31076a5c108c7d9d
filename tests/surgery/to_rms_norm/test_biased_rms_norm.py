"""RMSNorm with a bias is torch's RMSNorm plus a bias, and torch's LayerNorm of centered rows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.surgery.to_rms_norm.norms import BiasedRMSNorm


def made(dtype: torch.dtype = torch.float64) -> BiasedRMSNorm:
    weight, bias = (nn.Parameter(torch.rand(6, dtype=dtype) + 0.5) for _ in range(2))
    return BiasedRMSNorm((6,), 1e-3, weight, bias)


def test_is_torchs_plus_the_bias_with_its_gradients() -> None:
    norm = made()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    want = F.rms_norm(x, (6,), norm.weight, 1e-3) + norm.bias
    got = norm(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    upstream = torch.randn_like(got)
    tensors = [x, norm.weight, norm.bias]
    theirs = torch.autograd.grad(want, tensors, upstream)
    # Sums of five terms of order one.
    torch.testing.assert_close(torch.autograd.grad(got, tensors, upstream), theirs, rtol=0, atol=1e-12)


def test_is_layer_norm_of_centered_rows() -> None:
    norm = made()
    x = torch.randn(5, 6, dtype=torch.float64)
    x = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(norm(x), F.layer_norm(x, (6,), norm.weight, norm.bias, 1e-3), rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", ["eager", None])
def test_keeps_the_dtype_of_the_input(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend:
        monkeypatch.setenv("NORMSCOPE_BACKEND", backend)
    norm = made(torch.float32)
    x = torch.randn(5, 6, dtype=torch.bfloat16)
    want = (F.rms_norm(x.double(), (6,), norm.weight.double(), 1e-3) + norm.bias.double()).to(torch.bfloat16)
    got = norm(x)
    assert got.dtype == torch.bfloat16
    # One rounding of bfloat16, at outputs of order one.
    torch.testing.assert_close(got, want, rtol=0, atol=2**-6)
    assert list(norm.state_dict()) == list(nn.LayerNorm(6).state_dict())


def test_wrong_width() -> None:
    with pytest.raises(ValueError, match=r"expects \[\.\.\., 6\], got \[2, 5\]"):
        made()(torch.randn(2, 5, dtype=torch.float64))
