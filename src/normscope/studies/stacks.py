"""What can be trained as one stacked model of several seeds."""

from normscope.specs import NormSpec
from normscope.tasks import TASKS, Recipe, Task
from normscope.tasks.batching import Stackable

__tracebackhide__ = True


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
