"""DeepNorm's two numbers, which only the depths of a network decide."""

from normscope.placement.site import Site

CONSTANTS = ("paper", "released")
"""Whose constants: the paper's, or those of the code that its authors released."""


def deepnorm_constants(site: Site, constants: str) -> tuple[float, float]:
    r"""Give alpha, which scales the shortcut, and beta, which scales the first weights of a branch.

    ============================  =========================  ============================
    stream                        alpha                      beta
    ============================  =========================  ============================
    encoder only, decoder only    :math:`(2 N)^{1/4}`        :math:`(8 N)^{-1/4}`
    encoder of N and M            :math:`0.81 (N^4 M)^{1/16}`  :math:`0.87 (N^4 M)^{-1/16}`
    decoder of N and M            :math:`(3 M)^{1/4}`        :math:`(12 M)^{-1/4}`
    ============================  =========================  ============================

    ``released`` differs in the encoder of an encoder-decoder: there the code divides weights by
    :math:`(N^4 M)^{1/16} / 1.15`, so beta is :math:`1.15 (N^4 M)^{-1/16}`, 1.32 times the paper's. (1 / 0.87 is 1.15:
    the constant seems to have been turned over once too often.)

    Args:
        site: Which stream, and its depths: N layers of encoder, M of decoder.
        constants: One of :data:`CONSTANTS`.

    Raises:
        ValueError: If ``constants`` is another word.

    References:
        Wang et al. (2022). DeepNet: scaling transformers to 1,000 layers. arXiv:2203.00555, Figure 2.
    """
    if constants not in CONSTANTS:
        raise ValueError(f"constants must be one of {', '.join(CONSTANTS)}, got {constants!r}")
    own, other = site.layers, site.other_layers
    if site.part == "encoder":
        depth = (own**4 * other) ** (1 / 16)
        return 0.81 * depth, (0.87 if constants == "paper" else 1.15) / depth
    if site.part == "decoder":
        return (3 * own) ** 0.25, (12 * own) ** -0.25
    return (2 * own) ** 0.25, (8 * own) ** -0.25
