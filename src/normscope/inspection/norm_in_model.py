"""The record of a norm in a model, and the norm classes whose traits are known without running them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.norms import NORMS, ChannelsFirst, LayerNorm, NormTraits, RMSNorm


@dataclass(frozen=True, kw_only=True)
class ModuleInModel:
    """A module that a swap can replace, with every name it has in the model."""

    names: tuple[str, ...]
    """Its names in the model; several for a module that is tied."""
    kind: str
    """A key of ``NORMS``, ``group_norm`` or ``instance_norm``; of a recurrent layer a key such as ``lstm``."""
    module: nn.Module
    """The module under these names."""

    @property
    def name(self) -> str:
        """Return the first name."""
        return self.names[0]


@dataclass(frozen=True, kw_only=True)
class NormInModel(ModuleInModel):
    """One norm of a model, with every name it has there.

    Example:
        >>> import torch
        >>> import normscope
        >>> (norm,), _ = normscope.find_norms(torch.nn.Sequential(torch.nn.GroupNorm(2, 8)))
        >>> norm.names, norm.kind, norm.traits.statistics
        (('0',), 'group_norm', 'channels')
    """

    holder: nn.Module
    """The module with the parameters: ``module`` itself, or the norm inside a ``ChannelsFirst``."""
    shape: tuple[int, ...]
    """Sizes of the normalized axes, or the number of features; empty if the module does not reveal them."""
    traits: NormTraits
    """What it computes; of a norm of another package that declares nothing, only what was measured."""
    eps: float | None = None
    """None if there is no eps, or if it is the machine epsilon (``rms_norm``)."""
    weight_name: str | None = None
    """The name of the parameter that multiplies the normalized input, in ``holder``."""
    bias_name: str | None = None
    """The name of the parameter that is added, in ``holder``."""
    unit_offset: bool = False
    """Whether the factor is one plus the weight."""
    channels_first: bool = False
    """Whether the features are on axis 1."""
    spatial: tuple[int, ...] = ()
    """Sizes of the axes after the features of an input that it was observed to take; empty if it takes any number."""

    @property
    def sample(self) -> tuple[int, ...]:
        """Return the shape of a small input."""
        base = torch_base(self.module)
        spatial = self.spatial or ((3, 5) if base is None else TORCH_NORMS[base].spatial)
        return (4, *self.shape, *spatial) if self.channels_first else (4, 6, *self.shape)

    def eps_at(self, dtype: torch.dtype) -> float | None:
        """Return eps for an input of a dtype: for an RMS norm without eps the machine epsilon, of at least float32."""
        if self.eps is not None or self.kind != "rms_norm":
            return self.eps
        return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps

    def effective_weight(self) -> Tensor | None:
        """Return the factor of the normalized input in float64, or None if it is not learned."""
        if self.weight_name is None:
            return None
        weight = getattr(self.holder, self.weight_name).detach().double()
        return weight + 1 if self.unit_offset else weight

    def effective_bias(self) -> Tensor | None:
        """Return the bias in float64, or None if it is not learned."""
        return None if self.bias_name is None else getattr(self.holder, self.bias_name).detach().double()


@dataclass(frozen=True, kw_only=True)
class Unreachable:
    """A norm or layer that can be neither measured nor replaced, or not for the purpose that was asked for."""

    name: str
    """Its place in the model; empty for the model itself."""
    what: str
    """Its class, or the function that computes it."""
    why: str
    where: str = ""
    """File and line, where they are known."""


@dataclass(frozen=True, kw_only=True)
class TorchNorm:
    """A norm class of torch."""

    kind: str
    traits: NormTraits
    channels_first: bool = True
    spatial: tuple[int, ...] = (3, 5)
    """Sizes of the axes after the features in a small input."""


_LAYER_NORM, _RMS_NORM = (replace(known.traits, formula=None) for known in (LayerNorm, RMSNorm))
_BATCH_NORM = replace(_LAYER_NORM, statistics="batch", without_weight={"affine": False}, without_bias={})
_GROUP_NORM = replace(_BATCH_NORM, statistics="channels")

TORCH_NORMS: Mapping[type[nn.Module], TorchNorm] = {
    nn.LayerNorm: TorchNorm(kind="layer_norm", traits=_LAYER_NORM, channels_first=False),
    nn.RMSNorm: TorchNorm(kind="rms_norm", traits=_RMS_NORM, channels_first=False),
    nn.BatchNorm1d: TorchNorm(kind="batch_norm", traits=_BATCH_NORM, spatial=(5,)),
    nn.BatchNorm2d: TorchNorm(kind="batch_norm", traits=_BATCH_NORM),
    nn.BatchNorm3d: TorchNorm(kind="batch_norm", traits=_BATCH_NORM, spatial=(2, 3, 5)),
    nn.SyncBatchNorm: TorchNorm(kind="batch_norm", traits=_BATCH_NORM),
    nn.GroupNorm: TorchNorm(kind="group_norm", traits=_GROUP_NORM),
    nn.InstanceNorm1d: TorchNorm(kind="instance_norm", traits=_GROUP_NORM, spatial=(5,)),
    nn.InstanceNorm2d: TorchNorm(kind="instance_norm", traits=_GROUP_NORM),
    nn.InstanceNorm3d: TorchNorm(kind="instance_norm", traits=_GROUP_NORM, spatial=(2, 3, 5)),
}
"""torch's own norms. Those with ``channels_first`` have a weight and a bias for every entry of axis 1."""

