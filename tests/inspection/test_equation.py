"""An equation is told by its rows, and gives them back."""

import pytest
import torch
from torch.nn import functional as F

from normscope.inspection.equation import Equation, matching, value_of
from normscope.inspection.probing import few_rows

X = few_rows((2, 5, 12), -1)
GAIN = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)
BIAS = torch.linspace(-1, 1, 12, dtype=torch.float64)


def test_torchs_layer_norm_is_told_with_its_roles() -> None:
    z = F.layer_norm(X, (12,), GAIN, BIAS, 1e-6)
    facts = matching(X, z, {"b": BIAS, "g": GAIN}, [1e-5, 1e-6], channels_first=False)
    assert facts == Equation(
        kind="layer_norm",
        width=12,
        eps=1e-6,
        eps_place="variance",
        weight="g",
        bias="b",
        unit_offset=False,
        unbiased=False,
        channels_first=False,
    )
    assert facts is not None
    again, size = value_of(facts, X, {"b": BIAS, "g": GAIN})
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(size, (X.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt())


@pytest.mark.parametrize("eps", [1e-6, 1e-8, 1e-12])
def test_the_smallest_length_is_told_by_small_rows(eps: float) -> None:
    z = F.normalize(X, dim=-1, eps=eps) * 12**0.5
    facts = matching(X, z, {}, [1e-5, 1e-6, 1e-8, 1e-12, 0.0], channels_first=False)
    assert facts is not None
    assert (facts.eps_place, facts.eps) == ("length", eps)


def test_nothing_is_told_of_other_rows() -> None:
    assert matching(X, X.tanh(), {}, [1e-5], channels_first=False) is None
