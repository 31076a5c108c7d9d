"""Conventions determined from outputs, for implementations with known source code."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope import norms
from normscope.analysis.convention import Convention, closed_form
from normscope.analysis.fit_convention import fit_convention

WIDTH = 48
LAYER_NORM = Convention(
    center=True,
    divisor="biased",
    place="inside",
    eps=1e-5,
    scale="w",
    bias=True,
    statistics="float32",
    order="scale, then cast",
)
SIMPLE = replace(LAYER_NORM, scale="none", bias=False)
RMS_NORM = replace(LAYER_NORM, center=False, bias=False, eps=1e-6)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


KNOWN = {
    "torch layer norm": (nn.LayerNorm(WIDTH), LAYER_NORM),
    "torch layer norm, eps 1e-12": (nn.LayerNorm(WIDTH, eps=1e-12), replace(LAYER_NORM, eps=1e-12)),
    "torch layer norm without bias": (nn.LayerNorm(WIDTH, bias=False), replace(LAYER_NORM, bias=False)),
    "torch layer norm without parameters": (nn.LayerNorm(WIDTH, elementwise_affine=False), SIMPLE),
    "torch rms norm": (nn.RMSNorm(WIDTH, eps=1e-6), RMS_NORM),
    "torch normalize": (
        F.normalize,
        replace(SIMPLE, center=False, divisor="length", place="least", eps=1e-12, statistics="input"),
    ),
    "layer norm": (norms.LayerNorm(WIDTH), LAYER_NORM),
    "detach norm": (norms.DetachNorm(WIDTH), SIMPLE),
    "rms norm": (norms.RMSNorm(WIDTH, eps=1e-6), RMS_NORM),
    "scale norm": (norms.ScaleNorm(WIDTH), replace(RMS_NORM, divisor="length", place="least", eps=1e-5)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_implementations(name: str) -> None:
    norm, want = KNOWN[name]
    fit = fit_convention(norm, WIDTH, generator=generator())
    assert fit.convention is not None
    if want.scale == "none":
        # Without a weight there is one rounding.
        want = replace(want, order=fit.convention.order)
    assert fit.convention == want
    assert not fit.eps_follows_dtype
    assert fit.agreement > 0.95
    assert fit.misfit < 1e-4


@pytest.mark.parametrize("divisor", ["biased", "unbiased"])
@pytest.mark.parametrize("place", ["inside", "added", "least"])
@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("center", [True, False])
def test_functions_of_every_divisor(divisor, place, eps: float, center: bool) -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        c = x - x.mean(-1, keepdim=True) if center else x
        s = (c.pow(2).sum(-1, keepdim=True) / (WIDTH - (divisor == "unbiased"))).sqrt()
        return c / {"inside": (s**2 + eps).sqrt(), "added": s + eps, "least": s.clamp(min=eps)}[place]

    convention = fit_convention(plain, WIDTH, generator=generator()).convention
    assert convention is not None
    assert (convention.center, convention.divisor, convention.place) == (center, divisor, place)
    assert convention.eps == pytest.approx(eps, rel=1e-2)


@pytest.mark.parametrize(
    ("scale", "bias", "casts"),
    [
        (scale, bias, casts)
        for scale in ("w", "1 + w")
        for bias in (True, False)
        for casts in (
            ("float32", "scale, then cast"),
            ("float32", "cast, then scale"),
            ("input", "cast, then scale"),
        )
    ],
)
def test_modules_of_every_weight_and_order(scale, bias: bool, casts) -> None:
    convention = replace(LAYER_NORM, scale=scale, bias=bias, statistics=casts[0], order=casts[1])

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beta = nn.Parameter(torch.zeros(WIDTH)) if bias else None
            self.unused = nn.Parameter(torch.zeros(WIDTH))
            self.gamma = nn.Parameter(torch.ones(WIDTH))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return closed_form(convention, x, self.gamma, self.beta)

    fit = fit_convention(Written(), WIDTH, generator=generator())
    assert fit.convention == convention
    assert (fit.weight, fit.bias) == ("gamma", "beta" if bias else None)
    assert fit.agreement == 1.0


def test_without_eps() -> None:
    convention = fit_convention(
        lambda x: x / x.pow(2).mean(-1, keepdim=True).sqrt(), 8, generator=generator()
    ).convention
    assert convention is not None
    assert (convention.place, convention.eps) == ("none", 0.0)


def test_an_eps_of_the_dtype_is_noticed() -> None:
    fit = fit_convention(nn.RMSNorm(WIDTH), WIDTH, generator=generator())
    assert fit.convention is not None
    assert fit.convention.eps == torch.finfo(torch.float32).eps
    assert fit.eps_follows_dtype


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (norms.AdaNorm(WIDTH), "not a weight times"),
        (norms.DyT(WIDTH), "not a weight times"),
        (norms.BatchNorm(WIDTH), "not a weight times"),
        (norms.NoNorm(WIDTH), "no divisor of the family"),
        (lambda x: torch.tanh(x.norm(dim=-1, keepdim=True)) * x, "no divisor of the family"),
        (lambda x: x / x.abs().mean(-1, keepdim=True), "not a weight times"),
        (nn.Identity(), "no divisor of the family"),
        (
            lambda x: F.rms_norm(x - 0.5 * x.mean(-1, keepdim=True), (WIDTH,)),
            "the closed form does not match on shifted rows",
        ),
    ],
)
def test_norms_outside_the_family_are_recognized(norm, words: str) -> None:
    fit = fit_convention(norm, WIDTH, generator=generator())
    assert fit.convention is None
    assert words in fit.why


def test_the_norm_stays_as_it_was() -> None:
    norm = nn.LayerNorm(WIDTH)
    twin = copy.deepcopy(norm)
    fit_convention(norm, WIDTH, generator=generator())
    for key, tensor in norm.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[key])


def test_functions_that_are_not_norms_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3, for the divisors to differ, got 2"):
        fit_convention(nn.LayerNorm(2), 2, generator=generator())
    with pytest.raises(ValueError, match=r"map \[32, 8\] to the same shape, got \[32, 4\]"):
        fit_convention(nn.Linear(8, 4), 8, generator=generator())
