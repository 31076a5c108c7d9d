"""A module of an unknown class, identified by what it computes; its name alone is never enough."""

import inspect
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from normscope.inspection.equation import TOLERANCE, Equation, matching, value_of
from normscope.inspection.norm_in_model import torch_base
from normscope.inspection.preserve_state import copy_of
from normscope.inspection.probing import enlarged_copy, few_rows, isolated, many_rows, run, upstream
from normscope.torch_internals import buffers_of, parameters_of

_USUAL_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
"""Values of eps to try if a module does not state its own."""
_LONG = 40
"""Positions of the longer input."""
_GRADIENT_TOLERANCE = 1e-3
"""Relative to the upstream gradient over the size of the row; a detached statistic changes the gradient by far more."""
NOT_COMPARED = "could not be compared"
"""Beginning of the text about a forward that did not run."""
_COMPUTED = {"layer_norm": "a layer norm", "rms_norm": "an RMS norm"}


def looks_like_norm(module: nn.Module) -> bool:
    """Return whether a module may be a norm: by the name of its class, an eps or running moments.

    Children are allowed if they have no parameters and are not norms, such as an activation.

    Args:
        module: Any module.
    """
    if "running_mean" in buffers_of(module):
        return True
    if type(module).__module__.startswith("torch.nn.utils."):
        # A parametrization acts on weights.
        return False
    direct = [*module.parameters(recurse=False)]
    children = [*module.modules()][1:]
    if children and (not direct or any(_is_norm_or_learns(child) for child in children)):
        return False
    if "norm" in type(module).__name__.lower():
        return True
    if not 0 < len(direct) <= 2 or any(isinstance(p, UninitializedParameter) for p in direct):
        return False
    return bool(_eps_of(module)) and all(width_of(p.shape) > 1 for p in direct)


