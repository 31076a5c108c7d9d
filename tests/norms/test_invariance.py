"""Table 1 of Ba, Kiros, Hinton (2016): what each method's output does not depend on.

The running text of section 5.1 calls weight normalization invariant to re-scaling the data set. The table, and the
arithmetic, say no.
"""

import pytest
import torch
from torch import Tensor, nn

from normscope.norms import BatchNorm, LayerNorm, apply_weight_norm

CASES, INPUTS, UNITS = 12, 5, 7
FACTOR = 3.0


def matrix_rescaled(weight: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    return FACTOR * weight, data


def matrix_recentered(weight: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    return weight + torch.linspace(-1, 2, INPUTS, dtype=weight.dtype), data


def vector_rescaled(weight: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    factors = torch.ones(UNITS, 1, dtype=weight.dtype)
    factors[2] = FACTOR
    return factors * weight, data


def data_rescaled(weight: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    return weight, FACTOR * data


def data_recentered(weight: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    return weight, data + torch.linspace(-1, 2, INPUTS, dtype=data.dtype)


def one_case_rescaled(weight: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    factors = torch.ones(CASES, 1, dtype=data.dtype)
    factors[4] = FACTOR
    return weight, factors * data


def batch_normed(weight: Tensor, data: Tensor) -> Tensor:
    return spread(BatchNorm(UNITS, eps=0.0, dtype=torch.float64))(data @ weight.T)


def layer_normed(weight: Tensor, data: Tensor) -> Tensor:
    return spread(LayerNorm(UNITS, eps=0.0, dtype=torch.float64))(data @ weight.T)


def weight_normed(weight: Tensor, data: Tensor) -> Tensor:
    layer = nn.Linear(INPUTS, UNITS, dtype=torch.float64)
    apply_weight_norm(layer)
    spread(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original1.copy_(weight)
    return layer(data)


def spread(module: nn.Module) -> nn.Module:
    """Give every parameter fixed values away from ones and zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.linspace(1, 2, parameter.numel(), dtype=torch.float64).reshape(parameter.shape))
    return module


METHODS = {"batch": batch_normed, "weight": weight_normed, "layer": layer_normed}
TABLE = [
    # change, then batch norm, weight norm, layer norm
    (matrix_rescaled, True, True, True),
    (matrix_recentered, False, False, True),
    (vector_rescaled, True, True, False),
    (data_rescaled, True, False, True),
    (data_recentered, True, False, False),
    (one_case_rescaled, False, False, True),
]
CELLS = [(change, name, row[i]) for change, *row in TABLE for i, name in enumerate(METHODS)]


@pytest.mark.parametrize(
    ("change", "method", "invariant"), CELLS, ids=[f"{change.__name__}-{name}" for change, name, _ in CELLS]
)
def test_cell(change, method: str, invariant: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(UNITS, INPUTS, dtype=torch.float64, generator=generator)
    data = torch.randn(CASES, INPUTS, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        difference = (METHODS[method](*change(weight, data)) - METHODS[method](weight, data)).abs().max()
    # Outputs are of order one: either float64 rounding, or plain to see.
    if invariant:
        assert difference < 1e-12
    else:
        assert difference > 0.1


def test_the_table_has_eighteen_cells() -> None:
    assert len(CELLS) == 18


def test_a_negative_factor_turns_the_sign_of_a_layer_normed_input() -> None:
    weight = torch.randn(UNITS, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = torch.randn(CASES, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    norm = LayerNorm(UNITS, eps=0.0, elementwise_affine=False)
    # Float64 rounding of outputs of order one.
    torch.testing.assert_close(norm(data @ (-FACTOR * weight).T), -norm(data @ weight.T), rtol=0, atol=1e-13)
