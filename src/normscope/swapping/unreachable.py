"""What a swap of modules cannot reach: norms in code, in plain lists, and numbers that are read past the norm."""

from collections.abc import Sequence

import torch
from torch import nn

from normscope.swapping.channels_first import ChannelsFirst
from normscope.swapping.find import Unreached
from normscope.swapping.kinds import Norm
from normscope.swapping.place import places_of
from normscope.swapping.replacement import Built
from normscope.swapping.source import functional_norms, parameter_reads


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
    notes: dict[str, str] = {}
    for one in built:
        for parent, child in places_of(model, one.norm):
            if isinstance(parent, nn.TransformerEncoderLayer):
                continue
            for (name, attribute), (where, value) in parameter_reads(parent).items():
                if name != child or not hasattr(one.norm.module, attribute):
                    continue
                read = f"{type(parent).__name__} reads self.{name}.{attribute}"
                if value:
                    notes[where] = f"{read} itself: what it computes with it does not see the new norm ({where})"
                elif getattr(one.module, attribute, None) is None:
                    like = getattr(one.norm.module, attribute)
                    if not isinstance(like, torch.Tensor):
                        notes[where] = f"{read}, which is gone ({where})"
                        continue
                    constant = torch.ones_like if attribute == "weight" else torch.zeros_like
                    holder = one.module.norm if isinstance(one.module, ChannelsFirst) else one.module
                    holder._parameters.pop(attribute, None)
                    holder.register_buffer(attribute, constant(like, requires_grad=False), persistent=False)
                    notes[where] = f"{read} for its dtype or device: a constant stands there now ({where})"
    return list(notes.values())
