"""What the recurrent layers share: norms, initial values, and the way through layers and directions."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.arguments import check_argument
from normscope.norms import BatchNorm, NoNorm, NormTraits
from normscope.recurrent import fused, fused_triton
from normscope.recurrent.batch_norm import StepBatchNorm
from normscope.recurrent.places import Mode, Places, group_sizes
from normscope.recurrent.scan import scan
from normscope.recurrent.sequences import Sequences
from normscope.recurrent.steps import NormGroups, State, StepNorms, Weights, input_part
from normscope.specs import NormSpec
from normscope.torch_internals import BatchNormBase, compiler_is_loaded

NormFactory = Callable[[int], nn.Module]
Norm = str | NormFactory | None
"""What :class:`normscope.NormSpec` parses, a function that makes a norm of a width, or None."""


def build_norms(
    mode: Mode,
    places: Places,
    hidden_size: int,
    norm: Norm,
    cell_norm: Norm,
    like: Tensor,
    batch_norm_steps: int | None = None,
) -> nn.ModuleDict:
    """Build the norms of one layer and direction, with the dtype and on the device of ``like``.

    Raises:
        UnknownName: If no norm has the name.
        TypeError: If a norm is neither a text, a function that makes a module, nor None, or an argument has another
            type.
        ValueError: If a text has another form, the norm takes no such argument, its statistics are not those of a row,
            or it is batch norm without the number of steps.
    """
    sizes = group_sizes(mode, places, hidden_size)
    makes = _factory("norm", norm)
    wanted: dict[str, tuple[NormFactory | None, list[int]]] = {}
    if places.products != "plain":
        wanted = dict.fromkeys(("ih",) if places.products == "summed" else ("ih", "hh"), (makes, sizes))
    if mode == "LSTM" and places.cell != "plain":
        wanted["cell"] = (_factory("cell_norm", cell_norm), [hidden_size])
    norms = nn.ModuleDict()
    for place, (make, widths) in wanted.items():
        built = [] if make is None else [_build(make, width, place, batch_norm_steps) for width in widths]
        # A layer whose norms are the identity is torch's.
        if not all(type(one) is NoNorm for one in built):
            norms[place] = nn.ModuleList(built)
    return norms.to(device=like.device, dtype=like.dtype)


def _factory(argument: str, norm: Norm) -> NormFactory | None:
    check_argument(argument, norm, Norm)
    if not isinstance(norm, str):
        return norm
    spec = NormSpec.parse(norm)
    if spec.parametrization or len(spec.parts) > 1:
        raise ValueError(f"{argument} must be one norm such as 'ada_norm(k=0.1)', got {norm!r}")
    return spec.factory


def _build(make: NormFactory, width: int, place: str, batch_norm_steps: int | None) -> nn.Module:
    built = make(width)
    check_argument("what a norm's function returns", built, nn.Module)
    if type(built) is BatchNorm:
        if batch_norm_steps is None:
            raise ValueError(
                "batch norm has moments of every time step: give a layer batch_norm_steps, the length of the longest "
                "training sequences; a cell, which does not know the time step, cannot have it"
            )
        # The bias of the gates makes that of a product needless.
        return StepBatchNorm(built, batch_norm_steps, bias=place == "cell")
    _check_rows(built)
    return built


def _check_rows(norm: nn.Module) -> None:
    """Check that a norm does not share its statistics over more than a row.

    Raises:
        ValueError: If it does.
    """
    traits = getattr(norm, "traits", None)
    shared = (
        traits.statistics if isinstance(traits, NormTraits) else "batch" if isinstance(norm, BatchNormBase) else None
    )
    if shared not in {"features", None} and not isinstance(norm, StepBatchNorm):
        raise ValueError(
            f"a recurrent layer normalizes each row by itself, or is made with norm='batch_norm'; "
            f"{type(norm).__name__} shares its statistics over {shared}"
        )


def weights_of(module: nn.Module, suffix: str) -> Weights:
    """Return the parameters of a layer and direction, such as ``_l0_reverse``, or of a cell."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ih, hh, *others = (getattr(module, name + suffix, None) for name in names)
    assert ih is not None
    assert hh is not None
    return Weights(ih, hh, *others)


def norms_of(norms: nn.ModuleDict, mode: Mode, places: Places, hidden_size: int) -> StepNorms:
    """Return the norms of a layer and direction as the steps take them.

    Raises:
        ValueError: If a norm that was put there since does not normalize rows.
    """
    sizes = group_sizes(mode, places, hidden_size)
    groups: dict[str, NormGroups] = {}
    for place, modules in norms.items():
        if not torch.compiler.is_compiling():
            for norm in modules.children():
                _check_rows(norm)
        widths = [hidden_size] if place == "cell" else sizes
        groups[place] = list(zip(widths, modules, strict=True))  # pyright: ignore[reportArgumentType]
    return StepNorms(**groups)


def draw_weights(module: nn.Module, hidden_size: int, forget_bias: float | None) -> None:
    """Draw all parameters but those of norms as torch does; biases of forget gates sum to ``forget_bias``.

    Learned initial states are zero, and norms are reset.
    """
    bound = 1 / math.sqrt(hidden_size)
    for name, parameter in module.named_parameters():
        if name.startswith("initial_"):
            nn.init.zeros_(parameter)
        elif not name.startswith("norms."):
            nn.init.uniform_(parameter, -bound, bound)
        if forget_bias is not None and name.startswith("bias_"):
            with torch.no_grad():
                # The gates are i, f, g, o.
                parameter[hidden_size : 2 * hidden_size] = forget_bias if name.startswith("bias_ih") else 0.0
    for part in module.modules():
        if part is not module and callable(reset := getattr(part, "reset_parameters", None)):
            reset()


