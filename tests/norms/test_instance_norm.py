"""InstanceNorm is torch's, with the channels last."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.common_modules import module_db

from normscope.norms import ChannelsFirst, InstanceNorm

# Float64 sums of at most fifty terms of order ten.
SAME = {"rtol": 0, "atol": 1e-12}
TORCHS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@pytest.mark.parametrize("space", [(5,), (3, 5), (2, 3, 2)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"track_running_stats": True}, {"track_running_stats": True, "momentum": 0.7}]
)
def test_is_torchs_over_several_batches_in_training_and_evaluation(
    space: tuple[int, ...], affine: bool, settings: dict[str, Any]
) -> None:
    theirs = TORCHS[len(space)](6, affine=affine, eps=0.2, **settings, dtype=torch.float64)
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter, 1, 3)
    ours = InstanceNorm(6, affine=affine, eps=0.2, **settings, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    for step in range(4):
        for module in (ours, theirs):
            module.train(step != 2)
        x = (3 + 2 * torch.randn(4, *space, 6, dtype=torch.float64)).requires_grad_()
        upstream = torch.randn_like(x)
        got, want = ours(x), theirs(x.movedim(-1, 1)).movedim(1, -1)
        torch.testing.assert_close(got, want, **SAME)
        got = torch.autograd.grad(got, (x, *ours.parameters()), upstream)
        want = torch.autograd.grad(want, (x, *theirs.parameters()), upstream)
        torch.testing.assert_close(got, want, **SAME)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, **SAME)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("spatial", TORCHS)
def test_torchs_cases(spatial: int, training: bool) -> None:
    torchs: Any = TORCHS[spatial]
    (info,) = (info for info in module_db if info.module_cls is torchs)
    cases = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)
    for case in cases:
        names = ("normalized_shape", "eps", "momentum", "affine", "track_running_stats")
        settings = {"affine": False, **dict(zip(names, case.constructor_input.args, strict=False))}
        settings |= case.constructor_input.kwargs
        (x,) = case.forward_input.args
        theirs = torchs(*case.constructor_input.args, **case.constructor_input.kwargs, dtype=torch.float64)
        ours = ChannelsFirst(InstanceNorm(**settings, dtype=torch.float64))
        if x.dim() < spatial + 2:
            # Torch's take a sample without a batch, too.
            continue
        for module in (ours, theirs):
            module.train(training)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 6), (6,), (4, 1, 6), (4, 1, 1, 6)])
def test_samples_of_one_position_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects \[batch, positions, \.\.\., 6\], two or more, got \[|\[\.\.\., 6\]"):
        InstanceNorm(6)(torch.randn(shape))
    tracked = InstanceNorm(6, track_running_stats=True).eval()
    assert tracked(torch.randn(shape)).shape == shape


def test_running_moments_start_again() -> None:
    module = InstanceNorm(6, track_running_stats=True)
    module(torch.randn(4, 5, 6))
    assert module.running_mean.abs().max() > 0
    module.reset_running_stats()
    assert (module.running_mean.tolist(), module.running_var.tolist()) == ([0.0] * 6, [1.0] * 6)
    InstanceNorm(6).reset_running_stats()


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_refuses_a_momentum_that_is_no_weight(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum must be finite and at least 0 and at most 1, got {momentum}"):
        InstanceNorm(7, momentum=momentum)
