"""Is it the same function? A model run before and after, on the same inputs."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a model is called with, by place and by name."""


def widened(model: nn.Module, calls: Sequence[Call]) -> tuple[nn.Module, list[Call]]:
    """Copy a model and what it is called with in float64, in evaluation, everything with a gradient."""
    twin = copy.deepcopy(model).double().eval()
    tensors = [*twin.parameters()]
    # A constant that is added to the stream is to be seen in the graph; torch's running moments may not be.
    tensors += [buffer for name, buffer in twin.named_buffers() if "running_" not in name]
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.requires_grad_(True)
    return twin, [tree_map(lambda one: one.double() if is_float(one) else one, call) for call in calls]


def outputs(model: nn.Module, call: Call) -> list[Tensor]:
    """Run a model and list all tensors of a floating dtype that it gives."""
    args, inputs = call
    return [one for one in tree_leaves(_plain(model(*args, **inputs))) if is_float(one)]


def difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Give the largest difference of any output, over the largest output; infinity where one is not a number."""
    largest = apart = 0.0
    for one, two in zip(before, after, strict=True):
        if not one.numel():
            continue
        # Masks may be infinite in both.
        gap = torch.where(one == two, 0.0, (one - two).abs())
        largest = max(largest, float(one[one.isfinite()].abs().amax())) if bool(one.isfinite().any()) else largest
        apart = max(apart, float(gap.amax().nan_to_num(nan=math.inf)))
    return apart / largest if largest else apart


def random_call(model: nn.Module, call: Call, generator: torch.Generator) -> Call:
    """Draw inputs of the same shapes.

    Args:
        model: Its ``config.vocab_size``, if it has one, bounds words: ``input_ids``, or the first input.
        call: What it is called with. Flags and words stay.
        generator: Draws.

    Returns:
        Normal numbers for floating ones, words for words, any of the given ones for other whole numbers.
    """
    args, inputs = call
    limit = getattr(getattr(model, "config", None), "vocab_size", None)

    def draw(one: Any, words: int | None = None) -> Any:
        if is_float(one):
            return torch.randn(one.shape, generator=generator, dtype=one.dtype).to(one.device)
        if isinstance(one, Tensor) and one.dtype in {torch.int64, torch.int32} and one.numel():
            if isinstance(words, int):
                fresh = torch.randint(0, words, one.shape, generator=generator)
            else:
                fresh = one.flatten().cpu()[torch.randint(0, one.numel(), (one.numel(),), generator=generator)]
            return fresh.reshape(one.shape).to(one.device, one.dtype)
        return one

    drawn = tuple(tree_map(lambda one: draw(one, limit), args[:1])) + tuple(tree_map(draw, args[1:]))
    named = {
        name: tree_map(lambda one, name=name: draw(one, limit if name.endswith("input_ids") else None), value)
        for name, value in inputs.items()
    }
    return drawn, named


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluate inside, and go back to every module's own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _plain(output: Any) -> Any:
    """Make a dictionary of an output object, as Hugging Face models give them."""
    return dict(output) if isinstance(output, Mapping) else output


def is_float(one: Any) -> bool:
    """Tell whether something is a tensor of a floating dtype."""
    return isinstance(one, Tensor) and one.is_floating_point()
