"""Traits of the kernel family follow from its flags."""

import dataclasses

import pytest

from normscope.kernels.formula import CENTER, DETACH_STD, LENGTH, PHI, RELEASED, ROOT
from normscope.norms import NormTraits


def test_traits_of_a_formula() -> None:
    released = NormTraits.of_formula(CENTER | RELEASED | PHI, has_weight=False, has_bias=False)
    assert (released.centers, released.scales, released.eps_place) == (True, True, "deviation")
    assert (released.unbiased, released.has_factor, released.statistics) == (True, True, "features")
    length = NormTraits.of_formula(LENGTH | DETACH_STD, has_weight=True, has_bias=False, weight_is_length=True)
    assert (length.centers, length.eps_place, length.detaches_size, length.detaches_mean) == (
        False,
        "length",
        True,
        False,
    )
    assert length.weight_is_length
    assert not length.has_factor


def test_a_formula_without_a_divisor_has_no_eps() -> None:
    traits = NormTraits.of_formula(CENTER, has_weight=True, has_bias=True)
    assert (traits.scales, traits.eps_place) == (False, None)


def test_traits_cannot_be_changed() -> None:
    traits = NormTraits.of_formula(ROOT, has_weight=True, has_bias=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        traits.centers = True  # pyright: ignore
