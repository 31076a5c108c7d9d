"""Training settings of a run: equal for all arms of a study, except for the settings that are tuned or compared."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import nn

from normscope.tasks.adam_kiros2015 import AdamKiros2015
from normscope.tasks.muon import MuonWithAdamW, hidden_matrices

__tracebackhide__ = True

Precision = Literal["float32", "bfloat16"]
Optimizer = Literal["adam", "adam_kiros2015", "radam", "sgd", "muon"]
Schedule = Literal["linear", "inverse_sqrt", "constant"]
ClipRule = Literal["norm", "tensor", "reader2016"]

PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Dtype of the forward pass: bfloat16 by autocast, with parameters and optimizer in float32."""

SCHEDULES = get_args(Schedule)
"""Learning rate after the warm-up: linear decay to zero, decay as 1 / sqrt(step), or constant."""

CLIP_RULES = get_args(ClipRule)
"""What is clipped to a length c: the whole gradient, or each parameter's by itself, as in the code of the order
embeddings (Vendrov et al. 2016). In the code of the attentive reader, which Ba et al. (2016) used, it is the whole
gradient, but only from a length n of c^2 on, and by the factor c / sqrt(n): the length is compared as if it were
squared."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings of a run.

    Example:
        >>> from normscope import Recipe
        >>> recipe = Recipe(steps=100, batch_size=32, learning_rate=0.01, warmup=10)
        >>> [round(recipe.learning_rate_at(step), 4) for step in (0, 9, 10, 55)]
        [0.001, 0.01, 0.01, 0.005]
    """

    steps: int
    """Number of optimizer updates."""
    batch_size: int
    """Examples per update, or padded tokens per update if the task's examples are sequences."""
    learning_rate: float
    """Peak learning rate."""
    evaluations: int = 10
    """Number of evenly spaced evaluations on the validation data; the weights of the best are tested."""
    precision: Precision = "float32"
    """Key of :data:`PRECISIONS`."""
    device: str = "cpu"
    """Device name, in torch's notation."""
    optimizer: Optimizer = "adam"
    """Key of :data:`OPTIMIZERS`."""
    beta2: float = 0.999
    """Adam's decay rate of squared gradients; beta1 is 0.9. Muon does not have it, but its AdamW does."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices and kernels; biases and parameters of norms do not decay."""
    schedule: Schedule = "linear"
    """One of :data:`SCHEDULES`."""
    warmup: int = 0
    """Number of updates over which the learning rate grows linearly from 0; 0 means no warm-up."""
    clip: float = 0.0
    """Maximum L2 norm of the gradient; 0 means no clipping."""
    clip_rule: ClipRule = "norm"
    """One of :data:`CLIP_RULES`."""
    average: int = 1
    """Number of last evaluations whose weights are averaged and tested; 1 tests the best evaluation instead."""
    compile: bool = False
    """Whether ``torch.compile`` compiles the training loss: faster on an accelerator, with different rounding."""
    devices_per_run: int = 1
    """Number of processes, each with its device, that share every batch of the run."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluations", "average", "devices_per_run"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate!r}")
        if not isinstance(self.warmup, int) or isinstance(self.warmup, bool) or self.warmup < 0:
            raise ValueError(f"warmup must be a whole number of at least 0, got {self.warmup!r}")
        if self.warmup > self.steps:
            raise ValueError(
                f"warmup must end within the {self.steps} updates, or the peak learning rate is never reached, "
                f"got {self.warmup}"
            )
        for name in ("weight_decay", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)!r}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be from 0 to below 1, got {self.beta2!r}")
        choices = {"precision": PRECISIONS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "clip_rule": CLIP_RULES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        try:
            kind = torch.device(self.device).type
        except RuntimeError as error:
            raise ValueError(f"device must be cpu, or cuda with or without a number, got {self.device!r}") from error
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu, or cuda with or without a number, got {self.device!r}")
        if self.devices_per_run > 1 and torch.device(self.device).index is not None:
            raise ValueError(
                f"a run on {self.devices_per_run} devices cannot be on {self.device} alone: leave the number out"
            )

    def evaluates_after(self, done: int) -> bool:
        """Return whether the model is evaluated after ``done`` updates; true after the last."""
        count = min(self.evaluations, self.steps)
        return (done * count) // self.steps > ((done - 1) * count) // self.steps

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of update ``step``, counted from 0.

        During a warm-up of T updates it is ``(step + 1) / T`` of the peak (Xiong et al. 2020, section 3.3, whose t
        counts from 1). Afterwards it decays linearly to zero, or as ``sqrt(K / (step + 1))`` of the peak, where K is
        the larger of T and a tenth of all updates; up to K it stays at the peak. With the usual K = T, a run without
        warm-up would have a rate near zero throughout, and would not be comparable.
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "inverse_sqrt":
            begins = max(self.warmup, self.steps // 10, 1)
            return self.learning_rate * math.sqrt(begins / max(step + 1, begins))
        if self.schedule == "linear":
            return self.learning_rate * (1.0 - (step - self.warmup) / max(self.steps - self.warmup, 1))
        return self.learning_rate

    def content(self) -> dict[str, Any]:
        """Return the settings by name, as JSON; without ``clip_rule`` and ``devices_per_run`` where they are usual.

        Runs are named by it, and the names of those from before there were such settings stay as they were. The number
        of devices is part of the name, since dropout draws other masks on two devices than on one: runs of one seed
        whose masks differ are not paired.
        """
        usual = {"clip_rule": "norm", "devices_per_run": 1}
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in content.items() if usual.get(name) != value}

    def clip_gradients(self, model: nn.Module) -> None:
        """Clip the gradients of a model's parameters in place, by :attr:`clip_rule`."""
        if not self.clip:
            return
        if self.clip_rule == "tensor":
            for parameter in model.parameters():
                nn.utils.clip_grad_norm_(parameter, self.clip)
        elif self.clip_rule == "reader2016":
            length = nn.utils.get_total_norm([one.grad for one in model.parameters() if one.grad is not None])
            for parameter in model.parameters():
                if parameter.grad is not None and length > self.clip**2:
                    parameter.grad.mul_(self.clip / length.sqrt())
        else:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer for a model's parameters.

        Raises:
            ValueError: If it is Muon, and the model has no matrix of a hidden layer.
        """
        weights = {id(weight) for module in model.modules() for weight in _weights(module)}
        decayed = [parameter for parameter in model.parameters() if id(parameter) in weights]
        rest = [parameter for parameter in model.parameters() if id(parameter) not in weights]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        if self.optimizer == "muon":
            hidden = hidden_matrices(model, decayed)
            within = {id(matrix) for matrix in hidden}
            groups[0]["params"] = [weight for weight in decayed if id(weight) not in within]
            groups = [{"params": hidden, "weight_decay": self.weight_decay}, *groups]
            return OPTIMIZERS["muon"](groups, self)
        # Without decay, a single group keeps the order of the parameters and a single fused kernel.
        return OPTIMIZERS[self.optimizer](groups if self.weight_decay else model.parameters(), self)


def _weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a module itself that decay: matrices and kernels, without the scale of a weight norm."""
    if hasattr(module, "normalized_shape"):
        return []
    owned = module.named_parameters(recurse=False)
    return [weight for name, weight in owned if weight.ndim >= 2 and "bias" not in name and name != "original0"]


OPTIMIZERS: dict[Optimizer, Callable[[Iterable, Recipe], torch.optim.Optimizer]] = {
    "adam": lambda groups, recipe: torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
    ),
    "adam_kiros2015": lambda groups, recipe: AdamKiros2015(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2)),
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
    "muon": lambda groups, recipe: MuonWithAdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2)),
}
"""Optimizer factories: ``adam`` is AdamW, or Adam without decay; ``sgd`` has no momentum and coupled decay."""

OPTIMIZER_NAMES: dict[Optimizer, str] = {
    "adam": "Adam",
    "adam_kiros2015": "Adam of the skip-thoughts code (without bias correction)",
    "radam": "RAdam",
    "sgd": "SGD",
    "muon": "Muon (AdamW for embeddings, input, output, gains and biases)",
}
"""The optimizers in sentences."""
