"""The meaning of a set of flags, against the definition."""

import pytest
import torch

from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, DIVISOR, LENGTH, PHI, RELEASED, ROOT, Formula
from support.family import MEMBERS, NORMS, definition, sample


def test_every_flag_is_a_bit_of_its_own_and_the_divisors_share_two() -> None:
    assert [CENTER, DETACH_MEAN, DETACH_STD, PHI] == [1, 2, 4, 8]
    assert {divisor & DIVISOR for divisor in (0, ROOT, RELEASED, LENGTH)} == {0, 16, 32, 48}
    assert not (CENTER | DETACH_MEAN | DETACH_STD | PHI) & DIVISOR


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("with_gain", [True, False], ids=["gain", "no_gain"])
def test_the_input_is_kept_exactly_where_a_first_derivative_depends_on_it(name: str, with_gain: bool) -> None:
    formula, upstream = MEMBERS[name], sample(4, 6, seed=1)
    weight = sample(6, seed=2).requires_grad_() if with_gain else None

    def gradients(x: torch.Tensor) -> list[torch.Tensor]:
        # The same rows stretched and shuffled about their mean: another input with the same mean and deviation.
        z, _ = definition(formula, x.requires_grad_(), weight=weight)
        return list(torch.autograd.grad(z, [x] if weight is None else [x, weight], upstream))

    x = sample(4, 6)
    one, other = gradients(x.clone()), gradients(x.flip(-1).clone())
    same = all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(one, other, strict=True))
    assert same == (not formula.keeps_input(with_gain))


@pytest.mark.parametrize("name", MEMBERS)
def test_what_moves_is_what_the_definition_differentiates(name: str) -> None:
    formula = MEMBERS[name]._replace(flags=MEMBERS[name].flags & ~PHI)
    x, upstream = sample(1, 6).requires_grad_(), sample(1, 6, seed=1)

    def gradient(of: Formula) -> torch.Tensor:
        return torch.autograd.grad(definition(of, x)[0], x, upstream)[0]

    # Where the mean moves, a constant added to a row changes nothing.
    assert formula.moves_with_mean == (gradient(formula).sum().abs() < 1e-12)
    still = gradient(formula._replace(flags=formula.flags | DETACH_STD))
    assert formula.moves_with_divisor == (not torch.equal(gradient(formula), still))


def test_a_formula_is_four_numbers_in_the_order_the_kernels_take() -> None:
    assert tuple(Formula(CENTER | ROOT, 1e-5)) == (17, 1e-5, 1.0, 0.0)
    assert NORMS["ada_norm"] == (CENTER | ROOT | PHI, 1e-5, 2.0, 0.1)
