"""What a diagnosis measured, and the form of a cause and of a finding."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from normscope.diagnostics.depth.profile import StackDepth
from normscope.diagnostics.depth.watch import DoubleNorm
from normscope.diagnostics.gradients.at_norms import LostGradient, NormGradients
from normscope.diagnostics.numeric_range import NormRange
from normscope.diagnostics.recurrent.profile import LayerSteps
from normscope.inspection.norm_in_model import Unreachable


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that the rules and the readings are computed from."""

    gradients: Sequence[NormGradients]
    stacks: Sequence[StackDepth]
    doubles: Sequence[DoubleNorm]
    ranges: Sequence[NormRange]
    first_update: Mapping[str, float] | None = None
    """Result of :func:`~normscope.diagnostics.warmup.warmup_features` at the learning rate of the first step."""
    warmup: int | None = None
    """Number of warm-up steps. If None, warm-up is not assessed."""
    loss: float | None = None
    """None if the loss was not measured."""
    lost: Sequence[LostGradient] = ()
    """Calls of norms without a usable gradient."""
    unmeasured: Sequence[Unreachable] = ()
    """Modules that may be norms and were not measured, and norms computed by functions inside a forward."""
    not_tried: str | None = None
    """Why there is no ``first_update``."""
    recurrent: Sequence[LayerSteps] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Recurrent modules whose steps were not measured, and why."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A known cause of trouble: how it is detected, and what the user reads about it."""

    name: str
    """Key in :data:`CAUSES`."""
    title: str
    """Heading of a finding."""
    rule: Callable[[Measured], Iterator[tuple[str, str]]]
    """Yields the place and the evidence of every occurrence; the place is empty for the whole model."""
    remedy: str
    """What to try."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One occurrence of a :class:`Cause` in a model.

    Example:
        >>> import torch
        >>> import normscope
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> x, loss = torch.randn(32, 8), lambda model, x: model(x).square().mean()
        >>> diagnosis = normscope.diagnose(model, x, loss)
        >>> [(finding.name, finding.where) for finding in diagnosis.findings]
        [('double_norm', '1')]
    """

    name: str
    """Name of the cause."""
    title: str
    """Heading of the cause."""
    where: str
    """Name of the norm or the stack; empty for the whole model."""
    evidence: str
    """The measured numbers, in a sentence."""
    remedy: str
    """What to try."""
