"""Every pair of values occurs, in far fewer cases than there are combinations."""

from itertools import combinations, product

import pytest

from support.pairwise import pairwise


@pytest.mark.parametrize("sizes", [(1,), (3, 2), (2, 48, 2, 4), (4, 9, 4, 4, 2), (2, 2, 2, 2, 2), (1, 1, 5)], ids=str)
def test_every_pair_occurs_and_few_cases_are_enough(sizes: tuple[int, ...]) -> None:
    axes = [[f"{axis}.{place}" for place in range(size)] for axis, size in enumerate(sizes)]
    cases = pairwise(*axes)
    for one, two in combinations(range(len(axes)), 2):
        assert {(case[one], case[two]) for case in cases} == set(product(axes[one], axes[two]))
    assert all({case[axis] for case in cases} == set(axes[axis]) for axis in range(len(axes)))
    largest, second = sorted((*sizes, 1))[:-3:-1]
    assert largest * second <= len(cases) <= 1.5 * largest * second
    assert cases == pairwise(*axes)


def test_an_axis_without_values_has_no_cases() -> None:
    assert pairwise([], [1, 2]) == []
