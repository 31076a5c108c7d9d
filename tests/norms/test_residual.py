import pytest
import torch

from normscope.norms import NORMS

FUSED = ["layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "scale_norm"]


@pytest.mark.parametrize("backend", ["eager", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_fused_addition_is_two_calls_to_the_bit(name: str, dtype: torch.dtype, backend: str | None) -> None:
    norm = NORMS[name](33, dtype=dtype, backend=backend)
    generator = torch.Generator().manual_seed(1)
    x, residual, dz, dtotal = (torch.randn(4, 33, generator=generator).to(dtype).requires_grad_() for _ in range(4))
    z, total = norm(x, residual)
    want = x + residual
    assert torch.equal(total, want)
    assert torch.equal(z, norm(want))
    inputs = [x, residual, *norm.parameters()]
    got = torch.autograd.grad([z, total], inputs, [dz, dtotal])
    wanted = torch.autograd.grad([norm(want), want], inputs, [dz, dtotal])
    for one, other in zip(got, wanted, strict=True):
        # Two calls round the norm's gradient before they add the other one; fused, the sum is rounded once.
        torch.testing.assert_close(one, other, rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", FUSED)
def test_a_sum_alone_passes_its_gradient_on(name: str) -> None:
    x, residual = (torch.randn(2, 5, requires_grad=True) for _ in range(2))
    _, total = NORMS[name](5)(x, residual)
    upstream = torch.randn(2, 5)
    assert all(torch.equal(one, upstream) for one in torch.autograd.grad(total, [x, residual], upstream))


@pytest.mark.parametrize("backend", ["eager", None])
@pytest.mark.parametrize("residual", [torch.zeros(3, 5), torch.zeros(2, 5, dtype=torch.float64), torch.zeros(5)])
@pytest.mark.parametrize("name", FUSED)
def test_another_shape_or_dtype_is_refused(name: str, residual: torch.Tensor, backend: str | None) -> None:
    with pytest.raises(ValueError, match=r"expects a residual like its input, \(\[2, 5\], torch.float32\), got"):
        NORMS[name](5, backend=backend)(torch.zeros(2, 5), residual)
