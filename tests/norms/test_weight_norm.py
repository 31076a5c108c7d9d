"""Weight normalization writes weights as direction and length, and changes no function at the start."""

import copy

import pytest
import torch
from torch import nn

from normscope.norms import apply_weight_norm, weight_norm


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 2),
        nn.BatchNorm2d(3),
        nn.Flatten(),
        nn.Linear(3 * 49, 5),
    )


def test_is_the_old_function_of_torch() -> None:
    v = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    g = torch.randn(4, dtype=torch.float64, requires_grad=True)
    ours, theirs = weight_norm(v, g), torch._weight_norm(v, g.reshape(4, 1, 1), 0)
    # Float64 sums of six terms of order one.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    upstream = torch.randn_like(ours)
    got, want = (torch.autograd.grad(w, (v, g), upstream) for w in (ours, theirs))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_its_gradients_are_those_of_the_paper() -> None:
    # Salimans, Kingma (2016), eq. (3).
    v = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    g = torch.randn(4, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 9, dtype=torch.float64)
    dv, dg = torch.autograd.grad(weight_norm(v, g), (v, g), upstream)
    length = torch.linalg.vector_norm(v, dim=1)
    want = (upstream * v).sum(1) / length
    torch.testing.assert_close(dg, want, rtol=0, atol=1e-13)
    scale = (g / length)[:, None]
    torch.testing.assert_close(dv, scale * (upstream - want[:, None] * v / length[:, None]), rtol=0, atol=1e-13)


def test_a_unit_has_the_length_g() -> None:
    g = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    length = torch.linalg.vector_norm(weight_norm(torch.randn(3, 4, 5, dtype=torch.float64), g), dim=(1, 2))
    torch.testing.assert_close(length, g.abs(), rtol=1e-14, atol=0)


def test_a_model_computes_the_same_and_every_weight_is_taken() -> None:
    model = convolutions().eval()
    twin = copy.deepcopy(model)
    x = torch.randn(2, 2, 8, 8)
    assert apply_weight_norm(model) == 3
    # One rounding of each weight; outputs are sums of 147 products of order one.
    torch.testing.assert_close(model(x), twin(x), rtol=1e-5, atol=1e-5)
    lengths = [model[index].parametrizations.weight.original0.shape for index in (0, 2, 5)]
    assert [list(shape) for shape in lengths] == [[4, 1, 1, 1], [1, 3, 1, 1], [5, 1]]


def test_a_taken_layer_is_the_definition() -> None:
    layer = nn.Linear(6, 4, dtype=torch.float64)
    apply_weight_norm(layer)
    parts = layer.parametrizations.weight
    with torch.no_grad():
        parts.original0.normal_()
        parts.original1.normal_()
    want = weight_norm(parts.original1, parts.original0)
    torch.testing.assert_close(layer.weight, want, rtol=0, atol=1e-14)


def test_refuses_a_model_without_weights_to_take() -> None:
    with pytest.raises(ValueError, match=r"expects a model with linear or convolutional layers, got Sequential"):
        apply_weight_norm(nn.Sequential(nn.ReLU(), nn.LayerNorm(3)))


def test_refuses_to_take_a_weight_twice() -> None:
    model = convolutions()
    apply_weight_norm(model)
    with pytest.raises(ValueError, match="of 0 expects a plain weight, got one that is parametrized already"):
        apply_weight_norm(model)


def test_refuses_to_untie_a_weight() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="of 1 expects an unshared weight, got one that 2 layers share"):
        apply_weight_norm(model)


def test_refuses_a_unit_without_direction_and_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight[1])
    with pytest.raises(ValueError, match="of 1 expects units of positive length, got a unit whose weights are all"):
        apply_weight_norm(model)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
