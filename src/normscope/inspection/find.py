"""The norms of a model: found, described, and for those out of reach the reason."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from normscope.arguments import check_arguments
from normscope.inspection.behaviour import (
    NOT_COMPARED,
    departs_from,
    further_inputs,
    inputs_of,
    looks_like_norm,
    observe,
    width_of,
)
from normscope.inspection.equation import Equation
from normscope.inspection.norm_in_model import (
    FOREIGN_TRAITS,
    TORCH_NORMS,
    UNKNOWN,
    ModuleInModel,
    NormInModel,
    Unreachable,
    kind_of,
    known_base,
    numeric_eps,
    traits_of,
)
from normscope.inspection.probing import Affine, isolated, probed_affine
from normscope.norms import ChannelsFirst, NoNorm
from normscope.torch_internals import CHILDREN_TABLE, children_of, parameters_of

_LAZY = "lazy: run a batch first, then its width is known"


@check_arguments
def find_norms(model: nn.Module, *, for_replacement: bool = False) -> tuple[list[NormInModel], list[Unreachable]]:
    """List the norms of a model that are modules.

    Registered norms, torch's, and classes derived from them are known by their class; any other norm is identified by
    what a copy of it computes on random rows. Nothing in the model is changed and no hook runs. Norms that a forward
    computes by a function are listed by :mod:`~normscope.inspection.functional_calls`.

    Args:
        model: Any module.
        for_replacement: List the norms that another module can replace: ``NoNorm`` is included, and norms that another
            library holds (quantized, parametrized, patched) are unreachable.

    Returns:
        The norms in the order of the model, tied ones once, and the norms that are unreachable.

    Example:
        >>> import torch
        >>> import normscope
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> norms, unreachable = normscope.find_norms(model)
        >>> [(norm.names, norm.kind, norm.eps) for norm in norms], unreachable
        ([(('1',), 'layer_norm', 1e-05)], [])
    """
    found: list[NormInModel] = []
    unreachable: list[Unreachable] = []
    for names, module, parent, norm in _modules(model, for_replacement):
        what = type(module).__name__
        if fused := [name for name in parameters_of(module) if "norm_" in name or name.startswith("ln_")]:
            why = f"fused: it has the norm's parameters itself ({', '.join(fused)})"
            unreachable.append(Unreachable(name=names[0], what=what, why=why))
            continue
        if for_replacement and isinstance(norm, NormInModel) and _is_read_by_quantization(parent):
            norm = f"{type(parent).__name__} reads its numbers (quantization): swap first, quantize afterwards"
        if isinstance(norm, str):
            unreachable.append(Unreachable(name=names[0], what=what, why=norm))
        elif norm is not None and (for_replacement or not isinstance(norm.holder, NoNorm)):
            found.append(norm)
    return found, unreachable


def within_recurrent(model: nn.Module) -> frozenset[int]:
    """Return the identities of the modules inside recurrent layers and cells, which are called at every step.

    Args:
        model: Any module.
    """
    recurrent = (module for module in model.modules() if isinstance(module, nn.RNNBase | nn.RNNCellBase))
    return frozenset(id(inner) for module in recurrent for inner in module.modules())


def held_in_lists(model: nn.Module, norms: Sequence[ModuleInModel]) -> list[Unreachable]:
    """List modules that plain lists or dictionaries hold as well, which nn.Module does not see.

    Args:
        model: Any module.
        norms: Norms or recurrent layers of the model.
    """
    by_identity = {id(norm.module): norm for norm in norms}
    unreachable = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == CHILDREN_TABLE or not isinstance(value, list | tuple | dict):
                continue
            for item in value.values() if isinstance(value, dict) else value:
                if isinstance(item, nn.Module) and id(item) in by_identity:
                    why = f"a plain {type(value).__name__} holds the old one of {by_identity[id(item)].name}, too"
                    place = f"{name}.{attribute}" if name else attribute
                    unreachable.append(Unreachable(name=place, what=type(item).__name__, why=why))
    return unreachable


def recognize(names: tuple[str, ...], module: nn.Module, *, for_replacement: bool = True) -> NormInModel | str | None:
    """Describe a module if it is a norm.

    Args:
        names: Its names in the model.
        module: Any module.
        for_replacement: Whether it is to be replaced, which requires that no other library holds it.

    Returns:
        The norm; a text that says why a norm is unreachable; None if the module is not a norm.
    """
    if isinstance(module, ChannelsFirst):
        inner = recognize(names, module.norm, for_replacement=for_replacement)
        return replace(inner, module=module, channels_first=True) if isinstance(inner, NormInModel) else inner
    base = known_base(module)
    if base is None and not looks_like_norm(module):
        return None
    if any(isinstance(p, UninitializedParameter) for p in module.parameters(recurse=False)):
        return _LAZY
    if isinstance(module, nn.LocalResponseNorm):
        return "normalizes over neighbouring channels, which no key does"
    if for_replacement and (why := held_by_other_library(module)):
        return why
    if base is None:
        equation = observe(module)
        return _from_equation(names, module, equation) if isinstance(equation, Equation) else equation
    if type(module).forward is base.forward:
        norm = _described(names, module, base)
        return _replaceable(norm, base) if for_replacement else norm
    return _with_own_forward(names, module, base)


def _with_own_forward(names: tuple[str, ...], module: nn.Module, base: type[nn.Module]) -> NormInModel | str:
    """Describe an instance of a subclass that overrides ``forward``, if it still computes what its base does."""
    known = inputs_of(base)
    if kind_of(base) in FOREIGN_TRAITS:
        equation = observe(module, known_inputs=known)
        return _from_equation(names, module, equation) if isinstance(equation, Equation) else equation
    if further := further_inputs(module, known):
        return further
    norm = _described(names, module, base)
    if not norm.shape:
        return f"a {base.__name__} with a forward of its own, and nothing tells its width"
    departure = departs_from(module, base, norm.sample)
    if departure is not None and departure.startswith(NOT_COMPARED) and norm.channels_first and len(norm.sample) == 3:
        # Features without positions, as in a library for graphs.
        departure = departs_from(module, base, norm.sample[:2]) and departure
    return norm if departure is None else f"a {base.__name__} whose forward {departure}"


def _described(names: tuple[str, ...], module: nn.Module, base: type[nn.Module]) -> NormInModel:
    """Describe a module that computes what its base, a registered norm or one of torch's, does."""
    known = TORCH_NORMS.get(base)
    traits = traits_of(module)
    shape = _shape_of(module)
    if traits is None:
        with isolated():
            equation = observe(module, known_inputs=inputs_of(base))
            if isinstance(equation, Equation):
                return replace(_from_equation(names, module, equation), kind=kind_of(base))
            affine = probed_affine(module, shape) if shape else Affine()
        traits = replace(UNKNOWN, has_weight=affine.weight is not None, has_bias=affine.bias is not None)
    else:
        weight, bias = (name if parameters_of(module).get(name) is not None else None for name in ("weight", "bias"))
        affine = Affine(weight=weight, bias=bias)
    return NormInModel(
        names=names,
        kind=kind_of(base),
        module=module,
        holder=module,
        shape=shape,
        traits=traits,
        eps=numeric_eps(module),
        weight_name=affine.weight,
        bias_name=affine.bias,
        unit_offset=affine.unit_offset,
        channels_first=known is not None and known.channels_first,
    )