def observe(module: nn.Module, *, known_inputs: Collection[str] = ()) -> Equation | str:
    """Run copies of a module on random rows and find the equation that computes the same.

    The module itself and its hooks are not run; the copies are in float64, on the CPU, with other parameters. The
    equation is found on a few rows, then checked on a longer input (40 positions) with rows of sizes from 1e-6 to 1e5,
    some with one entry that outweighs the others, and large weights of both signs, in evaluation and in training; the
    gradients of the input and of the parameters are compared as well. What depends on longer inputs, other dtypes,
    other devices or many calls is not detected.

    Args:
        module: Possibly a layer norm or an RMS norm.
        known_inputs: Names of further arguments of ``forward`` whose meaning is known.

    Returns:
        The equation, or a text that says why there is none.
    """
    parameters = {name: p for name, p in parameters_of(module).items() if p is not None}
    widths = {width_of(p.shape) for p in parameters.values()}
    if not parameters:
        stated = getattr(module, "normalized_shape", None)
        widths = {width_of(torch.Size(stated))} if isinstance(stated, tuple | list) else set()
    if not parameters and "running_mean" in buffers_of(module):
        return "has running moments and no parameters, as a frozen or non-affine batch norm of another library"
    if not parameters and not widths:
        return "has no parameters, and nothing tells its width"
    if len(parameters) > 2 or len(widths) > 1 or 0 in widths:
        shapes = ", ".join(f"{name} {list(p.shape)}" for name, p in parameters.items())
        return f"has parameters that are not a weight and a bias of one width: {shapes}"
    if parameters and widths == {1}:
        return f"has one number ({', '.join(parameters)}) for all features, which is not a weight per feature"
    if further := further_inputs(module, known_inputs):
        return further
    (width,) = widths
    first, second = [size for size in (5, 7, 9) if size != width][:2]
    with isolated():
        for axis, few, more in (
            (-1, (2, first, width), (1, _LONG, width)),
            (1, (2, width, first, second), (1, width, 2, _LONG // 2)),
            (1, (2, width, first), (1, width, _LONG)),
        ):
            equation = _equation_on_few_rows(module, few, axis)
            if equation is not None:
                spatial = few[2:] if axis == 1 else ()
                return _departure(module, equation, more, axis) or replace(equation, spatial=spatial)
    return "computes no layer norm and no RMS norm that is known here (tried on random rows)"


def further_inputs(module: nn.Module, known: Collection[str] = ()) -> str | None:
    """Describe the inputs of a module's ``forward`` beside the first, or return None if there are none.

    Our norms take a second input, a residual: a gate or a mask in its place would be added silently.

    Args:
        module: Any module.
        known: Names of further inputs whose meaning is known.
    """
    inputs = list(inspect.signature(type(module).forward).parameters)[1:]
    if all(name in known for name in inputs[1:]):
        return None
    return f"its forward takes more than one input: {', '.join(inputs)}"


def inputs_of(kind: type[nn.Module]) -> list[str]:
    """List the names of the arguments of a class's ``forward``."""
    return list(inspect.signature(kind.forward).parameters)[1:]


def departs_from(module: nn.Module, base: type[nn.Module], shape: tuple[int, ...]) -> str | None:
    """Describe how a subclass with its own ``forward`` departs from its base, in training and in evaluation.

    Output, gradients and running moments are compared, on large and small numbers, with large weights.

    Args:
        module: An instance of the subclass; copies of it are run.
        base: A norm class.
        shape: Of an input. Of features on axis 1 the last axis is lengthened, of ``[N, features]`` the first, otherwise
            the one before the features.

    Returns:
        A sentence without a subject; None if both compute the same.
    """
    if _has_features_on_axis_1(module):
        long = (*shape[:-1], _LONG) if len(shape) > 2 else (_LONG, *shape[1:])
    else:
        long = (shape[0], _LONG, *shape[2:])
    with isolated():
        x = many_rows(long, 1 if _has_features_on_axis_1(module) else -1)
        g = upstream(long)
        for training in (False, True):
            twins = [enlarged_copy(module, training) for _ in range(2)]
            # The forward of the class: one that another library put on the instance may be bound to the module itself.
            ours, theirs = (
                run(lambda x, twin=twin, kind=kind: kind.forward(twin, x), x, g, dict(twin.named_parameters()))
                for twin, kind in zip(twins, (base, type(module)), strict=True)
            )
            mode = "in training" if training else "in evaluation"
            if isinstance(ours, str) or isinstance(theirs, str):
                who = "forward" if isinstance(theirs, str) else "base"
                failed = theirs if isinstance(theirs, str) else ours
                return f"{NOT_COMPARED} with that of its base: on an input {list(long)}, {mode}, its {who} {failed}"
            if _differ(ours[0], theirs[0], TOLERANCE):
                return f"does something else, too ({mode})"
            if any(_differ(ours[1][name], theirs[1][name], _GRADIENT_TOLERANCE) for name in ours[1]):
                return f"does something else, too (its gradient, {mode})"
            moments = zip(twins[0].buffers(), twins[1].buffers(), strict=True)
            if any(_differ(first.double(), second.double(), TOLERANCE) for first, second in moments):
                return f"does something else, too (its running moments, {mode})"
    return None


def width_of(shape: torch.Size) -> int:
    """Return the size of the only axis that is not one, or 0 if there are several or no axes."""
    return shape.numel() if shape.numel() == max(shape, default=0) else 0


def _has_features_on_axis_1(module: nn.Module) -> bool:
    return torch_base(module) is not None and not hasattr(module, "normalized_shape")


def _equation_on_few_rows(module: nn.Module, shape: tuple[int, ...], axis: int) -> Equation | None:
    """Find the equation of a module on a few rows, in evaluation."""
    twin = copy_of(module, generator=torch.Generator().manual_seed(0))
    twin.eval()
    x = few_rows(shape, axis)
    try:
        with torch.no_grad():
            z: Any = type(twin).forward(twin, x)
    except Exception:
        # It does not take inputs of this shape.
        return None
    if not isinstance(z, Tensor) or z.shape != x.shape:
        return None
    x, z = x.movedim(axis, -1), z.double().movedim(axis, -1)
    candidates = [*_eps_of(module), *_USUAL_EPS]
    return matching(x, z, dict(twin.named_parameters()), candidates, channels_first=axis == 1)


def _departure(module: nn.Module, equation: Equation, shape: tuple[int, ...], axis: int) -> str | None:
    """Describe how a module departs from the equation that it has on a few rows, or return None if it does not."""
    x = many_rows(shape, axis)
    g = upstream(shape)
    twins = [enlarged_copy(module, training) for training in (False, True)]
    parameters = dict(twins[0].named_parameters())
    rows, behind = x.movedim(axis, -1), g.movedim(axis, -1)
    ours = run(lambda x: value_of(equation, x, parameters)[0], rows, behind, parameters)
    assert not isinstance(ours, str)
    largest = ours[0].abs().amax(-1, keepdim=True)
    weight: Any = 1.0
    if equation.weight is not None:
        weight = parameters[equation.weight].detach().reshape(-1) + equation.unit_offset
    steepest = (behind * weight).abs().amax(-1, keepdim=True) / value_of(equation, rows, parameters)[1].detach()
    computed = _COMPUTED[equation.kind]
    for twin, training in zip(twins, (False, True), strict=True):
        theirs = run(lambda x, twin=twin: type(twin).forward(twin, x), x, g, dict(twin.named_parameters()))
        start = f"computes {computed} on a few rows in evaluation"
        if isinstance(theirs, str):
            mode = "in training" if training else "on more and larger rows, with a gradient,"
            return f"{start}; {mode} it {theirs}"
        if not ((theirs[0].movedim(axis, -1) - ours[0]).abs() <= TOLERANCE * largest).all():
            if training:
                return f"{start}, and something else in training (dropout, noise)"
            return f"{start}, and something else on more and larger ones (a limit, other code for longer inputs)"
        close = (theirs[1][""].movedim(axis, -1) - ours[1][""]).abs() <= _GRADIENT_TOLERANCE * steepest
        if not close.all() or any(_differ(ours[1][name], theirs[1][name], _GRADIENT_TOLERANCE) for name in parameters):
            return (
                f"computes {computed} forward, and another gradient: statistics or parameters that are "
                "detached, or a backward pass of its own"
            )
    return None


def _differ(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Return whether two tensors differ by more than a fraction of the largest entry, or hold a NaN."""
    return not ((theirs - ours).abs() <= tolerance * ours.abs().amax()).all()


def _is_norm_or_learns(child: nn.Module) -> bool:
    """Return whether a child is more than an activation: a norm, or a module with parameters."""
    named = "norm" in type(child).__name__.lower()
    return named or torch_base(child) is not None or any(True for _ in child.parameters(recurse=False))


def _eps_of(module: nn.Module) -> list[float]:
    """List the numeric attributes of a module whose names contain eps."""
    named = [value for name, value in vars(module).items() if "eps" in name.lower()]
    return [float(value) for value in named if isinstance(value, float | int) and not isinstance(value, bool)]
