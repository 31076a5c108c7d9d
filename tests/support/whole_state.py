"""Everything about a model and the process that a call may change: compare it before and after."""

import gc
import random
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEEP = 6


def whole_state(model: nn.Module) -> dict[str, Any]:
    """Map the path of everything in a module tree, and of the process around it, to its identity and value."""
    state = {f"process.{name}": value for name, value in process_state().items()}
    for name, module in model.named_modules(remove_duplicate=False):
        state[f"{name} class"] = type(module)
        state |= dict(_walk(f"{name}:", vars(module), DEEP))
    for name, parameter in model.named_parameters():
        state |= dict(_walk(f"{name} attributes", vars(parameter), 2))
        for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            state[f"{name} {kind}"] = list((getattr(parameter, kind) or {}).items())
    return state


def process_state() -> dict[str, Any]:
    """Return the state of the process that torch, numpy and Python keep."""
    kind, numbers, *rest = np.random.get_state()  # noqa: NPY002
    backends = torch.backends
    return {
        "python": random.getstate(),
        "numpy": (kind, numbers.tolist(), *rest),
        "torch": torch.get_rng_state().tolist(),
        "autocast": [
            (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")
        ],
        "autocast cache": torch.is_autocast_cache_enabled(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "default": (torch.get_default_dtype(), torch.get_default_device(), torch.get_float32_matmul_precision()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "cudnn": [getattr(backends.cudnn, flag) for flag in ("enabled", "benchmark", "deterministic", "allow_tf32")],
        "mkldnn": (backends.mkldnn.enabled, backends.mkldnn.deterministic),
        "attention": [
            getattr(backends.cuda, f"{kind}_sdp_enabled")() for kind in ("flash", "math", "mem_efficient", "cudnn")
        ],
        "fastpath": backends.mha.get_fastpath_enabled(),
        "threads": (sorted(thread.name for thread in threading.enumerate()), torch.get_num_threads()),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "warnings": list(warnings.filters),
        "module hooks": [
            list(getattr(nn.modules.module, name)) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")
        ],
        "collection": gc.isenabled(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List the paths whose entries differ."""
    return [path for path in before.keys() | after.keys() if before.get(path, "absent") != after.get(path, "absent")]


def _walk(path: str, value: Any, deep: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        yield path, (id(value), *_of_tensor(value))
        yield f"{path} gradient", None if value.grad is None else (id(value.grad), *_of_tensor(value.grad))
    elif isinstance(value, torch.Generator):
        yield path, value.get_state().tolist()
    elif isinstance(value, random.Random):
        yield path, value.getstate()
    elif isinstance(value, np.random.Generator):
        yield path, repr(value.bit_generator.state)
    elif isinstance(value, dict) and deep:
        # Attributes in their order; __dict__ itself may be made anew.
        yield path, (path.endswith((":", "attributes")) or id(value), list(value))
        for name, item in value.items():
            yield from _walk(f"{path}.{name}", item, deep - 1)
    elif isinstance(value, list | tuple | deque) and deep:
        yield path, (id(value), len(value))
        for place, item in enumerate(value):
            yield from _walk(f"{path}.{place}", item, deep - 1)
    elif isinstance(value, set):
        yield path, (id(value), frozenset(value))
    else:
        yield path, value if isinstance(value, bool | int | float | str | bytes | None) else id(value)


def _of_tensor(tensor: Tensor) -> tuple[Any, ...]:
    flags = (tensor.dtype, tensor.device, tensor.requires_grad, type(tensor))
    if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
        return flags
    bits = tensor.detach().contiguous().flatten().view(torch.uint8).tolist()
    return (*flags, tensor.data_ptr(), tensor.shape, tensor.stride(), bits)
