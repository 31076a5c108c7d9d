"""Models that must not be changed as they are, and what else in a model reacts to its norms: hooks, fused paths."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from normscope.torch_internals import (
    CALL_HOOK_TABLES,
    HOOK_TABLES,
    copy_backward_hook_kind,
    is_bound_hook,
    is_compiled_in_place,
    is_lazy_norm,
    parameters_of,
)


def share_hooks(old: nn.Module, new: nn.Module) -> tuple[list[str], list[str]]:
    """Let a module share the hooks of the one it replaces, so that existing handles keep working.

    Empty sets are shared as well: a hook added to the new module later stays when the old one is put back.

    Args:
        old: The replaced module.
        new: The replacement. Hooks that it already has are not shared.

    Returns:
        Descriptions of what was kept and of what was lost.
    """
    shared, lost = 0, []
    for name in HOOK_TABLES:
        hooks: Any = vars(old).get(name)
        present: Any = vars(new).get(name)
        if not isinstance(hooks, Mapping) or not isinstance(present, Mapping):
            continue
        bound = [hook for hook in hooks.values() if is_bound_hook(hook)]
        if bound:
            lost.append(f"{len(bound)} of {name}, bound to the old module")
        elif present and hooks:
            lost.append(f"{len(hooks)} of {name}, for the new module brings its own")
        elif not present:
            vars(new)[name] = hooks
            shared += len(hooks) if name in CALL_HOOK_TABLES else 0
    copy_backward_hook_kind(old, new)
    return [f"{shared} hooks"] if shared else [], lost


_SWITCHED_OFF = "_normscope_switched_off"
"""Attribute of a module whose fused path is off: its switch before, and the number of swaps that need it off."""


def disable_fast_path(model: nn.Module, changed: set[int]) -> tuple[list[str], Callable[[], None]]:
    """Disable the fused evaluation path of encoder layers with replaced norms.

    In evaluation without gradients ``nn.TransformerEncoderLayer`` calls one fused operator with ``norm1.weight``,
    ``norm1.bias`` and ``norm1.eps``: a replacement would never run, or miss an attribute. ``activation_relu_or_gelu =
    0`` of the layer and ``use_nested_tensor = False`` of its encoder, which have no other effect, prevent this. They
    are restored when all swaps that set them are undone, in any order.

    Args:
        model: Any module.
        changed: Identities of the new norms.

    Returns:
        Notes on what was set, and a function that restores it.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.TransformerEncoderLayer) and {id(layer.norm1), id(layer.norm2)} & changed
    ]
    inside = {id(layer) for layer in layers}
    encoders = [
        encoder
        for encoder in model.modules()
        if isinstance(encoder, nn.TransformerEncoder)
        and hasattr(encoder, "use_nested_tensor")
        and any(id(layer) in inside for layer in encoder.layers)
    ]
    switches = [
        *((layer, "activation_relu_or_gelu", 0) for layer in layers),
        *((encoder, "use_nested_tensor", False) for encoder in encoders),
    ]
    notes = []
    if any(getattr(module, name) for module, name, _ in switches):
        notes.append(
            f"the fused path of {len(layers)} nn.TransformerEncoderLayer, which reads norm1.weight itself, is off"
        )
    if layers and isinstance(model, nn.TransformerEncoderLayer | nn.ModuleList):
        notes.append(
            "an nn.TransformerEncoder that holds this from outside was not seen: set its use_nested_tensor = False, or "
            "swap in the encoder"
        )
    for module, name, off in switches:
        before, swaps = vars(module).get(_SWITCHED_OFF, (getattr(module, name), 0))
        vars(module)[_SWITCHED_OFF] = before, swaps + 1
        setattr(module, name, off)

    def restore() -> None:
        for module, name, _ in switches:
            before, swaps = vars(module).pop(_SWITCHED_OFF)
            if swaps > 1:
                vars(module)[_SWITCHED_OFF] = before, swaps - 1
            else:
                setattr(module, name, before)

    return notes, restore


_WRAPPERS = {
    "OptimizedModule": "it is compiled. Swap in the model that was given to torch.compile, then compile again",
    "DistributedDataParallel": "it is wrapped. Swap in `model.module` before DistributedDataParallel is made",
    "DataParallel": "it is wrapped. Swap in `model.module`, then wrap it again",
    "FullyShardedDataParallel": "its parameters are sharded (FSDP). Swap first, shard afterwards",
    "FSDPModule": "its parameters are sharded (fully_shard). Swap first, shard afterwards",
    "ScriptModule": "it is a TorchScript program. Swap in the Python model, then torch.export or torch.jit.trace it: "
    "torch.jit.script does not take these norms",
    "GraphModule": "it is a traced graph, in which norms are calls. Swap in the model that was traced, then "
    "torch.export it: torch.fx.symbolic_trace does not pass these norms",
    "PeftModel": "PEFT holds it. Swap in the base model, then `get_peft_model`; or `merge_and_unload()` first",
    "DeepSpeedEngine": "DeepSpeed holds it. Swap first, then `deepspeed.initialize`",
}
"""From the name of a class to the advice for a model that has one; most of these libraries are not installed."""


def check_replaceable(model: nn.Module) -> None:
    """Refuse a model that another library manages.

    Args:
        model: Any module.

    Raises:
        TypeError: If ``model`` is not a module.
        ValueError: If a part of it is compiled, scripted, traced, sharded, wrapped or lazy; the message says what to do
            instead.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"its part {name!r}" if name else type(model).__name__
        for base in type(module).__mro__:
            if base.__name__ in _WRAPPERS and not base.__module__.startswith("normscope"):
                raise ValueError(f"{where} cannot be changed: {_WRAPPERS[base.__name__]}")
            if base.__module__.split(".")[0] == "peft":
                raise ValueError(f"{where} cannot be changed: {_WRAPPERS['PeftModel']}")
        if is_compiled_in_place(module):
            raise ValueError(f"{where} cannot be changed: {_WRAPPERS['OptimizedModule']}")
        if any(is_lazy(p) for p in module.parameters(recurse=False)) and not is_lazy_norm(module):
            raise ValueError(f"{where} is lazy, and its shape is not known yet: run a batch first, then swap")
        for key, parameter in parameters_of(module).items():
            if parameter is not None and type(parameter).__name__ == "DTensor":
                raise ValueError(f"{where} cannot be changed: {key} is sharded (DTensor). Swap first")
