"""Which norms a model has: torch's and ours by their class, any other by what it computes."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from normscope import norms
from normscope.inspection import equation as torch_norms
from normscope.inspection.behaviour import looks_like_norm, observe
from normscope.inspection.equation import EpsPlace

_OURS: dict[type[nn.Module], str] = {
    norms.LayerNorm: "layer_norm",
    norms.LayerNormSimple: "layer_norm_simple",
    norms.DetachNorm: "detach_norm",
    norms.AdaNorm: "ada_norm",
    norms.RMSNorm: "rms_norm",
    norms.ScaleNorm: "scale_norm",
    norms.DyT: "dyt",
    norms.Derf: "derf",
    norms.BatchNorm: "batch_norm",
    norms.FRN: "frn",
}

KINDS = tuple(dict.fromkeys((*_OURS.values(), *torch_norms.KINDS.values())))
"""What a norm may be."""


@dataclass(frozen=True, kw_only=True)
class NormIn:
    """One norm of a model, with every name it has there."""

    names: tuple[str, ...]
    """Where it stands; several for a module that is tied."""
    kind: str
    """One of :data:`KINDS`."""
    module: nn.Module
    """What stands there."""
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

    @property
    def name(self) -> str:
        """Return the first name."""
        return self.names[0]

    def eps_at(self, dtype: torch.dtype) -> float | None:
        """Return the eps for an input of a dtype: the machine epsilon, of float32 at least, for an RMS norm without."""
        if self.eps is not None or self.kind != "rms_norm":
            return self.eps
        return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps

    def effective_gain(self) -> torch.Tensor | None:
        """Return what multiplies the normalized input, in float64; None where nothing is learned."""
        if self.gain is None:
            return None
        gain = getattr(self.module, self.gain).detach().double()
        return gain + 1 if self.unit_offset else gain

    def effective_bias(self) -> torch.Tensor | None:
        """Return what is added, in float64; None where nothing is."""
        return None if self.bias is None else getattr(self.module, self.bias).detach().double()


@dataclass(frozen=True, kw_only=True)
class Unreached:
    """What looks like a norm and is not measured."""

    name: str
    """Where it stands in the model; empty for the model itself."""
    what: str
    """Its class."""
    why: str


def find_norms(model: nn.Module) -> tuple[list[NormIn], list[Unreached]]:
    """List the norms of a model that are modules.

    torch's and ours are known by their class; any other by what a copy of it computes on random rows. Nothing in the
    model is changed and no hook runs. A norm that a forward computes itself is not seen here; ``NoNorm`` is none.

    Args:
        model: Any module.

    Returns:
        The norms in the order of the model, tied ones once; and what looks like one and was not recognised.
    """
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    found: list[NormIn] = []
    unreached: list[Unreached] = []
    closed: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(inside) for inside in closed) or isinstance(module, norms.NoNorm):
            continue
        told = _recognise(tuple(names[id(module)]), module)
        if told is None:
            continue
        if isinstance(told, str):
            unreached.append(Unreached(name=name, what=type(module).__name__, why=told))
        else:
            found.append(told)
            closed.append(f"{name}." if name else "")
    return found, unreached


def _recognise(names: tuple[str, ...], module: nn.Module) -> NormIn | str | None:
    """Return what a module is: a norm, in words why it cannot be told, or nothing of the kind."""
    known = _OURS.get(type(module))
    base = torch_norms.base_of(module)
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters(recurse=False)):
        lazy = base is not None or "norm" in type(module).__name__.lower()
        return "lazy: run a batch first, then its width is known" if lazy else None
    if known is None and base is None and (isinstance(module, nn.LocalResponseNorm) or not looks_like_norm(module)):
        return None
    own_forward = base is not None and type(module).forward is not base.forward
    if known is not None or (base is not None and (not own_forward or "running_mean" in module._buffers)):
        return _known(names, module, known or torch_norms.KINDS[base])  # pyright: ignore[reportArgumentType]
    facts = observe(module)
    if isinstance(facts, str):
        return facts
    return NormIn(
        names=names,
        kind=facts.kind,
        module=module,
        shape=(facts.width,),
        eps=facts.eps,
        eps_place=facts.eps_place,
        gain=facts.gain,
        bias=facts.bias,
        unit_offset=facts.unit_offset,
        unbiased=facts.unbiased,
        channels_first=facts.channels_first,
    )


def _known(names: tuple[str, ...], module: nn.Module, kind: str) -> NormIn:
    """Describe a module whose class is known."""
    ours = type(module) in _OURS
    if hasattr(module, "normalized_shape"):
        shape = tuple(module.normalized_shape)  # pyright: ignore
    else:
        width = getattr(module, "num_channels", getattr(module, "num_features", getattr(module, "channels", 0)))
        shape = (int(width),)
    eps = getattr(module, "eps", None)
    released = getattr(module, "convention", None) == "released"
    return NormIn(
        names=names,
        kind=kind,
        module=module,
        shape=shape,
        eps=float(eps) if isinstance(eps, int | float) else None,
        eps_place="length" if kind == "scale_norm" else "deviation" if released else "variance",
        gain="weight" if module._parameters.get("weight") is not None else None,
        bias="bias" if module._parameters.get("bias") is not None else None,
        unbiased=released,
        channels_first=not ours and kind in ("batch_norm", "group_norm", "instance_norm"),
    )
