"""How a run is trained: equal for every arm of a study but for what its card says is tuned."""

import math
from dataclasses import dataclass

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What the forward pass computes in: bfloat16 by autocast, with parameters and optimizer in float32."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is trained; equal for every arm but for what the card says is tuned."""

    steps: int
    """Optimizer updates, fixed before the first run."""
    batch_size: int
    """Examples an update."""
    learning_rate: float
    """Adam's first learning rate; it falls linearly to zero at the last step."""
    evaluations: int = 10
    """Evenly spaced looks at the validation set; the best of them is tested."""
    precision: str = "float32"
    """Key of :data:`PRECISIONS`."""
    device: str = "cpu"
    """Where tensors live, as torch names it."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluations"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
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
