"""A norm of the last axis applied to feature maps with their channels on axis 1."""

from typing import Any

from torch import Tensor, nn


class ChannelsFirst(nn.Module):
    """Apply a norm of ``[..., C]`` to ``[N, C, ...]``: move the axis to the end and back.

    The output has the memory layout of torch's own norms, so that ``x.view(len(x), -1)`` keeps working: channels last
    if the input was, otherwise contiguous. ``weight``, ``bias``, ``eps`` and ``normalized_shape`` are read from the
    norm. In the state dict the norm's keys have the prefix ``norm.``.

    Args:
        norm: Maps ``[..., C]`` to ``[..., C]``.
        contiguous: Whether the output is contiguous for every input, as that of torch's instance norms.

    Example:
        >>> import torch
        >>> from normscope.norms import ChannelsFirst
        >>> from normscope import LayerNorm
        >>> norm = ChannelsFirst(LayerNorm(3))
        >>> norm(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, norm: nn.Module, *, contiguous: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.contiguous = contiguous

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, ...]`` to ``[N, C, ...]``.

        Args:
            x: Feature maps, at least two axes, the features on axis 1.

        Returns:
            The norm's output, with the features on axis 1.

        Raises:
            ValueError: If ``x`` has fewer than two axes.
        """
        if x.dim() < 2:
            raise ValueError(f"{type(self).__name__} expects [N, C, ...], got {list(x.shape)}")
        moved = x.movedim(1, -1)
        y = self.norm(moved)
        if not self.contiguous and x.dim() in {4, 5} and moved.is_contiguous() and not x.is_contiguous():
            return y.contiguous().movedim(-1, 1)
        return y.movedim(-1, 1).contiguous()

    def __getattr__(self, name: str) -> Any:
        if name in {"weight", "bias", "eps", "normalized_shape"}:
            return getattr(super().__getattr__("norm"), name)
        return super().__getattr__(name)
