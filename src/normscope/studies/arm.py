"""An arm of a comparison, and whether its seeds can be trained as one stacked model."""

from dataclasses import dataclass
from typing import Any

from normscope.arguments import check_argument
from normscope.specs import NormSpec, PlacementSpec
from normscope.tasks import TASKS, Recipe, Task
from normscope.tasks.batching import Stackable
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


def check_stack(task: Task, norm: NormSpec, recipe: Recipe) -> None:
    """Check that the seeds of an arm can be trained as one stacked model.

    Raises:
        ValueError: If they cannot; the message has the reason.
    """
    if not isinstance(task, Stackable):
        able = ", ".join(name for name, entry in TASKS.items() if isinstance(entry, Stackable))
        raise ValueError(
            f"the seeds of {task.name} cannot be stacked: that needs batches of equal shapes, a loss that torch.vmap "
            f"maps, and no dropout; tasks that can: {able}. Leave out stack_seeds (--stack-seeds)"
        )
    for reason, is_so in (
        ("torch.compile is for single runs", recipe.compile),
        ("bfloat16 is for single runs", recipe.precision != "float32"),
        (f"torch.vmap has no rule for the parametrization of {norm.name}", bool(norm.parametrization)),
        ("a run on several devices is for single runs", recipe.devices_per_run > 1),
        (f"{recipe.optimizer} does not update every entry by itself", recipe.optimizer == "muon"),
    ):
        if is_so:
            raise ValueError(f"the seeds of {task.name} cannot be stacked: {reason}. Leave out stack_seeds")
