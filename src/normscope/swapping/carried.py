"""What of an old norm's gain, bias and other parameters goes into the new one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normscope.norms import ScaleNorm
from normscope.recognition.torch_norms import base_of
from normscope.swapping.affine import Affine
from normscope.swapping.kinds import Norm
from normscope.torch_internals import buffers_of, has_gradient_hooks, parameters_of, unsaved_buffers_of


@dataclass(kw_only=True)
class Ties:
    """Parameters that several norms share, and what became of each under a conversion."""

    elsewhere: set[int] = field(default_factory=set)
    """Identities of the parameters of all that is not swapped."""
    made: dict[int, dict[tuple[object, ...], nn.Parameter]] = field(default_factory=dict)
    """By the identity of the old one and the conversion."""

    @classmethod
    def of(cls, model: nn.Module, norms: Sequence[Norm]) -> "Ties":
        """Look who else has the parameters of norms.

        Args:
            model: Where they stand.
            norms: Those that are swapped.
        """
        leaving = {id(module) for norm in norms for module in norm.module.modules()}
        rest = (module for module in model.modules() if id(module) not in leaving)
        return cls(elsewhere={id(p) for module in rest for p in parameters_of(module).values() if p is not None})

    def one(self, old: nn.Parameter, new: nn.Parameter, *conversion: object) -> nn.Parameter:
        """Give the same new parameter for the same old one under the same conversion.

        Args:
            old: What goes.
            new: What it becomes, the first time.
            *conversion: In what way.
        """
        return self.made.setdefault(id(old), {}).setdefault((*conversion, new.shape, new.dtype, new.device), new)

    def is_cut(self, old: nn.Parameter) -> bool:
        """Tell whether something that shared a parameter does not share what it became."""
        return id(old) in self.elsewhere or len(self.made.get(id(old), {})) > 1


def carry(
    norm: Norm, inner: nn.Module, affine: Affine, ties: Ties, *, preserve: bool, frozen: bool
) -> tuple[list[str], list[str]]:
    """Put an old norm's parameters into the new one, as the same objects where they fit.

    Args:
        norm: The old norm.
        inner: The new one.
        affine: Which parameters of the new one are its gain and bias.
        ties: What became of parameters that other norms share.
        preserve: Whether a gain may become one length, its mean.
        frozen: Whether what is new is not to be trained where the old norm has no parameter to go by.

    Returns:
        What was kept and what was lost, in words.
    """
    kept: list[str] = []
    lost: list[str] = []
    old = norm.holder
    requires = [p.requires_grad for p in old.parameters(recurse=False)]
    lengths = isinstance(old, ScaleNorm), isinstance(inner, ScaleNorm)
    for word, name, role in (("gain", norm.gain, affine.gain), ("bias", norm.bias, affine.bias)):
        target = parameters_of(inner).get(role) if role is not None else None
        offset = affine.unit_offset if word == "gain" else False
        if name is None:
            constant = constant_of(old, "weight" if word == "gain" else "bias")
            if constant is None:
                continue
            if role is None or target is None or target.numel() != constant.numel() or lengths[1]:
                lost.append(f"{word} (a constant)")
            else:
                values = (constant.detach() - 1 if offset else constant.detach()).reshape(target.shape)
                del parameters_of(inner)[role]
                inner.register_buffer(role, values, persistent=_is_saved(old, "weight" if word == "gain" else "bias"))
                kept.append(f"{word} (a constant)")
            continue
        parameter = parameters_of(old)[name]
        assert parameter is not None
        before = norm.unit_offset if word == "gain" else False
        if preserve and isinstance(inner, ScaleNorm) and word == "gain" and not lengths[0]:
            values = parameter.detach().double() + before
            with torch.no_grad():
                inner.weight.fill_(float(values.mean()) * values.numel() ** 0.5)
            inner.weight = ties.one(parameter, inner.weight, "length", before)
            kept.append("gain (its mean, as one length)")
        elif target is None or role is None or target.numel() != parameter.numel() or lengths[0] != lengths[1]:
            lost.append(word)
            continue
        elif target.shape == parameter.shape and before == offset:
            parameters_of(inner)[role] = parameter
            kept.append(word if name == role else f"{word} ({name} is now {role})")
            continue
        else:
            with torch.no_grad():
                target.copy_(parameter.reshape(target.shape) + (int(before) - int(offset)))
            target.requires_grad_(parameter.requires_grad)
            parameters_of(inner)[role] = ties.one(parameter, target, before, offset)
            how = {0: "", 1: f", 1 + {name}", -1: f", {name} - 1"}[int(before) - int(offset)]
            kept.append(f"{word} (as a new parameter{how})")
        if ties.is_cut(parameter):
            lost.append(f"the tie of {name} with what is not converted")
        if has_gradient_hooks(parameter):
            lost.append(f"hooks on the parameter {name}")
    for name, theirs in parameters_of(old).items():
        mine = parameters_of(inner).get(name)
        if theirs is None or name in {norm.gain, norm.bias}:
            continue
        if type(inner) is type(old) and mine is not None and mine.shape == theirs.shape:
            parameters_of(inner)[name] = theirs
            kept.append(name)
        else:
            lost.append(name)
    if not any(requires) if requires else frozen:
        inner.requires_grad_(False)
    return kept, lost


def constant_of(old: nn.Module, name: str) -> Tensor | None:
    """Return the gain or bias of a norm of torch's that is a buffer or a plain tensor instead of a parameter.

    Args:
        old: Any norm.
        name: ``weight`` or ``bias``.
    """
    value = getattr(old, name, None) if base_of(old) is not None else None
    return value if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else None


def _is_saved(old: nn.Module, name: str) -> bool:
    return name in buffers_of(old) and name not in unsaved_buffers_of(old)