def run_apart(compiling: bool) -> Callable[..., tuple[Any, State]]:
    """Return :func:`run`, as torch.compile leaves it alone unless it is ``compiling`` the layer.

    torch.compile leaves recurrent layers out of its graphs, but would go on with each function that they call.
    """
    left_alone: Any = torch.compiler.disable(run) if compiler_is_loaded() and not compiling else run
    return left_alone


def run(
    module: Any,
    mode: Mode,
    step: Callable[..., State],
    given: Any,
    hx: State | None,
    reset: Any,
    *,
    loop: Callable[..., tuple[list[Tensor], State]] | None = None,
) -> tuple[Any, State]:
    """Run a recurrent layer over sequences, as torch's do.

    Args:
        module: One of the three layers.
        mode: Which one.
        step: Its step, as in :mod:`normscope.recurrent.steps`.
        given: ``[T, B, I]``, ``[B, T, I]`` if ``batch_first``, ``[T, I]`` or packed.
        hx: Initial states, each ``[L, B, H]`` or without the axis of the batch; None for zeros, or what is learned.
        reset: Where the state starts anew.
        loop: Runs every layer and direction step by step, in the place of the kernels: takes what
            :func:`~normscope.recurrent.scan.scan` does.

    Returns:
        The outputs of the last layer, and the final states.

    Raises:
        RuntimeError: If a state has another shape than its layers.
        ValueError: If there are resets and a batch norm, or a norm that was put there does not normalize rows.
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
    if resets is not None and any(isinstance(one, StepBatchNorm) for one in module.norms.modules()):
        raise ValueError(
            "batch norm has moments of every time step, and reset starts sequences anew at different ones: use a norm "
            "of rows such as layer_norm"
        )
    scans: Any = fused_triton if x.is_cuda else fused
    if loop is not None:
        reason = "its steps are measured"
    elif torch.compiler.is_compiling():
        # torch.compile cannot trace what reads whether a mode is active.
        reason = "torch.compile traces the steps"
    elif resets is not None and scans is fused_triton:
        reason = "resets"
    else:
        reason = scans.reason_against(module, mode, x, states)
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
            if reason:
                output, end = _loop(
                    loop or scan,
                    module,
                    mode,
                    step,
                    sequences,
                    x,
                    state,
                    start,
                    weights,
                    norms,
                    resets,
                    reverse=direction == 1,
                )
            else:
                flat = x.reshape(x.shape[:-1].numel(), x.shape[-1])
                output, end = scans.run(
                    module, mode, flat, state, start, weights, norms, sequences.sizes, resets, reverse=direction == 1
                )
                output = output.view(*x.shape[:-1], module.hidden_size)
            outputs.append(output)
            ends.append(end)
        x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
        if layer + 1 < module.num_layers:
            x = F.dropout(x, module.dropout, module.training)
    final = tuple(torch.stack(parts).to(dtype) for parts, dtype in zip(zip(*ends, strict=True), dtypes, strict=True))
    return sequences.write(x), sequences.write_state(final)


def _loop(
    loop: Callable[..., tuple[list[Tensor], State]],
    module: Any,
    mode: Mode,
    step: Callable[..., State],
    sequences: Sequences,
    x: Tensor,
    state: State,
    start: State,
    weights: Weights,
    norms: StepNorms,
    resets: Sequence[Tensor] | None,
    *,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Compute a layer and direction step by step; return the outputs and the final states."""
    # The time steps of a norm are counted from where each sequence begins in this direction.
    turned = reverse and norms.know_time
    if norms.know_time:
        part = F.linear(sequences.turn(x) if turned else x, weights.ih)
        products = sequences.steps(part)
        at = [norms.at(t) for t in range(len(products))]
        parts: Sequence[Tensor] = [
            input_part(mode, product, weights, one, module.places, lambda product, _: product)
            for product, one in zip(products, at, strict=True)
        ]
        cell = [partial(step, weights=weights, norms=one, places=module.places) for one in at]
    else:
        part = input_part(mode, x, weights, norms, module.places)
        parts = sequences.steps(part)
        cell = partial(step, weights=weights, norms=norms, places=module.places)
    steps, end = loop(
        cell,
        parts,
        state,
        reverse=reverse and not turned,
        resets=resets,
        start=start,
        regularizers=module.regularizers,
        training=module.training,
    )
    output = sequences.join(steps, part[..., : end[0].shape[-1]])
    return sequences.turn(output) if turned else output, end


def _starts(module: Any, mode: Mode, x: Tensor) -> State:
    """Return the states that sequences start with, ``[L, 1, H]`` each: learned ones, or zeros."""
    layers = module.num_layers * (2 if module.bidirectional else 1)
    widths = [module.proj_size or module.hidden_size, *([module.hidden_size] if mode == "LSTM" else [])]
    learned = [getattr(module, name, None) for name in ("initial_h", "initial_c")]
    return tuple(
        x.new_zeros(layers, 1, width) if start is None else start
        for width, start in zip(widths, learned[: len(widths)], strict=True)
    )