def _from_equation(names: tuple[str, ...], module: nn.Module, equation: Equation) -> NormInModel:
    traits = FOREIGN_TRAITS[equation.kind]
    return NormInModel(
        names=names,
        kind=equation.kind,
        module=module,
        holder=module,
        shape=(equation.width,),
        traits=replace(traits, eps_place=equation.eps_place, unbiased=equation.unbiased),
        eps=equation.eps,
        weight_name=equation.weight,
        bias_name=equation.bias,
        unit_offset=equation.unit_offset,
        channels_first=equation.channels_first,
        spatial=equation.spatial,
    )


def _shape_of(module: nn.Module) -> tuple[int, ...]:
    """Return the sizes of the features, as far as a module reveals them: by an attribute or by its parameters."""
    first, *_ = [*_constructor_arguments(type(module)), ""]
    for name in ("normalized_shape", "num_channels", "num_features", first):
        stated: Any = getattr(module, name, None) if name else None
        if isinstance(stated, int) and not isinstance(stated, bool):
            return (stated,)
        if isinstance(stated, tuple | list) and stated and all(isinstance(size, int) for size in stated):
            return tuple(stated)
    widths = {width_of(p.shape) for p in module.parameters(recurse=False)} - {0, 1}
    return (widths.pop(),) if len(widths) == 1 else ()


def _replaceable(norm: NormInModel, base: type[nn.Module]) -> NormInModel | str:
    """Return the norm, or a text that says what a replacement would lack."""
    if not norm.shape:
        return "nothing tells its width, which a replacement needs"
    further = set(parameters_of(norm.module)) - {"weight", "bias"}
    if base in TORCH_NORMS and further:
        return f"has parameters of its own beside weight and bias: {', '.join(sorted(further))}"
    return norm


def _modules(
    model: nn.Module, for_replacement: bool
) -> Iterator[tuple[tuple[str, ...], nn.Module, nn.Module | None, NormInModel | str | None]]:
    """Yield every module once, except those inside a norm: its names, its first parent and the norm that it is."""
    names: dict[int, list[str]] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        names.setdefault(id(module), []).append(name)
    closed: list[str] = []
    for name, module in modules.items():
        if names[id(module)][0] != name or any(name.startswith(prefix) for prefix in closed):
            continue
        norm = recognize(tuple(names[id(module)]), module, for_replacement=for_replacement)
        if norm is not None:
            closed.append(f"{name}." if name else "")
        elif hasattr(module, "parametrizations"):
            closed.append(f"{name}.parametrizations." if name else "parametrizations.")
        yield tuple(names[id(module)]), module, modules[name.rpartition(".")[0]] if name else None, norm


def _is_read_by_quantization(parent: nn.Module | None) -> bool:
    return parent is not None and not {"intrinsic", "quantized"}.isdisjoint(type(parent).__module__.split("."))


def held_by_other_library(module: nn.Module) -> str | None:
    """Say what prevents the replacement of a module, or return None if nothing does.

    Args:
        module: A norm or a recurrent layer.
    """
    if "quantized" in type(module).__module__.split("."):
        return "quantized: swap first, quantize afterwards"
    if "activation_post_process" in children_of(module):
        return "observed for quantization (torch.ao.quantization.prepare): swap first, prepare afterwards"
    if parametrize.is_parametrized(module):
        which = ", ".join(module.parametrizations)  # pyright: ignore
        return f"parametrized ({which}): torch.nn.utils.parametrize.remove_parametrizations comes first"
    if any(name.endswith(("_orig", "_g", "_v")) for name in parameters_of(module)):
        return "its parameters are made by a hook (pruning, weight norm): remove that first"
    if "forward" in vars(module):
        return "its forward was put on the instance by another library: undo that first"
    return None


def _constructor_arguments(kind: type[nn.Module]) -> list[str]:
    return list(inspect.signature(kind).parameters)
