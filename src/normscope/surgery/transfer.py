"""The parameters of a replaced norm that its replacement takes over, and constants for code that reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normscope.inspection.attribute_reads import is_at, parameter_reads
from normscope.inspection.find import recognize
from normscope.inspection.norm_in_model import ModuleInModel, NormInModel, torch_base, traits_of, unwrapped
from normscope.inspection.probing import Affine, probed_affine
from normscope.torch_internals import buffers_of, has_gradient_hooks, parameters_of, unsaved_buffers_of


def affine_of(module: nn.Module, shape: tuple[int, ...]) -> Affine:
    """Find the weight and the bias of a module of ``[..., *shape]``.

    Norms are described as :func:`~normscope.inspection.find.find_norms` describes them. Of any other module a copy is
    run: a parameter to which the output is proportional, entry by entry, is a weight; one that is added is a bias.

    Args:
        module: Any module; it is not changed.
        shape: The sizes of the last axes.
    """
    norm = recognize(("",), module, for_replacement=False)
    if isinstance(norm, NormInModel):
        return Affine(weight=norm.weight_name, bias=norm.bias_name, unit_offset=norm.unit_offset)
    return probed_affine(module, shape)


@dataclass(kw_only=True)
class Ties:
    """Parameters that several norms or layers share, and what each was converted to."""

    elsewhere: set[int] = field(default_factory=set)
    """Identities of the parameters of everything that is not swapped."""
    made: dict[int, dict[tuple[object, ...], nn.Parameter]] = field(default_factory=dict)
    """By the identity of the old parameter and the conversion."""

    @classmethod
    def of(cls, model: nn.Module, old: Sequence[ModuleInModel]) -> "Ties":
        """Collect the parameters of a model outside of what is swapped.

        Args:
            model: Any module.
            old: What is swapped.
        """
        leaving = {id(module) for one in old for module in one.module.modules()}
        rest = (module for module in model.modules() if id(module) not in leaving)
        return cls(elsewhere={id(p) for module in rest for p in parameters_of(module).values() if p is not None})

    def converted(self, old: nn.Parameter, new: nn.Parameter, *conversion: object) -> nn.Parameter:
        """Return the same new parameter for the same old one and the same conversion.

        Args:
            old: The old parameter.
            new: What it is converted to, used the first time.
            *conversion: What identifies the conversion.
        """
        return self.made.setdefault(id(old), {}).setdefault((*conversion, new.shape, new.dtype, new.device), new)

    def is_cut(self, old: nn.Parameter) -> bool:
        """Return whether a module that shared the old parameter does not share what it was converted to."""
        return id(old) in self.elsewhere or len(self.made.get(id(old), {})) > 1


def transfer(
    norm: NormInModel, inner: nn.Module, affine: Affine, ties: Ties, *, preserve: bool, frozen: bool
) -> tuple[list[str], list[str]]:
    """Put a norm's parameters into its replacement, as the same objects where they fit.

    Args:
        norm: The old norm.
        inner: The replacement.
        affine: Which parameters of the replacement are its weight and bias.
        ties: What parameters shared with other norms were converted to.
        preserve: Whether a weight per feature may become one length, its mean.
        frozen: Whether new parameters are frozen if the old norm has none to follow.

    Returns:
        Descriptions of what was kept and of what was lost.
    """
    kept: list[str] = []
    lost: list[str] = []
    old = norm.holder
    requires = [p.requires_grad for p in old.parameters(recurse=False)]
    traits = traits_of(inner)
    was_length, is_length = norm.traits.weight_is_length, traits is not None and traits.weight_is_length
    for role, name, new_name in (("weight", norm.weight_name, affine.weight), ("bias", norm.bias_name, affine.bias)):
        target = parameters_of(inner).get(new_name) if new_name is not None else None
        offset = affine.unit_offset if role == "weight" else False
        if name is None:
            constant = constant_of(old, role)
            if constant is None:
                continue
            if new_name is None or target is None or target.numel() != constant.numel() or is_length:
                lost.append(f"{role} (a constant)")
            else:
                values = (constant.detach() - 1 if offset else constant.detach()).reshape(target.shape)
                del parameters_of(inner)[new_name]
                inner.register_buffer(new_name, values, persistent=_is_saved(old, role))
                kept.append(f"{role} (a constant)")
            continue
        parameter = parameters_of(old)[name]
        assert parameter is not None
        before = norm.unit_offset if role == "weight" else False
        if preserve and is_length and role == "weight" and not was_length and target is not None:
            values = parameter.detach().double() + before
            with torch.no_grad():
                target.fill_(float(values.mean()) * values.numel() ** 0.5)
            parameters_of(inner)[str(new_name)] = ties.converted(parameter, target, "length", before)
            kept.append("weight (its mean, as one length)")
        elif target is None or new_name is None or target.numel() != parameter.numel() or was_length != is_length:
            lost.append(role)
            continue
        elif target.shape == parameter.shape and before == offset:
            parameters_of(inner)[new_name] = parameter
            kept.append(role if name == new_name else f"{role} ({name} is now {new_name})")
            continue
        else:
            with torch.no_grad():
                target.copy_(parameter.reshape(target.shape) + (int(before) - int(offset)))
            target.requires_grad_(parameter.requires_grad)
            parameters_of(inner)[new_name] = ties.converted(parameter, target, before, offset)
            how = {0: "", 1: f", 1 + {name}", -1: f", {name} - 1"}[int(before) - int(offset)]
            kept.append(f"{role} (as a new parameter{how})")
        if ties.is_cut(parameter):
            lost.append(f"the tie of {name} with what is not converted")
        if has_gradient_hooks(parameter):
            lost.append(f"hooks on the parameter {name}")
    for name, theirs in parameters_of(old).items():
        mine = parameters_of(inner).get(name)
        if theirs is None or name in {norm.weight_name, norm.bias_name}:
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
    """Return the weight or bias of a norm of torch's that is a buffer or a plain tensor instead of a parameter.

    Args:
        old: Any norm.
        name: ``weight`` or ``bias``.
    """
    value = getattr(old, name, None) if torch_base(old) is not None else None
    return value if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else None


def _is_saved(old: nn.Module, name: str) -> bool:
    return name in buffers_of(old) and name not in unsaved_buffers_of(old)


def add_read_constants(model: nn.Module, pairs: Sequence[tuple[NormInModel, nn.Module]]) -> list[str]:
    """Add a constant ``weight`` or ``bias`` to replacements if surrounding code reads its dtype or device.

    Some blocks compute ``self.norm(x.to(self.norm.weight.dtype))``. A replacement without that parameter gets a buffer
    of that name, ones for a weight and zeros for a bias, which is not in the state dict and is not used in a
    computation.

    Args:
        model: The model, with the old norms in their places.
        pairs: Every norm with its replacement.

    Returns:
        Notes for the report, on these constants and on other reads.
    """
    notes: dict[str, None] = {}
    known: dict[type[nn.Module], dict[tuple[str, str], tuple[str, bool]]] = {}
    for norm, new in pairs:
        for owner, place in _owners(model, norm):
            if type(owner) not in known:
                known[type(owner)] = parameter_reads(owner)
            for (path, attribute), (where, value) in known[type(owner)].items():
                old = getattr(norm.module, attribute, None) if is_at(place, path) else None
                if old is None or callable(getattr(type(norm.module), attribute, None)):
                    continue
                read = f"{type(owner).__name__} reads self.{path}.{attribute}"
                if getattr(new, attribute, None) is not None:
                    if value:
                        notes[f"{read} itself: if that line runs, it does not see the new norm ({where})"] = None
                elif value or not isinstance(old, Tensor):
                    notes[f"{read} itself, which the new norm does not have: if that line runs, it fails ({where})"] = (
                        None
                    )
                else:
                    constant = torch.ones_like if attribute == "weight" else torch.zeros_like
                    holder = unwrapped(new)
                    parameters_of(holder).pop(attribute, None)
                    holder.register_buffer(attribute, constant(old, requires_grad=False), persistent=False)
                    notes[f"{read} for its dtype or device: a constant stands there now ({where})"] = None
    return list(notes)


def _owners(model: nn.Module, norm: NormInModel) -> Iterator[tuple[nn.Module, list[str]]]:
    """Yield all modules that contain a norm, with the names that lead from there to it."""
    for name in norm.names:
        parts = name.split(".")
        for cut in range(len(parts)):
            owner = model.get_submodule(".".join(parts[:cut]))
            if not isinstance(owner, nn.TransformerEncoderLayer):
                yield owner, parts[cut:]
