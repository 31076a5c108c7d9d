"""An arm of a comparison."""

from dataclasses import dataclass
from typing import Any

from normscope.arguments import check_argument
from normscope.specs import NormSpec, PlacementSpec
from normscope.tasks.recipe import Optimizer

__tracebackhide__ = True


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm of a comparison: a norm with its arguments, a placement, and optionally the settings of its training.

    Example:
        >>> from normscope import Arm
        >>> arm = Arm.parse("ada_norm(scale=2.0)", "pre", learning_rate=1e-3)
        >>> arm.norm.label, arm.placement.text, arm.learning_rate
        ('ada_norm(scale=2.0)', 'pre', 0.001)
    """

    norm: NormSpec
    """The norm, or several with their places."""
    placement: PlacementSpec
    """The placement, or several with their layers."""
    learning_rate: float | None = None
    """Learning rate of this arm, such as a tuned one; None for the task's."""
    warmup: int | None = None
    """Number of warm-up updates of this arm; None for the task's."""
    optimizer: Optimizer | None = None
    """Optimizer of this arm; None for the task's."""
    variant: str | None = None
    """Key of the task's variants; None for the task as it is."""

    @classmethod
    def parse(
        cls,
        norm: str,
        placement: str,
        *,
        learning_rate: float | None = None,
        warmup: int | None = None,
        optimizer: Optimizer | None = None,
        variant: str | None = None,
    ) -> "Arm":
        """Build an arm from a norm and a placement in the syntax of the command line.

        Raises:
            UnknownName: If a name is not registered.
            TypeError: If an argument has another type.
            ValueError: If a text cannot be parsed, or a norm or placement has no such argument.
        """
        check_argument("norm", norm, str)
        check_argument("placement", placement, str)
        return cls(
            norm=NormSpec.parse(norm),
            placement=PlacementSpec(placement),
            learning_rate=learning_rate,
            warmup=warmup,
            optimizer=optimizer,
            variant=variant,
        )

    def content(self) -> dict[str, Any]:
        """Return the fields that determine the arm's runs, as JSON."""
        return {
            "norm": self.norm.name,
            "placement": self.placement.text,
            "arguments": dict(self.norm.arguments),
            "learning_rate": self.learning_rate,
            "warmup": self.warmup,
            **({} if self.optimizer is None else {"optimizer": self.optimizer}),
            **({} if self.variant is None else {"variant": self.variant}),
        }
