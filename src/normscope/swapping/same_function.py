"""Is it the same function? A model run before and after, on the same inputs."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normscope.swapping.output_tensors import tensors_in
from normscope.torch_internals import buffers_of, parameters_of, tree_map

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a model is called with, by place and by name."""


def check_copies(model: nn.Module) -> None:
    """Refuse what a copy of the model would not compute with.

    Raises:
        ValueError: If a forward stands on an instance, or a tensor on the meta device.
    """
    for name, module in model.named_modules():
        where = f"its part {name!r}" if name else f"the {type(module).__name__} itself"
        if "forward" in vars(module):
            raise ValueError(
                f"the forward of {where} was put on the instance (by another library?), and a copy may run the "
                f"original: undo that first"
            )
        for key, tensor in (*parameters_of(module).items(), *buffers_of(module).items()):
            if tensor is not None and tensor.is_meta:
                raise ValueError(
                    f"{key} of {where} is on the meta device and has no numbers to center: load the weights first"
                )


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


def outputs(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """Run a model and list all tensors of a floating dtype that it gives, see :func:`tensors_in`.

    Raises:
        ValueError: If it gives none.
    """
    args, inputs = call
    given = model(*args, **inputs)
    if not (found := tensors_in(given)):
        raise ValueError(
            f"{type(model).__name__} must return what can be compared, tensors of a floating dtype, and gave "
            f"{_described(given)}: to_rms_norm wants a model that returns its scores"
        )
    return found


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


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Make float64 what a model gets that makes tensors of its own, such as limits of the dtype it works in."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def is_float(one: Any) -> bool:
    """Tell whether something is a tensor of a floating dtype."""
    return isinstance(one, Tensor) and one.is_floating_point()


def _described(given: Any) -> str:
    return f"{given.dtype} of shape {list(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
