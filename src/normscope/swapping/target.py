"""What stands in a norm's place: from a key, or from a function of the width, to a module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normscope.catalogue import NORMS, look_up
from normscope.names import parse_norm
from normscope.swapping.carried import constant_of
from normscope.swapping.kinds import Norm

Maker = Callable[[Any], nn.Module]
"""From a width, or the sizes of several axes, to a module of ``[..., D]``."""

_ADDED_TO_VARIANCE = {"layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "batch_norm", "frn"}
"""Keys whose eps is added to a variance or a mean square: what an old norm's eps is, too."""
_LOSES_GAIN = {
    "layer_norm": {"gain": False},
    "rms_norm": {"elementwise_affine": False},
    "batch_norm": {"affine": False},
}
_LOSES_BIAS = {"layer_norm": {"bias": False}}
_HAVE_BIAS = {"layer_norm", "batch_norm", "group_norm", "instance_norm"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to put in the place of norms."""

    label: str
    """As it was asked for."""
    make: Maker | None
    """A function, where one was given."""
    key: str | None = None
    """A key of ``NORMS``, where one was given."""
    arguments: Mapping[str, Any]
    """Of the key."""

    def build(self, norm: Norm, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """Make what stands in the place of one norm, fresh, for features on the last axis.

        Args:
            norm: The norm. Its eps is kept where the new equation has an eps of the same meaning, and what it has not,
                a gain or a bias, the new one is made without, where it has the choice.
            device: Where parameters go.
            dtype: Of parameters.

        Returns:
            A module of ``[..., *norm.shape]``.

        Raises:
            TypeError: If a function gave something else than a module.
        """
        (*_, last) = norm.shape
        width = norm.shape if len(norm.shape) > 1 else last
        if self.key is None:
            assert self.make is not None
            made = self.make(width)
            if not isinstance(made, nn.Module):
                raise TypeError(f"{self.label} must give a torch.nn.Module, got {made!r} for the width {width}")
            return made.to(device=device, dtype=dtype)
        kept: dict[str, Any] = {}
        if self.keeps_eps(norm):
            kept["eps"] = torch.finfo(dtype).eps if norm.eps is None and self.key != "rms_norm" else norm.eps
        gain, bias = (
            name is not None or constant_of(norm.holder, role) is not None
            for name, role in ((norm.gain, "weight"), (norm.bias, "bias"))
        )
        if not gain and norm.kind not in {"layer_norm_simple", "detach_norm", "ada_norm", "none"}:
            kept |= _LOSES_GAIN.get(self.key, {})
        if not bias and norm.kind in _HAVE_BIAS:
            kept |= _LOSES_BIAS.get(self.key, {})
        if self.key == norm.kind == "batch_norm":
            kept["momentum"] = norm.holder.momentum
            kept["track_running_stats"] = norm.holder.running_mean is not None
        return NORMS[self.key](width, **{**kept, **self.arguments}, device=device, dtype=dtype)

    def keeps_eps(self, norm: Norm) -> bool:
        """Tell whether the old eps has a meaning in the new equation."""
        if self.key == "scale_norm":
            return norm.kind == "scale_norm"
        if self.arguments.get("convention") == "released":
            return norm.kind == "ada_norm" and norm.eps_place == "deviation"
        has_eps = norm.kind not in {"none", "dyt", "derf", "scale_norm"}
        return self.key in _ADDED_TO_VARIANCE and has_eps and norm.eps_place == "variance"


def read_target(to: str | Maker) -> Target:
    """Understand what is to stand in the place of norms.

    Args:
        to: A key of ``NORMS``, a key with arguments such as ``ada_norm(scale=2.0)``, or a function of the width.

    Raises:
        LookupError: If there is no such key.
        TypeError: If it is neither, or the key takes no such argument.
        ValueError: If the text has another form, or an argument a wrong value.
    """
    if not isinstance(to, str):
        if not callable(to) or isinstance(to, nn.Module):
            raise TypeError(f"to must be a key of NORMS or a function from a width to a module, got {to!r}")
        return Target(label=getattr(to, "__name__", repr(to)), make=to, arguments={})
    key, arguments = parse_norm(to)
    made = look_up("norm", NORMS, key)
    strange = {"normalized_shape", "device", "dtype"} & set(arguments)
    if strange:
        raise ValueError(f"{to!r}: the model decides {', '.join(sorted(strange))}, not the swap")
    try:
        made(8, **arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{to!r}: {error}") from error
    return Target(label=to, make=None, key=key, arguments=arguments)