FOREIGN_TRAITS: Mapping[str, NormTraits] = {"layer_norm": _LAYER_NORM, "rms_norm": _RMS_NORM}
"""Traits of a class that is not registered and was observed to compute one of these."""

UNKNOWN = NormTraits(
    centers=False, scales=False, statistics="features", eps_place=None, has_weight=False, has_bias=False
)
"""Traits of a registered norm that declares none and computes neither a layer norm nor an RMS norm."""


def kinds() -> tuple[str, ...]:
    """List the kinds of norms that a model may have: the registered ones and those that only torch has."""
    return tuple(dict.fromkeys((*NORMS, *(known.kind for known in TORCH_NORMS.values()))))


def torch_base(module: nn.Module) -> type[nn.Module] | None:
    """Return the norm class of torch that a module is an instance of, or None.

    Args:
        module: Any module.
    """
    return next((base for base in TORCH_NORMS if isinstance(module, base)), None)


def known_base(module: nn.Module) -> type[nn.Module] | None:
    """Return the nearest base class that is a registered norm or one of torch's, or None.

    Args:
        module: Any module.
    """
    registered = _registered_classes()
    return next((base for base in type(module).__mro__ if base in TORCH_NORMS or base in registered), None)


def kind_of(base: type[nn.Module]) -> str:
    """Return the kind of a class that :func:`known_base` returned.

    Args:
        base: A registered norm or one of torch's.
    """
    return TORCH_NORMS[base].kind if base in TORCH_NORMS else _registered_classes()[base]


@check_arguments
def traits_of(module: nn.Module) -> NormTraits | None:
    """Return what a module's class declares that it computes: ours, another package's, or one of torch's norms.

    Args:
        module: Any module.

    Returns:
        None if nothing is declared.

    Example:
        >>> import torch
        >>> from normscope.inspection import traits_of
        >>> traits_of(torch.nn.RMSNorm(8)).centers, traits_of(torch.nn.BatchNorm1d(8)).statistics
        (False, 'batch')
        >>> traits_of(torch.nn.Linear(8, 8)) is None
        True
    """
    declared = getattr(module, "traits", None)
    if isinstance(declared, NormTraits):
        return declared
    base = torch_base(module)
    return None if base is None else TORCH_NORMS[base].traits


def numeric_eps(module: nn.Module) -> float | None:
    """Return a module's eps as a number; of a learned eps its present size.

    Args:
        module: A norm.
    """
    eps: Any = getattr(module, "eps", None)
    if isinstance(eps, Tensor):
        initial = getattr(module, "initial_eps", None)
        return initial if eps.is_meta or eps.numel() != 1 else float(eps.detach().abs())
    return float(eps) if isinstance(eps, int | float) else None


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the norm inside a ``ChannelsFirst``, or the module itself."""
    return module.norm if isinstance(module, ChannelsFirst) else module


def _registered_classes() -> Mapping[type[nn.Module], str]:
    """Map the classes of registered norms to their keys; classes of torch keep their own kinds."""
    return _classes_of(tuple(NORMS.items()))


@lru_cache(maxsize=4)
def _classes_of(entries: Iterable[tuple[str, Any]]) -> dict[type[nn.Module], str]:
    classes: dict[type[nn.Module], str] = {}
    for key, entry in entries:
        made = entry if isinstance(entry, type) else _class_made_by(entry)
        if made is not None and not made.__module__.startswith("torch."):
            classes.setdefault(made, key)
    return classes


def _class_made_by(entry: Any) -> type[nn.Module] | None:
    """Return the class of what a registered function builds, or None if it cannot be built for a width of 8."""
    with torch.random.fork_rng(devices=[]):
        try:
            return type(entry(8))
        except Exception:
            # Another package's code may raise anything; its norms are then known by what they compute.
            return None
