"""DeepNorm's constants, computed by hand from Figure 2 of the paper."""

import pytest

from normscope.placement import Site, deepnorm_constants
from normscope.placement.blocks import CONSTANTS


def constants(part: str, layers: int, other_layers: int = 0, *, whose: str = "paper") -> tuple[float, float]:
    site = Site(kind="feed_forward", layer=1, layers=layers, part=part, other_layers=other_layers)
    return deepnorm_constants(site, whose)


@pytest.mark.parametrize(
    ("part", "layers", "other", "alpha", "beta"),
    [
        # (2 N)^(1/4) and (8 N)^(-1/4): 16^(1/4) = 2 and 64^(-1/4) = 1 / (2 sqrt 2).
        ("only", 8, 0, 2.0, 0.35355339059327379),
        ("only", 2, 0, 1.4142135623730951, 0.5),
        # 6^5 = 7776; four square roots: 88.18163, 9.390508, 3.064393, 1.7505409144.
        ("encoder", 6, 6, 0.81 * 1.7505409144, 0.87 / 1.7505409144),
        # (2^4 16^1)^(1/16) = 256^(1/16) = sqrt 2; (16^4 2)^(1/16) = 2^(17/16).
        ("encoder", 2, 16, 0.81 * 1.4142135623730951, 0.87 / 1.4142135623730951),
        ("encoder", 16, 2, 0.81 * 2.0885475648548274, 0.87 / 2.0885475648548274),
        # (3 M)^(1/4) and (12 M)^(-1/4), whatever the encoder: 81^(1/4) = 3 and 324^(-1/4) = 1 / (3 sqrt 2).
        ("decoder", 27, 6, 3.0, 0.23570226039551584),
        ("decoder", 27, 60, 3.0, 0.23570226039551584),
    ],
)
def test_the_papers_constants(part: str, layers: int, other: int, alpha: float, beta: float) -> None:
    # The roots above are written to 11 digits or more.
    assert constants(part, layers, other) == pytest.approx((alpha, beta), rel=1e-10)


def test_the_released_code_differs_in_the_encoder_of_an_encoder_decoder_alone() -> None:
    assert CONSTANTS == ("paper", "released")
    alpha, beta = constants("encoder", 6, 6, whose="released")
    assert (alpha, beta) == pytest.approx((0.81 * 1.7505409144, 1.15 / 1.7505409144), rel=1e-10)
    assert beta / constants("encoder", 6, 6)[1] == pytest.approx(1.15 / 0.87)
    for part, other in (("only", 0), ("decoder", 6)):
        assert constants(part, 6, other, whose="released") == constants(part, 6, other)


def test_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="constants must be one of paper, released, got 'mine'"):
        constants("only", 6, whose="mine")
