"""Number of Post-LN and Pre-LN layers of Mix-LN."""

import math

import pytest

from normscope.placement import POST, PRE, PostNorm, PreNorm, Site, mix


def chosen(share: float, layers: int) -> str:
    sites = [Site(kind="feed_forward", layer=layer, layers=layers) for layer in range(1, layers + 1)]
    found = [mix(site, share=share) for site in sites]
    assert all(placement in (POST, PRE) for placement in found)
    return "".join("T" if placement is POST else "E" for placement in found)


@pytest.mark.parametrize(
    ("share", "layers", "want"),
    [
        (0.25, 12, "TTTEEEEEEEEE"),
        (0.25, 6, "TEEEEE"),
        (0.25, 3, "EEE"),
        (0.5, 5, "TTEEE"),
        (0.99, 4, "TTTE"),
        (0, 4, "EEEE"),
        (1, 4, "TTTT"),
        (0.75, 4, "TTTE"),
    ],
)
def test_the_first_layers_are_post(share: float, layers: int, want: str) -> None:
    assert chosen(share, layers) == want


@pytest.mark.parametrize(("share", "layers", "post"), [(0.29, 100, 29), (0.57, 100, 57), (0.7, 10, 7), (0.6, 5, 3)])
def test_a_share_that_gives_a_whole_number_gives_that_number(share: float, layers: int, post: int) -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert chosen(share, layers).count("T") == post


@pytest.mark.parametrize("share", [-0.1, 1.01, math.nan, math.inf])
def test_a_share_is_from_nothing_to_all(share: float) -> None:
    with pytest.raises(ValueError, match=f"share must be from 0 to 1, got {share}"):
        chosen(share, 4)


def test_the_two_classical_placements() -> None:
    assert (POST.block, POST.normalize_stem, POST.normalize_final) == (PostNorm, False, False)
    assert (PRE.block, PRE.normalize_stem, PRE.normalize_final) == (PreNorm, False, True)
