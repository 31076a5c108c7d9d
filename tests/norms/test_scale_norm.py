"""ScaleNorm gives every row the same length."""

import torch
from torch.nn import functional as F

from normscope.norms import ScaleNorm, scale_norm


def test_is_torchs_normalize_times_a_scalar() -> None:
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 7, dtype=torch.float64)
    ours, theirs = scale_norm(x, weight, 1e-3), weight * F.normalize(x, dim=-1, eps=1e-3)
    # Float64 sums of 28 terms of order one.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    got, want = (torch.autograd.grad(y, (x, weight), upstream) for y in (ours, theirs))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_every_row_gets_the_length_of_the_scalar() -> None:
    module = ScaleNorm(16, dtype=torch.float64)
    x = torch.randn(4, 16, dtype=torch.float64) * torch.tensor([[1e-3], [1.0], [7.0], [1e5]])
    length = torch.linalg.vector_norm(module(x), dim=-1)
    torch.testing.assert_close(length, torch.full_like(length, 4.0), rtol=1e-14, atol=0)


def test_the_scalar_starts_at_the_root_of_the_width() -> None:
    assert ScaleNorm(16).weight.tolist() == [4.0]
    assert ScaleNorm((2, 8)).weight.tolist() == [4.0]


def test_a_row_shorter_than_eps_is_divided_by_eps() -> None:
    y = scale_norm(torch.tensor([0.3, 0.4], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64), eps=1.0)
    torch.testing.assert_close(y, torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-15, atol=0)
