"""Every trait that a norm declares is what its module measurably does, in float64, for ours and for torch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope import norms
from normscope.inspection import traits_of
from normscope.kernels.formula import Formula
from normscope.norms import NORMS
from normscope.norms.traits import EpsPlace, NormTraits
from support.family import definition

WIDTH, POSITIONS, EPS = 8, 4, 1e-2
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in NORMS},
    # Without its factor AdaNorm is the normalized row.
    "ada_norm": ("ada_norm", {"k": 0.0}),
    "ada_norm released": ("ada_norm", {"k": 0.0, "convention": "released"}),
    "detach_norm mean": ("detach_norm", {"std": False}),
    "detach_norm std": ("detach_norm", {"mean": False}),
    "detach_norm nothing": ("detach_norm", {"mean": False, "std": False}),
    "detach_norm held": ("detach_norm", {"hold_size": True}),
    "batch_norm unbiased": ("batch_norm", {"unbiased": True}),
}
TORCHS: dict[str, Callable[..., nn.Module]] = {
    "LayerNorm": nn.LayerNorm,
    "RMSNorm": nn.RMSNorm,
    "BatchNorm1d": nn.BatchNorm1d,
    "SyncBatchNorm": nn.SyncBatchNorm,
    "GroupNorm": lambda width, **settings: nn.GroupNorm(2, width, **settings),
    "InstanceNorm1d": lambda width, **settings: nn.InstanceNorm1d(width, affine=True, **settings),
}
every_norm = pytest.mark.parametrize("name", [*SETTINGS, *TORCHS])


def built(name: str, **settings: Any) -> nn.Module:
    """Build a norm with a weight of one and a bias of zero, in training."""
    if name in TORCHS:
        return TORCHS[name](WIDTH, **settings).double()
    key, arguments = SETTINGS[name]
    norm = NORMS[key](WIDTH, **arguments, **settings).double()
    if isinstance(norm, norms.FRN):
        # Far below any output: the activation is measured by a test of its own.
        nn.init.constant_(norm.threshold, -1e9)
    return norm


def run(name: str, norm: nn.Module, x: Tensor) -> Tensor:
    """Run a norm on ``[B, T, D]``; torch's batch, group and instance norms have D on axis 1."""
    if name in TORCHS and not hasattr(norm, "normalized_shape"):
        return norm(x.movedim(-1, 1)).movedim(1, -1)
    return norm(x)


def declared(norm: nn.Module) -> NormTraits:
    traits = traits_of(norm)
    assert traits is not None, "declares nothing"
    return traits


