"""What is to be known of a norm in somebody else's model, and the classes that are known without looking closer."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from normscope.inspection.attribute_reads import ChannelsFirst
from normscope.inspection.behaviour import computes_as, further_inputs, looks_like_norm, observe
from normscope.inspection.equation import FEATURES_ON_AXIS_1, OVER_FEATURES, EpsPlace, Facts, base_of
from normscope.norms import NORMS

_AXES: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (5,),
    nn.InstanceNorm1d: (5,),
    nn.BatchNorm3d: (2, 3, 5),
    nn.InstanceNorm3d: (2, 3, 5),
}
"""Sizes of the axes behind the features, where they are not two."""
_OURS = {made: key for key, made in NORMS.items() if isinstance(made, type)}

KINDS = (*NORMS, "group_norm", "instance_norm")
"""What may be replaced."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One norm of a model, with every name it has there."""

    names: tuple[str, ...]
    """Where it stands; several for a module that is tied."""
    kind: str
    """One of :data:`KINDS`."""
    module: nn.Module
    """What stands there."""
    holder: nn.Module
    """What has the parameters: the module, or the norm within a :class:`ChannelsFirst`."""
    shape: tuple[int, ...]
    """The sizes of the normalized axes, or the number of features."""
    eps: float | None = None
    """None where there is none, or where it is the machine epsilon (``rms_norm``)."""
    eps_place: EpsPlace = "variance"
    """What eps is added to, or (``length``) the smallest length that is divided by."""
    gain: str | None = None
    """The name of the parameter that is the gain."""
    bias: str | None = None
    unit_offset: bool = False
    """Whether the gain is one plus the parameter."""
    unbiased: bool = False
    """Whether the divisor of the variance is one less than the width."""
    channels_first: bool = False
    """Whether the features are on axis 1."""
    sample: tuple[int, ...] = ()
    """The shape of an input."""

    @property
    def name(self) -> str:
        """Return the first name."""
        return self.names[0]


def recognise(names: tuple[str, ...], module: nn.Module) -> Norm | str | None:
    """Return what a module is.

    Args:
        names: Where it stands.
        module: Any module.

    Returns:
        A norm that can be replaced; words, for a norm that cannot; None for anything else.
    """
    if isinstance(module, ChannelsFirst):
        inner = recognise(names, module.norm)
        if not isinstance(inner, Norm):
            return inner
        sample = (4, *inner.shape, 3, 5)
        return dataclasses.replace(inner, module=module, channels_first=True, sample=sample)
    base = base_of(module)
    if base is None and type(module) not in _OURS and not looks_like_norm(module):
        return None
    if why := _out_of_reach(module):
        return why
    if type(module) in _OURS or (base is not None and type(module).forward is base.forward):
        return _known(names, module, base)
    if base is not None and base in FEATURES_ON_AXIS_1:
        if further := further_inputs(module):
            return further
        known = _known(names, module, base)
        if isinstance(known, Norm) and not computes_as(module, base, known.sample):
            return f"a {base.__name__} whose forward does something else, too"
        return known
    facts = observe(module)
    if isinstance(facts, str):
        return facts
    return _from_facts(names, module, facts)


def _known(names: tuple[str, ...], module: nn.Module, base: type[nn.Module] | None) -> Norm | str:
    """Describe a module of torch's or ours."""
    strange = set(module._parameters) - {"weight", "bias"}
    if type(module) not in _OURS and strange:
        return f"has parameters of its own beside weight and bias: {', '.join(sorted(strange))}"
    if base in FEATURES_ON_AXIS_1:
        kind = FEATURES_ON_AXIS_1[base]
        shape = (int(module.num_channels if kind == "group_norm" else module.num_features),)  # pyright: ignore
        sample = (4, *shape, *_AXES.get(base, (3, 5)))
    else:
        kind = _OURS[type(module)] if base is None else OVER_FEATURES[base]
        shape = tuple(module.normalized_shape)  # pyright: ignore
        sample = (4, 6, *shape)
    eps: Any = getattr(module, "eps", getattr(module, "initial_eps", None))
    return Norm(
        names=names,
        kind=kind,
        module=module,
        holder=module,
        shape=shape,
        eps=float(eps) if isinstance(eps, int | float) else getattr(module, "initial_eps", None),
        eps_place=_eps_place(kind, module),
        gain="weight" if module._parameters.get("weight") is not None else None,
        bias="bias" if module._parameters.get("bias") is not None else None,
        channels_first=base in FEATURES_ON_AXIS_1,
        sample=sample,
    )


def _eps_place(kind: str, module: nn.Module) -> EpsPlace:
    if kind == "scale_norm":
        return "length"
    return "deviation" if getattr(module, "convention", None) == "released" else "variance"


def _from_facts(names: tuple[str, ...], module: nn.Module, facts: Facts) -> Norm:
    return Norm(
        names=names,
        kind=facts.kind,
        module=module,
        holder=module,
        shape=(facts.width,),
        eps=facts.eps,
        eps_place=facts.eps_place,
        gain=facts.gain,
        bias=facts.bias,
        unit_offset=facts.unit_offset,
        unbiased=facts.unbiased,
        channels_first=facts.channels_first,
        sample=(4, facts.width, 3, 5) if facts.channels_first else (4, 6, facts.width),
    )


def _out_of_reach(module: nn.Module) -> str | None:
    """Say what stands between us and a norm, if something does."""
    if "quantized" in type(module).__module__.split("."):
        return "quantized: swap first, quantize afterwards"
    if "activation_post_process" in module._modules:
        return "observed for quantization (torch.ao.quantization.prepare): swap first, prepare afterwards"
    if parametrize.is_parametrized(module):
        which = ", ".join(module.parametrizations)  # pyright: ignore
        return f"parametrized ({which}): torch.nn.utils.parametrize.remove_parametrizations comes first"
    if any(name.endswith(("_orig", "_g", "_v")) for name in module._parameters):
        return "its parameters are made by a hook (pruning, weight norm): remove that first"
    if "forward" in vars(module):
        return "its forward was put on the instance by another library: undo that first"
    if any(isinstance(p, UninitializedParameter) for p in module.parameters(recurse=False)):
        return "lazy: run a batch first, then its width is known"
    if isinstance(module, nn.LocalResponseNorm):
        return "normalizes over neighbouring channels, which no key does"
    return None
