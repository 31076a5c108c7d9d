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
    unreached: tuple[str, ...]
    """Parameters as wide as the stream that no output depended on, as the model was called: of an expert, a mask token
    or a cross attention that did not run. They are as they were. If one writes into the stream, the function is another
    one once it does."""
    dropouts: int
    """Active dropouts on the stream. Where there are some, the function in training is another one from the start."""
    lost: tuple[str, ...]
    """Hooks of layer norms that are bound to the old module."""
    difference: float
    """Proof: largest difference of any number, over the larger of itself and its output's size, in float64, over all
    inputs tried. The size is how far an output moves with all that the layer norms give."""
    own_difference: float
    """The same in the model's own dtype."""
    outputs: int
    """How many numbers were compared in float64."""
    _undo: Callable[[], None] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Put layer norms, weights and ties back, to the bit.

        Raises:
            RuntimeError: If it was undone before, something else stands in a place now, or a later conversion stands
                on tensors that this one centered, and is to be undone first. Nothing is changed then.
        """
        self._undo()

    def __str__(self) -> str:
        """Return it in words."""
        kept = f", {len(self.biased)} with their bias" if self.biased else ""
        lines = [
            f"{self.model}: {len(self.norms)} LayerNorm -> RMSNorm{kept}; {len(self.centered)} tensors centered",
            f"proof: {self.outputs:,} outputs differ by at most {self.difference:.1e} of their size in float64, "
            f"by {self.own_difference:.1e} in the model's own dtype",
        ]
        if self.untied:
            lines.append(f"untied: {', '.join(self.untied)}")
        if self.unreached:
            more = f" and {len(self.unreached) - 6} more" if len(self.unreached) > 6 else ""
            lines.append(
                f"not reached by these inputs: {', '.join(self.unreached[:6])}{more}. If one writes into the stream, "
                f"the function changes when it is used: call to_rms_norm with inputs that use it"
            )
        if self.dropouts:
            lines.append(
                f"{self.dropouts} dropouts on the stream: the function is the same in evaluation; in training, where "
                f"they bring a mean back, it is another one from the first step"
            )
        if self.lost:
            lines.append(f"lost: {'; '.join(self.lost)}")
        return "\n".join(lines)
