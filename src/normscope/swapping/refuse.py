"""Models that must not be changed now, and the way out."""

from torch import nn
from torch.nn.parameter import is_lazy

from normscope.torch_internals import is_compiled_in_place, is_lazy_norm, parameters_of

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
        if is_compiled_in_place(module):
            raise ValueError(f"the norms of {where} cannot be swapped: {_WRAPPERS['OptimizedModule']}")
        if any(is_lazy(p) for p in module.parameters(recurse=False)) and not is_lazy_norm(module):
            raise ValueError(f"{where} is lazy, and what it will be is not known: run a batch first, then swap")
        for key, parameter in parameters_of(module).items():
            if parameter is not None and type(parameter).__name__ == "DTensor":
                raise ValueError(f"the norms of {where} cannot be swapped: {key} is sharded (DTensor). Swap first")
