"""Profiles by depth against direct measurements, and detected placements against those of the model."""

import math
import warnings

import pytest
import torch
from torch import nn

from normscope.diagnostics.depth.profile import LayerDepth, StackDepth, depth_profile, theory_lines
from normscope.placement import PLACEMENTS
from support.planted import PRE_WITHOUT_END, Case, text


def profile(case: Case) -> StackDepth:
    (stack,) = depth_profile(case.model, case.batch, case.loss)
    return stack


@pytest.mark.parametrize(
    ("placement", "want"),
    [
        ("post", ("post", False)),
        ("deepnorm", ("post", False)),
        ("recursive_skip", ("post", False)),
        ("pre", ("pre", True)),
        ("peri", ("pre", True)),
        ("layernorm_scaling", ("pre", True)),
        ("output", ("none", True)),
        ("none", ("none", False)),
        ("mix", ("mixed", True)),
    ],
)
def test_placements_are_determined_from_the_calls(placement: str, want: tuple[str, bool]) -> None:
    stack = profile(text(0, placement, layers=4))
    assert (stack.placement, stack.final_norm) == want
    assert stack.residual
    assert len(stack.layers) == 8


def test_a_pre_stream_without_its_last_norm() -> None:
    stack = profile(text(0, PRE_WITHOUT_END))
    assert (stack.placement, stack.final_norm) == ("pre", False)


def test_layers_without_a_residual_are_not_residual() -> None:
    body = nn.Sequential(*(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU()) for _ in range(6)))
    (stack,) = depth_profile(body, torch.randn(40, 32), lambda m, b: m(b).square().mean())
    assert not stack.residual


def test_sizes_are_those_taken_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3))
    x, weights = torch.randn(4, 5), torch.randn(4, 3)
    (stack,) = depth_profile(model, x, lambda m, b: (m(b) * weights).sum())
    first = model[0](x)
    second = model[1](first)
    third = model[2](second)
    gradients = torch.autograd.grad((third * weights).sum(), [first, second, third, model[1].weight, model[1].bias])
    sizes = [float(t.detach().square().mean().sqrt()) for t in (first, second, third)]
    assert [layer.activation for layer in stack.layers] == pytest.approx(sizes)
    assert [layer.gradient for layer in stack.layers] == pytest.approx(
        [float(g.square().mean().sqrt()) for g in gradients[:3]]
    )
    both = math.sqrt(float(gradients[3].square().sum() + gradients[4].square().sum()))
    assert stack.layers[1].weight_gradient == pytest.approx(both)
    assert stack.growth == pytest.approx(sizes[2] / sizes[1])


def test_a_stream_that_grows_by_a_factor_fails_and_one_that_adds_up_passes() -> None:
    assert not profile(text(0, "none", layers=16)).passes["activation"]
    assert profile(text(0, "pre", layers=16)).passes["activation"]


def test_pre_lines_hold_xavier_square_layers_between_them() -> None:
    """Lemma 2 under its assumptions: uniform attention, square Xavier-Gaussian maps, inputs of unit size."""
    torch.manual_seed(0)
    width, layers = 128, 12

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
            self.value, self.inner, self.outer = (nn.Linear(width, width, bias=False) for _ in range(3))
            for linear in (self.value, self.inner, self.outer):
                nn.init.normal_(linear.weight, std=width**-0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.value(self.one(x)).mean(1, keepdim=True)
            return x + self.outer(self.inner(self.two(x)).relu())

    model = nn.Sequential(*(Layer() for _ in range(layers)), nn.LayerNorm(width))
    (stack,) = depth_profile(model, torch.randn(8, 5, width), lambda m, b: (m(b) * torch.randn(width)).mean())
    assert stack.placement == "pre"
    lines = stack.theory
    for layer, low, high in zip(stack.layers, lines["activation_low"], lines["activation_high"], strict=True):
        # The lower end is nearly reached where attention averages: 12 layers of 128, a relative error of some percent.
        assert 0.93 * low < layer.activation < high
    square = torch.tensor(lines["activation_low"]).square() - stack.layers[0].activation_in ** 2
    torch.testing.assert_close(square, torch.arange(1, layers + 1) / 2, rtol=1e-4, atol=1e-4)


def test_post_lines() -> None:
    layers = [
        LayerDepth(
            name=str(place),
            call=place,
            placement="post",
            norms=2,
            activation_in=1.0,
            activation=1.0,
            resemblance=0.7,
            gradient=4.0,
            weight_gradient=None,
            weight_size=1.0,
        )
        for place in range(3)
    ]
    lines = theory_lines(layers, "post")
    assert lines["gradient"] == pytest.approx((4 * 2 / 3, 4 * (2 / 3) ** 0.5, 4.0))
    assert lines["activation_low"] == (1.0, 1.0, 1.0)
    assert theory_lines(layers, "mixed") == {}


def test_the_final_norm_of_an_encoder_is_not_that_of_the_decoder() -> None:
    with warnings.catch_warnings():
        # torch says that it takes no fast path for norms in the branches.
        warnings.simplefilter("ignore")
        model = nn.Transformer(8, 2, 2, 2, 16, batch_first=True, norm_first=True)
    model.decoder.norm = None
    x = torch.randn(2, 3, 8)
    stacks = depth_profile(model, x, lambda m, b: m(b, b).square().mean())
    assert [(stack.name, stack.final_norm) for stack in stacks] == [("encoder.layers", True), ("decoder.layers", False)]


def test_every_catalogue_placement_with_branches_is_read() -> None:
    for name in PLACEMENTS:
        if name != "preactivation":
            assert profile(text(0, name, layers=2)).layers, name


class Ends(nn.Module):
    """A Pre-LN layer, and at the end of a network its loss, alone or beside other things."""

    def __init__(self, returns: str = "") -> None:
        super().__init__()
        self.norm, self.linear, self.returns = nn.LayerNorm(8), nn.Linear(8, 8), returns

    def forward(self, x: torch.Tensor) -> object:
        y = x + self.linear(self.norm(x))
        loss = y.square().mean()
        return {"": y, "loss": loss, "no detections and a loss": ([], {"loss": loss}), "both": (loss, y)}[self.returns]


@pytest.mark.parametrize(
    ("returns", "loss", "layers"),
    [
        ("loss", lambda model, batch: model(batch), ["0", "1"]),
        ("no detections and a loss", lambda model, batch: model(batch)[1]["loss"], ["0", "1"]),
        ("both", lambda model, batch: model(batch)[0], ["0", "1", "2"]),
    ],
)
def test_a_layer_that_returns_its_loss_is_no_end_of_a_stream(returns: str, loss, layers: list[str]) -> None:
    model = nn.Sequential(Ends(), Ends(), Ends(returns))
    (stack,) = depth_profile(model, torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), loss)
    assert [layer.name for layer in stack.layers] == layers
    assert all(math.isfinite(layer.activation) and math.isfinite(layer.gradient) for layer in stack.layers)
