"""Models that must not be changed now, and the way out."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules.batchnorm import _LazyNormBase
from torch.nn.modules.module import _WrappedHook
from torch.nn.parameter import is_lazy

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_COUNTED = {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}
_FULL = "_is_full_backward_hook"


def share_hooks(old: nn.Module, new: nn.Module) -> tuple[list[str], list[str]]:
    """Let two modules have one set of hooks, so that the handles that people hold go on working.

    Empty sets are shared as well: a hook that comes to the new module later is one of the old, too, and stays when the
    old one is put back.

    Args:
        old: What stands there.
        new: What will; hooks that it brings itself stay its own.

    Returns:
        What was kept and what was lost, in words.
    """
    taken, lost = 0, []
    for name in _HOOKS:
        hooks: Any = vars(old).get(name)
        own: Any = vars(new).get(name)
        if not isinstance(hooks, Mapping) or not isinstance(own, Mapping):
            continue
        bound = [hook for hook in hooks.values() if isinstance(hook, _WrappedHook) and hook.with_module]
        if bound:
            lost.append(f"{len(bound)} of {name}, bound to the old module")
        elif own and hooks:
            lost.append(f"{len(hooks)} of {name}, for the new module brings its own")
        elif not own:
            vars(new)[name] = hooks
            taken += len(hooks) if name in _COUNTED else 0
    same_direction(old, new)
    return [f"{taken} hooks"] if taken else [], lost


def same_direction(source: nn.Module, target: nn.Module) -> None:
    """Tell a module of which kind the backward hooks are that it shares with another.

    Args:
        source: Knows it.
        target: Is told.
    """
    if target._backward_hooks is source._backward_hooks:
        vars(target)[_FULL] = vars(source).get(_FULL)


_OFF: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()
"""Of every module that was switched off: what its switch was before, and how many swaps still need it off."""


def leave_fast_path(model: nn.Module, changed: set[int]) -> tuple[list[str], Callable[[], None]]:
    """Keep encoder layers whose norms were swapped from computing layer norms of their own in evaluation.

    In evaluation without gradients ``nn.TransformerEncoderLayer`` calls one fused operator with ``norm1.weight``,
    ``norm1.bias`` and ``norm1.eps``: a norm that was put there would never run, or miss an attribute. What is set to
    prevent it is ``activation_relu_or_gelu = 0`` of the layer and ``use_nested_tensor = False`` of its encoder, both of
    which serve that path only. They stay so until all swaps that set them are undone, in whatever order.

    Args:
        model: Any module.
        changed: The identities of the norms that are new.

    Returns:
        Words about what was set, and a function that sets it back.
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
    told = []
    if any(getattr(module, name) for module, name, _ in switches):
        told.append(
            f"the fused path of {len(layers)} nn.TransformerEncoderLayer, which reads norm1.weight itself, is off"
        )
    if layers and isinstance(model, nn.TransformerEncoderLayer | nn.ModuleList):
        told.append(
            "an nn.TransformerEncoder that holds this from outside was not seen: set its use_nested_tensor = False, or "
            "swap in the encoder"
        )
    for module, name, off in switches:
        _OFF.setdefault(module, [getattr(module, name), 0])[1] += 1
        setattr(module, name, off)

    def back() -> None:
        for module, name, _ in switches:
            before, swaps = _OFF.pop(module)
            if swaps > 1:
                _OFF[module] = [before, swaps - 1]
            else:
                setattr(module, name, before)

    return told, back


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
"""From a class to what is said of a model that has one; by name, for most of these libraries are not here."""


def check_open(model: nn.Module) -> None:
    """Refuse a model whose norms another library holds.

    Args:
        model: Any module.

    Raises:
        TypeError: If it is no module.
        ValueError: If a part of it is compiled, scripted, traced, sharded or wrapped, or lazy; the message
            has the way out.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"its part {name!r}" if name else type(model).__name__
        for base in type(module).__mro__:
            if base.__name__ in _WRAPPERS and not base.__module__.startswith("normscope"):
                raise ValueError(f"the norms of {where} cannot be swapped: {_WRAPPERS[base.__name__]}")
            if base.__module__.split(".")[0] == "peft":
                raise ValueError(f"the norms of {where} cannot be swapped: {_WRAPPERS['PeftModel']}")
        if module._compiled_call_impl is not None:
            raise ValueError(f"the norms of {where} cannot be swapped: {_WRAPPERS['OptimizedModule']}")
        if any(is_lazy(p) for p in module.parameters(recurse=False)) and not isinstance(module, _LazyNormBase):
            raise ValueError(f"{where} is lazy, and what it will be is not known: run a batch first, then swap")
        for key, parameter in module._parameters.items():
            if parameter is not None and type(parameter).__name__ == "DTensor":
                raise ValueError(f"the norms of {where} cannot be swapped: {key} is sharded (DTensor). Swap first")
