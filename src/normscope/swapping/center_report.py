"""What a conversion to RMSNorm changed, and its proof."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class CenterReport:
    """A model whose layer norms are RMS norms now, and the proof that its function is the same."""

    model: str
    norms: tuple[str, ...]
    """Layer norms that are an RMSNorm now."""
    biased: tuple[str, ...]
    """Those of them that have a bias other than zero, and keep it: ``BiasedRMSNorm``."""
    centered: tuple[str, ...]
    """Parameters (and buffers) whose mean over the features is zero now."""
    untied: tuple[str, ...]
    """Parameters that are copies now, for the one they shared is centered and this one must not be."""
    difference: float
    """Proof: largest difference of any output, over the largest output, in float64, over all inputs tried."""
    own_difference: float
    """The same in the model's own dtype."""
    outputs: int
    """How many numbers were compared in float64."""
    _undo: Callable[[], None] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Put layer norms, weights and ties back, to the bit.

        Raises:
            RuntimeError: If it was undone before, or something else stands in a place now.
        """
        self._undo()

    def __str__(self) -> str:
        """Return it in words."""
        kept = f", {len(self.biased)} with their bias" if self.biased else ""
        untied = f"\nuntied: {', '.join(self.untied)}" if self.untied else ""
        return (
            f"{self.model}: {len(self.norms)} LayerNorm -> RMSNorm{kept}; {len(self.centered)} tensors centered"
            f"\nproof: {self.outputs:,} outputs differ by at most {self.difference:.1e} of the largest in float64, "
            f"by {self.own_difference:.1e} in the model's own dtype{untied}"
        )
