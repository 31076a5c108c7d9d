"""Fewer cases than a full product of parameters, with every pair of their values in at least one of them."""

from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Any

import pytest


def pairwise(*axes: Collection[Any]) -> list[tuple[Any, ...]]:
    """Choose combinations of values so that any two values of two axes occur together.

    A fault that shows for one value, or for two together, whatever the others are, is met as by the full product; one
    that needs three certain values may not be. The choice is greedy and always the same: about as many cases as the
    product of the two longest axes.

    Args:
        axes: The values of each parameter.

    Returns:
        The combinations, one value of each axis in order.
    """
    values = [list(axis) for axis in axes]
    if len(values) < 2:
        return [(value,) for axis in values for value in axis]
    places = [range(len(axis)) for axis in values]
    left = {pair: None for one, two in combinations(range(len(axes)), 2) for pair in _pairs(one, two, places)}
    cases = []
    while left:
        chosen = dict(next(iter(left)))
        # The longest axes first: they have the most pairs to be covered.
        for axis in sorted(set(range(len(axes))) - set(chosen), key=lambda axis: -len(places[axis])):
            # Of values that cover as many pairs another one each turn.
            turn = [*places[axis][len(cases) % len(places[axis]) :], *places[axis][: len(cases) % len(places[axis])]]
            chosen[axis] = max(
                turn, key=lambda place: sum(_pair(axis, place, *other) in left for other in chosen.items())
            )
        for one, two in combinations(chosen.items(), 2):
            left.pop(_pair(*one, *two), None)
        cases.append(tuple(values[axis][chosen[axis]] for axis in range(len(axes))))
    return cases


def parametrize_pairwise(arguments: str, *axes: Collection[Any], **options: Any) -> pytest.MarkDecorator:
    """Parametrize a test by the pairs of the values of its arguments.

    Args:
        arguments: Names with commas between them, as ``pytest.mark.parametrize`` takes them. A value of an axis that is
            a tuple is the values of as many arguments, which then occur in these combinations alone.
        axes: The values of each argument.
        options: Of ``pytest.mark.parametrize``.

    Returns:
        The decorator.
    """
    cases = [
        [one for value in case for one in (value if isinstance(value, tuple) else (value,))] for case in pairwise(*axes)
    ]
    return pytest.mark.parametrize(arguments, cases, **options)


Pair = tuple[tuple[int, int], tuple[int, int]]
"""Two axes, each with the place of its value, the lower axis first."""


def _pair(one: int, i: int, two: int, j: int) -> Pair:
    return ((one, i), (two, j)) if one < two else ((two, j), (one, i))


def _pairs(one: int, two: int, places: Sequence[Sequence[int]]) -> list[Pair]:
    return [_pair(one, i, two, j) for i in places[one] for j in places[two]]
