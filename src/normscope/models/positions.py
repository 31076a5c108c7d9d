"""Where a word stands: sinusoids, and the shift that turns scores by distance into scores by position."""

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int) -> Tensor:
    r"""Encode positions, or distances, by sines and cosines of geometric wave lengths.

    .. math::
        p_{t, 2i} = \sin(t / 10000^{2i / D}), \qquad p_{t, 2i + 1} = \cos(t / 10000^{2i / D})

    Args:
        positions: ``[T]``, any dtype; computed in float64, where long texts keep their digits.
        width: D, an even number.

    Returns:
        ``[T, D]`` in torch's default dtype.

    Raises:
        ValueError: If the width is odd.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, section 3.5.
        Departs from it in: nothing.
    """
    if width % 2:
        raise ValueError(f"sinusoids need an even width, got {width}")
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
    angles = positions.double()[:, None] * 10000.0**-exponents  # [T, D / 2]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(torch.get_default_dtype())


def relative_shift(scores: Tensor) -> Tensor:
    r"""Reorder scores by distance into scores by key, without a copy.

    A query t of T, which stand at the end of K keys, is at the distance :math:`d = t + K - T - k` from key k:

    .. math:: y_{t, k} = x_{t, K - d} \qquad (d \ge 0)

    Args:
        scores: ``[..., T, K + 1]``, contiguous: column 0 is anything, column ``K - d`` the score at distance d.

    Returns:
        ``[..., T, K]``, a view. Keys after the query (d < 0) hold other entries of the input: mask them.

    References:
        Dai et al. (2019). Transformer-XL: attentive language models beyond a fixed-length context. arXiv:1901.02860,
        appendix B. Departs from it in: the padding column is part of the matrix product before it, which saves a copy.
    """
    length, columns = scores.shape[-2:]
    return scores.flatten(-2)[..., length:].unflatten(-1, (length, columns - 1))