def drawn(seed: int = 0) -> Tensor:
    return torch.randn(3, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1


def balanced() -> Tensor:
    """Build rows of plus and minus one: of any group of statistics the mean is 0 and the mean square 1."""
    position, feature = torch.arange(POSITIONS)[:, None], torch.arange(WIDTH)
    signs = 1.0 - 2.0 * ((position + feature) % 2)
    return torch.stack([signs, -signs, signs]).double()


def group_size(norm: nn.Module) -> int:
    """Return the number of values that share a mean and a size in ``[3, T, D]``."""
    groups: Any = getattr(norm, "num_groups", WIDTH)
    sizes = {"features": WIDTH, "batch": 3 * POSITIONS, "channels": POSITIONS * WIDTH // groups}
    return sizes[declared(norm).statistics or "features"]


@every_norm
def test_statistics_are_over_what_is_declared(name: str) -> None:
    norm, x = built(name), drawn()
    other = x.clone()
    other[0, 0, 0] += 2.0
    changed = (run(name, norm, x) - run(name, norm, other)).abs() > 1e-9
    batch, position, feature = bool(changed[1:].any()), bool(changed[0, 1:, 0].any()), bool(changed[0, 0, 1:].any())
    if batch:
        measured = "batch"
    elif position:
        measured = "channels"
    else:
        measured = "features" if feature else None
    assert measured == declared(norm).statistics


@every_norm
def test_centers(name: str) -> None:
    norm, x = built(name), drawn()
    before, after = run(name, norm, x), run(name, norm, x + 0.37)
    assert torch.allclose(before, after, rtol=0, atol=1e-9) == declared(norm).centers


@every_norm
def test_scales_and_unbiased(name: str) -> None:
    norm, x = built(name, eps=1e-12), drawn()
    traits, before, after = declared(norm), run(name, norm, x), run(name, norm, 3 * x)
    assert torch.allclose(before, after, rtol=0, atol=1e-7) == traits.scales
    if traits.scales:
        size, count = float(run(name, norm, balanced()).detach().square().mean()), group_size(norm)
        assert size == pytest.approx((count - 1) / count if traits.unbiased else 1.0, rel=1e-6)


@every_norm
def test_eps_stands_where_it_is_declared(name: str) -> None:
    traits = declared(built(name))
    measured = []
    for scale in (0.1, 1e-3):
        outputs = [run(name, built(name, eps=eps), scale * balanced()).detach() for eps in (EPS, 1e-12)]
        measured.append([float(output.abs().amax()) for output in outputs])
    if traits.eps_place is None:
        assert all(with_eps == without for with_eps, without in measured)
        return
    count = group_size(built(name))
    correction = count / (count - 1) if traits.unbiased else 1.0

    def predicted(place: EpsPlace, scale: float) -> float:
        variance, length = scale**2 * correction, scale * WIDTH**0.5
        return {
            "variance": scale / (variance + EPS) ** 0.5,
            "deviation": scale / (variance**0.5 + EPS),
            "length": WIDTH**0.5 * scale / max(length, EPS),
        }[place]

    fits = {
        place
        for place in ("variance", "deviation", "length")
        if all(
            with_eps == pytest.approx(predicted(place, scale), rel=1e-6)
            for scale, (with_eps, _) in zip((0.1, 1e-3), measured, strict=True)
        )
    }
    assert fits == {traits.eps_place}


@every_norm
def test_weight_and_bias_are_the_declared_parameters(name: str) -> None:
    norm, x = built(name), drawn()
    traits, before = declared(norm), run(name, norm, x)
    learned: Any = dict(norm.named_parameters())
    assert ("weight" in learned, "bias" in learned) == (traits.has_weight, traits.has_bias)
    with torch.no_grad():
        if traits.has_weight:
            learned["weight"].mul_(2)
            torch.testing.assert_close(run(name, norm, x), 2 * before)
            learned["weight"].div_(2)
        if traits.has_bias:
            learned["bias"].add_(0.5)
            torch.testing.assert_close(run(name, norm, x), before + 0.5)
    if traits.weight_is_length:
        lengths = torch.linalg.vector_norm(before, dim=-1)
        torch.testing.assert_close(lengths, learned["weight"].detach().expand_as(lengths))
    assert traits.weight_is_length == (traits.has_weight and learned["weight"].numel() == 1)


@pytest.mark.parametrize("name", SETTINGS)
def test_arguments_leave_out_weight_and_bias(name: str) -> None:
    traits = declared(built(name))
    if traits.without_weight:
        assert "weight" not in dict(built(name, **traits.without_weight).named_parameters())
    if traits.without_bias:
        left = dict(built(name, **traits.without_bias).named_parameters())
        assert "bias" not in left
        assert ("weight" in left) == traits.has_weight


@every_norm
def test_statistics_are_detached_where_declared(name: str) -> None:
    norm, x = built(name), (1e3 * drawn()).requires_grad_()
    traits = declared(norm)
    if not traits.scales:
        assert not (traits.detaches_mean)
        assert not (traits.detaches_size)
        return
    upstream = drawn(1)
    (gradient,) = torch.autograd.grad(run(name, norm, x), x, upstream)
    groups: Any = getattr(norm, "num_groups", WIDTH)
    value = x.detach()
    if traits.statistics == "batch":
        rows, values = (tensor.reshape(-1, WIDTH).T for tensor in (gradient, value))
    elif traits.statistics == "channels":
        rows, values = (tensor.movedim(-1, 1).reshape(3 * groups, -1) for tensor in (gradient, value))
    else:
        rows, values = gradient.reshape(-1, WIDTH), value.reshape(-1, WIDTH)
    size = float(rows.abs().amax())
    if traits.centers:
        values = values - values.mean(-1, keepdim=True)
        assert (float(rows.sum(-1).abs().amax()) > 1e-6 * size) == traits.detaches_mean
    along = (rows * values).sum(-1) / torch.linalg.vector_norm(values, dim=-1)
    assert (float(along.abs().amax()) > 1e-6 * size) == traits.detaches_size


@every_norm
def test_an_activation_is_what_bends_the_output(name: str) -> None:
    norm, x = built(name), drawn()
    if isinstance(norm, norms.FRN):
        nn.init.zeros_(norm.threshold)
    is_odd = torch.allclose(run(name, norm, -x), -run(name, norm, x), rtol=0, atol=1e-9)
    assert is_odd != declared(norm).is_activation


@every_norm
def test_the_kernel_formula_computes_it(name: str) -> None:
    norm, x = built(name, eps=EPS), drawn().requires_grad_()
    flags = declared(norm).formula
    if flags is None:
        return
    number: Any = getattr
    formula = Formula(flags, EPS, number(norm, "scale", 1.0), number(norm, "k", 0.0))
    learned: Any = dict(norm.named_parameters())
    weight = learned["weight"].expand(WIDTH) if "weight" in learned else None
    theirs, _ = definition(formula, x, weight=weight, bias=learned.get("bias"))
    ours = run(name, norm, x)
    torch.testing.assert_close(ours, theirs)
    (wanted,), (got,) = (torch.autograd.grad(z, x, drawn(1)) for z in (theirs, ours))
    torch.testing.assert_close(got, wanted)


def test_every_registered_norm_of_ours_declares_traits() -> None:
    assert [name for name in NORMS if traits_of(NORMS[name](WIDTH)) is None] == []


@every_norm
def test_the_common_size_is_held_where_declared(name: str) -> None:
    norm, x = built(name, eps=1e-12), drawn().requires_grad_()
    traits = declared(norm)
    (gradient,) = torch.autograd.grad(run(name, norm, x), x, drawn(1))
    centered = (x - x.mean(-1, keepdim=True)).detach()
    along = float((gradient * centered).sum()) / float(gradient.norm() * centered.norm())
    if traits.detaches_size:
        assert (abs(along) < 1e-10) == traits.holds_size
    else:
        assert not traits.holds_size


@pytest.mark.parametrize("detach", [True, False])
def test_the_factor_moves_where_declared(detach: bool) -> None:
    norm, x = norms.AdaNorm(WIDTH, k=0.3, detach=detach).double(), drawn().requires_grad_()
    direction, upstream = drawn(2), drawn(1)
    (gradient,) = torch.autograd.grad(norm(x), x, upstream)
    step = 1e-5 * direction
    difference = float(((norm(x + step) - norm(x - step)) * upstream).sum().detach()) / 2e-5
    is_derivative = float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-6)
    assert is_derivative == norm.traits.factor_moves == (not detach)
    assert norm.traits.has_factor


def test_a_factor_is_declared_by_ada_norm_alone() -> None:
    assert {name for name in NORMS if declared(NORMS[name](WIDTH)).has_factor} == {"ada_norm"}
