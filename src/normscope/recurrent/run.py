"""What the recurrent layers share: norms, initial values, and the way through layers and directions."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.norms import NORMS, NormTraits
from normscope.recurrent import fused, fused_triton
from normscope.recurrent.places import Mode, Places, group_sizes
from normscope.recurrent.scan import scan
from normscope.recurrent.sequences import Sequences
from normscope.recurrent.steps import NormGroups, State, StepNorms, Weights, input_part
from normscope.registry import look_up

NormFactory = Callable[[int], nn.Module]
Norm = str | NormFactory | None
"""Key of ``normscope.norms.NORMS``, a function that makes a norm of a width, or None."""


def build_norms(
    mode: Mode, places: Places, hidden_size: int, norm: Norm, cell_norm: Norm, like: Tensor
) -> nn.ModuleDict:
    """Build the norms of one layer and direction, with the dtype and on the device of ``like``.

    Raises:
        UnknownName: If no norm has the name.
        ValueError: If the statistics of the norm are not those of a row.
    """
    sizes = group_sizes(mode, places, hidden_size)
    norms = nn.ModuleDict()
    if norm is not None and places.products != "plain":
        for place in ("ih",) if places.products == "summed" else ("ih", "hh"):
            norms[place] = nn.ModuleList(_build(norm, size) for size in sizes)
    if mode == "LSTM" and cell_norm is not None and places.cell != "plain":
        norms["cell"] = nn.ModuleList([_build(cell_norm, hidden_size)])
    return norms.to(device=like.device, dtype=like.dtype)


def _build(norm: str | NormFactory, width: int) -> nn.Module:
    built = (look_up("norm", NORMS, norm) if isinstance(norm, str) else norm)(width)
    traits = getattr(built, "traits", None)
    if isinstance(traits, NormTraits) and traits.statistics not in {"features", None}:
        raise ValueError(
            f"a recurrent layer normalizes each row by itself; {type(built).__name__} shares its statistics over "
            f"{traits.statistics}"
        )
    return built


def weights_of(module: nn.Module, suffix: str) -> Weights:
    """Return the parameters of a layer and direction, such as ``_l0_reverse``, or of a cell."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ih, hh, *others = (getattr(module, name + suffix, None) for name in names)
    assert ih is not None
    assert hh is not None
    return Weights(ih, hh, *others)


def norms_of(norms: nn.ModuleDict, mode: Mode, places: Places, hidden_size: int) -> StepNorms:
    """Return the norms of a layer and direction as the steps take them."""
    sizes = group_sizes(mode, places, hidden_size)
    groups: dict[str, NormGroups] = {}
    for place, modules in norms.items():
        widths = [hidden_size] if place == "cell" else sizes
        groups[place] = list(zip(widths, modules, strict=True))  # pyright: ignore[reportArgumentType]
    return StepNorms(**groups)


def draw_weights(module: nn.Module, hidden_size: int, forget_bias: float | None) -> None:
    """Draw all parameters but those of norms as torch does; biases of forget gates sum to ``forget_bias``."""
    bound = 1 / math.sqrt(hidden_size)
    for name, parameter in module.named_parameters():
        if not name.startswith(("norms.", "initial_")):
            nn.init.uniform_(parameter, -bound, bound)
        if forget_bias is not None and name.startswith("bias_"):
            with torch.no_grad():
                # The gates are i, f, g, o.
                parameter[hidden_size : 2 * hidden_size] = forget_bias if name.startswith("bias_ih") else 0.0
    for part in module.modules():
        if part is not module and callable(reset := getattr(part, "reset_parameters", None)):
            reset()


def run(
    module: Any,
    mode: Mode,
    step: Callable[..., State],
    given: Any,
    hx: State | None,
    reset: Any,
) -> tuple[Any, State]:
    """Run a recurrent layer over sequences, as torch's do.

    Args:
        module: One of the three layers.
        mode: Which one.
        step: Its step, as in :mod:`normscope.recurrent.steps`.
        given: ``[T, B, I]``, ``[B, T, I]`` if ``batch_first``, ``[T, I]`` or packed.
        hx: Initial states, each ``[L, B, H]`` or without the axis of the batch; None for zeros, or what is learned.
        reset: Where the state starts anew.

    Returns:
        The outputs of the last layer, and the final states.

    Raises:
        RuntimeError: If a state has another shape than its layers.
    """
    sequences = Sequences.read(module, given)
    x = sequences.x
    directions = 2 if module.bidirectional else 1
    starts = _starts(module, mode, x)
    if hx is None:
        states = tuple(start.expand(-1, sequences.batch, -1) for start in starts)
    else:
        states = sequences.read_state(hx)
        for one, start in zip(states, starts, strict=True):
            if one.shape != (wanted := (start.shape[0], sequences.batch, start.shape[2])):
                raise RuntimeError(f"expected an initial state of shape {list(wanted)}, got {list(one.shape)}")
    dtypes = [one.dtype for one in states]
    # The cell state of half precision is carried in float32.
    states = (states[0], *(one.to(torch.promote_types(one.dtype, torch.float32)) for one in states[1:]))
    resets = sequences.read_resets(reset)
    scans: Any = fused_triton if x.is_cuda else fused
    reason = scans.reason_against(module, mode, x, states)
    if resets is not None and scans is fused_triton:
        reason = reason or "resets"
    module.computed_by = f"loop: {reason}" if reason else scans.BACKEND
    ends: list[State] = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            suffix = f"_l{layer}{'_reverse' * direction}"
            row = layer * directions + direction
            weights = weights_of(module, suffix)
            norms = norms_of(module.norms[suffix[1:]], mode, module.places, module.hidden_size)
            state, start = tuple(one[row] for one in states), tuple(one[row] for one in starts)
            if not reason:
                flat = x.reshape(x.shape[:-1].numel(), x.shape[-1])
                output, end = scans.run(
                    module, mode, flat, state, start, weights, norms, sequences.sizes, resets, reverse=direction == 1
                )
                outputs.append(output.view(*x.shape[:-1], module.hidden_size))
            else:
                part = input_part(mode, x, weights, norms, module.places)
                steps, end = scan(
                    partial(step, weights=weights, norms=norms, places=module.places),
                    sequences.steps(part),
                    state,
                    reverse=direction == 1,
                    resets=resets,
                    start=start,
                    regularizers=module.regularizers,
                    training=module.training,
                )
                outputs.append(sequences.join(steps, end[0]))
            ends.append(end)
        x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
        if layer + 1 < module.num_layers:
            x = F.dropout(x, module.dropout, module.training)
    final = tuple(torch.stack(parts).to(dtype) for parts, dtype in zip(zip(*ends, strict=True), dtypes, strict=True))
    return sequences.write(x), sequences.write_state(final)


def _starts(module: Any, mode: Mode, x: Tensor) -> State:
    """Return the states that sequences start with, ``[L, 1, H]`` each: learned ones, or zeros."""
    layers = module.num_layers * (2 if module.bidirectional else 1)
    widths = [module.proj_size or module.hidden_size, *([module.hidden_size] if mode == "LSTM" else [])]
    learned = [getattr(module, name, None) for name in ("initial_h", "initial_c")]
    return tuple(
        x.new_zeros(layers, 1, width) if start is None else start
        for width, start in zip(widths, learned[: len(widths)], strict=True)
    )
