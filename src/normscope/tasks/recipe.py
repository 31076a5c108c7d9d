"""How a run is trained: equal for every arm of a study but for what its card says is tuned or compared."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

__tracebackhide__ = True

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What the forward pass computes in: bfloat16 by autocast, with parameters and optimizer in float32."""

SCHEDULES = ("linear", "inverse_sqrt", "constant")
"""How the learning rate goes after the warm-up: to zero at the last step, as 1 / sqrt(step), or not at all."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is trained; equal for every arm but for what the card says is tuned or compared."""

    steps: int
    """Optimizer updates, fixed before the first run."""
    batch_size: int
    """Examples an update, or padded tokens an update where the task's examples have lengths."""
    learning_rate: float
    """The largest learning rate."""
    evaluations: int = 10
    """Evenly spaced looks at the validation set; the best of them is tested."""
    precision: str = "float32"
    """Key of :data:`PRECISIONS`."""
    device: str = "cpu"
    """Where tensors live, as torch names it."""
    optimizer: str = "adam"
    """Key of :data:`OPTIMIZERS`."""
    beta2: float = 0.999
    """Adam's memory of squared gradients; beta1 is 0.9."""
    weight_decay: float = 0.0
    """Decoupled (AdamW), on matrices and kernels: no bias decays, and no parameter of a norm."""
    schedule: str = "linear"
    """One of :data:`SCHEDULES`."""
    warmup: int = 0
    """Updates over which the learning rate grows linearly from 0; 0 for none."""
    clip: float = 0.0
    """Largest L2 norm of the whole gradient; 0 for no clipping."""
    average: int = 1
    """The weights of so many last looks are averaged and tested; 1 for the best look instead."""
    compile: bool = False
    """Whether the training loss is compiled by ``torch.compile``: faster on an accelerator, other roundings."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluations", "average"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate!r}")
        if not isinstance(self.warmup, int) or isinstance(self.warmup, bool) or self.warmup < 0:
            raise ValueError(f"warmup must be a whole number of at least 0, got {self.warmup!r}")
        if self.warmup > self.steps:
            raise ValueError(
                f"warmup must end within the {self.steps} updates, or the largest rate is never reached, "
                f"got {self.warmup}"
            )
        for name in ("weight_decay", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)!r}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be from 0 to below 1, got {self.beta2!r}")
        for name, known in (("precision", PRECISIONS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        try:
            kind = torch.device(self.device).type
        except RuntimeError as error:
            raise ValueError(f"device must be cpu, or cuda with or without a number, got {self.device!r}") from error
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu, or cuda with or without a number, got {self.device!r}")

    def evaluates_after(self, done: int) -> bool:
        """Whether the validation set is looked at after ``done`` updates; always after the last."""
        looks = min(self.evaluations, self.steps)
        return (done * looks) // self.steps > ((done - 1) * looks) // self.steps

    def learning_rate_at(self, step: int) -> float:
        """Give the learning rate of update ``step``, counted from 0.

        In the warm-up of T updates it is ``(step + 1) / T`` of the largest (Xiong et al. 2020, section 3.3, whose t
        counts from 1), after it linear to zero over what is left, or ``sqrt(K / (step + 1))`` of it. There K is the
        later of T and a tenth of all updates, and the rate stays at its largest until then: with K = T, as is usual, a
        run without warm-up would have a rate near zero all along, and not be comparable.
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "inverse_sqrt":
            begins = max(self.warmup, self.steps // 10, 1)
            return self.learning_rate * math.sqrt(begins / max(step + 1, begins))
        if self.schedule == "linear":
            return self.learning_rate * (1.0 - (step - self.warmup) / max(self.steps - self.warmup, 1))
        return self.learning_rate

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer of a model's parameters."""
        weights = {id(one) for module in model.modules() for one in _weights(module)}
        decayed = [one for one in model.parameters() if id(one) in weights]
        rest = [one for one in model.parameters() if id(one) not in weights]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        # Without decay one group keeps the parameters in their order, and the optimizer's sums in one kernel.
        return OPTIMIZERS[self.optimizer](groups if self.weight_decay else model.parameters(), self)


def _weights(module: nn.Module) -> list[nn.Parameter]:
    """Give what decays of a module's own: matrices and kernels; of weight normalization the direction, no gain."""
    if hasattr(module, "normalized_shape"):
        return []
    owned = module.named_parameters(recurse=False)
    return [one for name, one in owned if one.ndim >= 2 and "bias" not in name and name != "original0"]


OPTIMIZERS: dict[str, Callable[[Iterable, Recipe], torch.optim.Optimizer]] = {
    "adam": lambda groups, recipe: torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
    ),
    "radam": lambda groups, recipe: torch.optim.RAdam(
        groups,
        lr=recipe.learning_rate,
        betas=(0.9, recipe.beta2),
        weight_decay=recipe.weight_decay,
        decoupled_weight_decay=True,
    ),
    "sgd": lambda groups, recipe: torch.optim.SGD(
        groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    ),
}
"""Optimizers; ``adam`` with decay is AdamW, without it Adam; ``sgd`` has no momentum, and its decay is coupled."""
