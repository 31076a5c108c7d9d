"""BatchNorm is torch's, with the features last."""

import pytest
import torch
from torch import nn

from normscope.norms import BatchNorm, batch_moments

# Float64 sums of at most fifty terms of order ten.
SAME = {"rtol": 0, "atol": 1e-12}


def pair(**settings) -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Build ours and torch's with one state, away from ones and zeros."""
    theirs = nn.BatchNorm1d(7, dtype=torch.float64, **settings)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(1, 3)
        if theirs.running_var is not None:
            theirs.running_mean.normal_()
            theirs.running_var.uniform_(1, 3)
    ours = BatchNorm(7, dtype=torch.float64, **settings)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("momentum", [0.1, 0.7, None, 0.0])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track_running_stats", [True, False])
def test_is_torchs_over_several_batches_in_training_and_evaluation(
    momentum: float | None, affine: bool, track_running_stats: bool
) -> None:
    ours, theirs = pair(momentum=momentum, affine=affine, track_running_stats=track_running_stats, eps=0.2)
    for step in range(4):
        for module in (ours, theirs):
            module.train(step != 2)
        x = (3 + 2 * torch.randn(10, 5, 7, dtype=torch.float64)).requires_grad_()
        upstream = torch.randn(10, 5, 7, dtype=torch.float64)
        got, want = ours(x), theirs(x.movedim(-1, 1)).movedim(1, -1)
        torch.testing.assert_close(got, want, **SAME)
        got = torch.autograd.grad(got, (x, *ours.parameters()), upstream)
        want = torch.autograd.grad(want, (x, *theirs.parameters()), upstream)
        torch.testing.assert_close(got, want, **SAME)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, **SAME)


def test_moments_are_those_of_torch() -> None:
    x = torch.randn(6, 5, 7, dtype=torch.float64)
    variance, mean = torch.var_mean(x, (0, 1), correction=0)
    torch.testing.assert_close(batch_moments(x), (mean, variance), **SAME)


def test_unbiased_normalizes_by_the_divisor_of_one_less() -> None:
    x = torch.randn(4, 7, dtype=torch.float64)
    module = BatchNorm(7, 0.0, affine=False, unbiased=True, dtype=torch.float64)
    want = (x - x.mean(0)) / x.std(0, correction=1)
    torch.testing.assert_close(module(x), want, **SAME)
    biased = BatchNorm(7, 0.0, affine=False, dtype=torch.float64)
    torch.testing.assert_close(biased(x), want * (4 / 3) ** 0.5, **SAME)
    # What is tracked is the unbiased variance either way.
    torch.testing.assert_close(module.running_var, biased.running_var, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 7), (1, 1, 7)])
def test_refuses_to_train_on_a_single_row(shape: tuple[int, ...]) -> None:
    module = BatchNorm(7)
    with pytest.raises(ValueError, match=r"BatchNorm\(.*expects more than one row in training, got \["):
        module(torch.ones(shape))
    assert module.num_batches_tracked == 0
    assert module.eval()(torch.ones(shape)).shape == shape


def test_evaluation_does_not_track() -> None:
    module = BatchNorm(7).eval()
    module(torch.randn(4, 7))
    assert module.num_batches_tracked == 0
    assert module.running_mean.tolist() == [0.0] * 7


def test_running_moments_hold_no_graph() -> None:
    module = BatchNorm(7)
    module(torch.randn(4, 7, requires_grad=True))
    assert not module.running_mean.requires_grad
    assert not module.running_var.requires_grad


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_refuses_a_momentum_that_is_no_weight(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum must be finite and at least 0 and at most 1, got {momentum}"):
        BatchNorm(7, momentum=momentum)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_evaluation_in_half_precision_rounds_once(dtype: torch.dtype, digits: int) -> None:
    module = BatchNorm(64, dtype=dtype).eval()
    torch.nn.init.uniform_(module.weight, 0.5, 2.0)
    torch.nn.init.normal_(module.bias)
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2.0)
    x = torch.randn(256, 64, dtype=dtype)
    scale = (module.running_var.double() + module.eps).rsqrt() * module.weight.double()
    want = (x.double() - module.running_mean.double()) * scale + module.bias.double()
    # Half a unit in the last place of the output, and float32's own rounding of terms that may cancel.
    torch.testing.assert_close(module(x).double(), want, rtol=2.0**-digits, atol=1e-5)
