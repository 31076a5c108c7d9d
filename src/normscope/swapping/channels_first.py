"""A norm of the last axis, at a place where the features are on axis 1."""

from typing import Any

from torch import Tensor, nn


class ChannelsFirst(nn.Module):
    """Apply a norm of ``[..., C]`` to ``[N, C, ...]``: the axis is moved there and back, and nothing else is done.

    The output lies in memory as torch's own norms lay it, so that ``x.view(len(x), -1)`` behind it goes on working:
    channels last where the input was, otherwise contiguous.

    ``weight``, ``bias`` and ``eps`` are those of the norm, for code that reads them. In the state dict the norm's keys
    stand below ``norm.``.

    Args:
        norm: Maps ``[..., C]`` to ``[..., C]``.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, ...]`` to ``[N, C, ...]``.

        Args:
            x: Two axes or more, the features on axis 1.

        Returns:
            What the norm gives, with the features on axis 1.

        Raises:
            ValueError: If ``x`` has fewer than two axes.
        """
        if x.dim() < 2:
            raise ValueError(f"{type(self).__name__} expects [N, C, ...], got {list(x.shape)}")
        moved = x.movedim(1, -1)
        y = self.norm(moved)
        if x.dim() in {4, 5} and moved.is_contiguous() and not x.is_contiguous():
            return y.contiguous().movedim(-1, 1)
        return y.movedim(-1, 1).contiguous()

    def __getattr__(self, name: str) -> Any:
        if name in {"weight", "bias", "eps", "normalized_shape"}:
            return getattr(super().__getattr__("norm"), name)
        return super().__getattr__(name)
