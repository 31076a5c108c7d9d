"""What a swap of modules cannot reach: norms in code, in plain lists, and numbers that are read past the norm."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from normscope.inspection.attribute_reads import ChannelsFirst, is_at, parameter_reads
from normscope.inspection.find import Unreached
from normscope.inspection.kinds import Norm
from normscope.inspection.source import functional_norms
from normscope.surgery.replacement import Built


def in_code(model: nn.Module, found: Sequence[Norm], unreached: Sequence[Unreached]) -> list[Unreached]:
    """Name the calls that normalize in the code of modules that are no norms themselves."""
    norms = {id(norm.module) for norm in found} | {id(model.get_submodule(one.name)) for one in unreached}
    told: list[Unreached] = []
    kinds: dict[type[nn.Module], list[str]] = {}
    for name, module in model.named_modules():
        if id(module) not in norms and not isinstance(module, ChannelsFirst):
            kinds.setdefault(type(module), []).append(name)
    seen: set[str] = set()
    for kind, names in kinds.items():
        for call in functional_norms(model.get_submodule(names[0])):
            if call.where not in seen:
                seen.add(call.where)
                more = f" and {len(names) - 1} more {kind.__name__}" if len(names) > 1 else ""
                why = f"normalizes by a call, `{call.text}`, in the code of {kind.__name__}{more}"
                told.append(Unreached(name=names[0], what="code", why=why, where=call.where))
    return told


def in_lists(model: nn.Module, chosen: Sequence[Norm]) -> list[Unreached]:
    """Name norms that are also held by plain lists or dictionaries, which nn.Module does not see."""
    ours = {id(norm.module): norm for norm in chosen}
    told = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == "_modules" or not isinstance(value, list | tuple | dict):
                continue
            items = value.values() if isinstance(value, dict) else value
            for item in items:
                if isinstance(item, nn.Module) and id(item) in ours:
                    why = f"a plain {type(value).__name__} holds the old one of {ours[id(item)].name}, too"
                    place = f"{name}.{attribute}" if name else attribute
                    told.append(Unreached(name=place, what=type(item).__name__, why=why))
    return told


def stand_in(model: nn.Module, built: Sequence[Built]) -> list[str]:
    """Give a replacement the ``weight`` or ``bias`` that code around it asks for its dtype, and tell of other reads.

    Some blocks write ``self.norm(x.to(self.norm.weight.dtype))``. Where the new norm has no such parameter it gets a
    buffer of that name, ones for a weight and zeros for a bias, which is not in the state dict and not computed with.

    Args:
        model: Where the norms stand.
        built: What is about to take their places.

    Returns:
        Words for the report.
    """
    notes: dict[str, None] = {}
    known: dict[type[nn.Module], dict[tuple[str, str], tuple[str, bool]]] = {}
    for one in built:
        for owner, place in _owners(model, one.norm):
            if type(owner) not in known:
                known[type(owner)] = parameter_reads(owner)
            for (path, attribute), (where, value) in known[type(owner)].items():
                old = getattr(one.norm.module, attribute, None) if is_at(place, path) else None
                if old is None or callable(getattr(type(one.norm.module), attribute, None)):
                    continue
                read = f"{type(owner).__name__} reads self.{path}.{attribute}"
                if getattr(one.module, attribute, None) is not None:
                    if value:
                        notes[f"{read} itself: what it computes with it does not see the new norm ({where})"] = None
                elif value or not isinstance(old, torch.Tensor):
                    notes[f"{read} itself, which the new norm has not: this will fail ({where})"] = None
                else:
                    constant = torch.ones_like if attribute == "weight" else torch.zeros_like
                    holder = one.module.norm if isinstance(one.module, ChannelsFirst) else one.module
                    holder._parameters.pop(attribute, None)
                    holder.register_buffer(attribute, constant(old, requires_grad=False), persistent=False)
                    notes[f"{read} for its dtype or device: a constant stands there now ({where})"] = None
    return list(notes)


def _owners(model: nn.Module, norm: Norm) -> Iterator[tuple[nn.Module, list[str]]]:
    """Give all modules in which a norm stands, with the names that lead from there to it."""
    for name in norm.names:
        parts = name.split(".")
        for cut in range(len(parts)):
            owner = model.get_submodule(".".join(parts[:cut]))
            if not isinstance(owner, nn.TransformerEncoderLayer):
                yield owner, parts[cut:]
