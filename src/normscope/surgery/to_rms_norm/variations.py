"""What a proof must hold for beyond the given run: other inputs, other values of parameters, rare random draws."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normscope.surgery.to_rms_norm.same_function import Call, is_float
from normscope.torch_internals import TorchDispatchMode, tree_map


def varied_call(
    model: nn.Module, call: Call, runs: Callable[[Call], bool], generator: torch.Generator
) -> tuple[Call, list[str]]:
    """Vary the arguments of a model: draw them, or permute given values where the model does not accept drawn ones.

    Drawn are normal numbers for floating-point tensors, random tokens for token ids, given values for other integers.
    Permuted are positions on the last axis, in the same order for all integers with as many of them. If neither runs
    for all arguments together, every argument is varied in the way in which the model runs, one after the other.

    Args:
        model: Its ``config.vocab_size``, if it has one, and its largest embedding bound token ids: ``input_ids``, or
            the first input.
        call: Arguments of the model. Those that are not numeric tensors are kept.
        runs: Whether the model runs as in the given call.
        generator: The source of randomness.

    Returns:
        The varied call, and the names of arguments that could not be varied.
    """
    args, inputs = call
    limit = getattr(getattr(model, "config", None), "vocab_size", None)
    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    if isinstance(limit, int) and tables:
        # The text model of several may have fewer; an index out of range on a GPU ends the process.
        limit = min(limit, max(tables))
    orders: dict[int, Tensor] = {}
    names: list[str] = []
    drawn: list[Any] = []
    permuted: list[Any] = []

    def vary(name: str, one: Any) -> None:
        words = limit if name.endswith("input_ids") or name == "0" else None
        other = mixed = one
        if is_float(one):
            other = mixed = torch.randn(one.shape, generator=generator, dtype=one.dtype).to(one.device)
        elif isinstance(one, Tensor) and one.dtype in {torch.int64, torch.int32} and one.numel():
            if isinstance(words, int):
                fresh = torch.randint(0, words, one.shape, generator=generator)
            else:
                fresh = one.flatten().cpu()[torch.randint(0, one.numel(), (one.numel(),), generator=generator)]
            other = fresh.reshape(one.shape).to(one.device, one.dtype)
            if one.dim():
                length = one.shape[-1]
                if length not in orders:
                    orders[length] = torch.randperm(length, generator=generator)
                mixed = one.index_select(-1, orders[length].to(one.device))
        names.append(name)
        drawn.append(other)
        permuted.append(mixed)

    for name, value in (*((str(place), one) for place, one in enumerate(args)), *inputs.items()):
        tree_map(lambda one, name=name: vary(name, one), value)

    def with_leaves(chosen: Mapping[int, Any]) -> Call:
        places = itertools.count()
        replaced = [tree_map(lambda one: chosen.get(next(places), one), one) for one in (*args, *inputs.values())]
        return tuple(replaced[: len(args)]), dict(zip(inputs, replaced[len(args) :], strict=True))

    for together in (drawn, permuted):
        if runs(varied := with_leaves(dict(enumerate(together)))):
            return varied, []
    accepted: dict[int, Any] = {}
    for place, choices in enumerate(zip(drawn, permuted, strict=True)):
        for choice in choices:
            if place not in accepted and runs(with_leaves({**accepted, place: choice})):
                accepted[place] = choice
    kept = dict.fromkeys(name for place, name in enumerate(names) if place not in accepted)
    return with_leaves(accepted), [f"argument {name}" if name.isdigit() else name for name in kept]


def redraw(twin: nn.Module) -> None:
    """Give the parameters and running moments of a copy other values, none of them zero or equal for all features.

    What training may change decides a proof then, and not that a bias starts at zero and a weight at one. Values are
    multiplied by 0.5 to 1.5 and keep their signs; zeros become up to a tenth of the size of their tensor, or of one.
    """
    generator = torch.Generator().manual_seed(2)
    moments = [buffer for name, buffer in twin.named_buffers() if "running_" in name]
    with torch.no_grad():
        for tensor in [one for one in (*twin.parameters(), *moments) if is_float(one) and one.numel()]:
            factor = torch.rand(tensor.shape, generator=generator).add_(0.5).to(tensor.device)
            zeros = tensor == 0
            if bool(zeros.any()):
                size = tensor[tensor.isfinite()].square().mean().sqrt()
                tensor.add_(zeros * (factor - 1) * 0.2 * torch.where(size > 0, size, 1.0))
            tensor.mul_(factor)


_RARE = 1e-6
"""Uniform numbers are moved this close to their limits: any threshold between lies between them."""


class FrequentDraws(TorchDispatchMode):
    """Inside, what happens at random happens half of the time, so that a run of few numbers shows what it does.

    Every probability other than zero and one, as of a dropout, becomes one half; a uniform number becomes its lower or
    its upper limit, so that a mask drawn by any threshold has both values. What Python and NumPy draw, and numbers of
    other distributions, stay as they are.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation with another probability, or change the uniform numbers that it drew."""
        aten, kind, kwargs = torch.ops.aten, func.overloadpacket, kwargs or {}
        if kind in {aten.bernoulli, aten.bernoulli_, aten.native_dropout}:
            place = 0 if func is aten.bernoulli.default else 1
            args = tuple(_half(one) if number == place else one for number, one in enumerate(args))
        z = func(*args, **kwargs)
        if kind in {aten.rand, aten.rand_like, aten.uniform, aten.uniform_} and is_float(z):
            low, high = (
                (*args[1:], *(0.0, 1.0)[len(args) - 1 :]) if kind in {aten.uniform, aten.uniform_} else (0.0, 1.0)
            )
            low, high = kwargs.get("from", low), kwargs.get("to", high)
            near = _RARE * (high - low)
            z.copy_(torch.where(z < (low + high) / 2, low + near, high - near))
        return z


def _half(probability: Any) -> Any:
    if isinstance(probability, Tensor):
        return torch.where((probability > 0) & (probability < 1), 0.5, probability)
    return 0.5 if 0 < probability < 1 else probability
