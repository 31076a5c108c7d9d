"""Access to the private names of torch that this package uses: one small function for each.

A new version of torch may rename or remove any of them. No other file of the package names them, which
``tests/test_architecture.py`` enforces, and ``tests/test_torch_internals.py`` tries each on the installed torch.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._functorch.autograd_function import VmapInfo
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase
from torch.nn.modules.module import _global_forward_hooks_with_kwargs, _WrappedHook, register_module_forward_hook
from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_map as tree_map

_Function = TypeVar("_Function", bound=Callable[..., Any])

BatchNormBase = _BatchNorm
"""The base class of torch's batch norms, by which torch and other libraries find them in a model."""

HOOK_TABLES = (
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
"""Attributes of a module that map a handle's id to a hook, or to a flag of the hook with that id."""

CALL_HOOK_TABLES = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
"""Those of ``HOOK_TABLES`` with one entry for each hook of the forward or the backward pass."""

CHILDREN_TABLE = "_modules"
"""The attribute of a module that ``children_of`` returns."""


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the table of a module's own parameters, not a copy: an entry put into it is a parameter of the module."""
    return module._parameters


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the table of a module's own buffers, not a copy: an entry put into it is a buffer of the module."""
    return module._buffers


def unsaved_buffers_of(module: nn.Module) -> set[str]:
    """Return the names of a module's buffers that its state dict leaves out: the set that the module itself uses."""
    return module._non_persistent_buffers_set


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the table of a module's direct children, not a copy: an entry put into it is a child of the module."""
    return module._modules


def set_tables(
    module: nn.Module,
    parameters: dict[str, nn.Parameter | None],
    buffers: dict[str, Tensor | None],
    children: dict[str, nn.Module | None],
) -> None:
    """Replace a module's three tables by other objects; ``copy.copy`` of a module shares them with the original."""
    module._parameters, module._buffers, module._modules = parameters, buffers, children


@contextmanager
def global_forward_hook(hook: Callable[..., None]) -> Iterator[None]:
    """Call ``hook(module, args, kwargs, output)`` after every forward pass of any module in the block.

    Torch's handle leaves the flag behind that the hook takes keyword arguments (2.14), after which ``torch.compile``
    warns of global hooks.
    """
    handle = register_module_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        _global_forward_hooks_with_kwargs.pop(handle.id, None)


def has_forward_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks of its forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_bound_hook(hook: Any) -> bool:
    """Return whether torch wrapped a hook together with the module that it was registered on."""
    return isinstance(hook, _WrappedHook) and hook.with_module


def copy_backward_hook_kind(source: nn.Module, target: nn.Module) -> None:
    """Copy the flag of whether a module's backward hooks are full ones, if both share one table of backward hooks."""
    if target._backward_hooks is source._backward_hooks:
        vars(target)["_is_full_backward_hook"] = vars(source).get("_is_full_backward_hook")


def is_expanded_weight(parameter: Tensor | None) -> bool:
    """Return whether ``torch.nn.utils`` collects gradients per sample through a parameter."""
    return isinstance(parameter, ExpandedWeight)


def has_gradient_hooks(parameter: Tensor) -> bool:
    """Return whether hooks are registered on the gradient of a leaf, before or after it is accumulated."""
    return any(gradient_hooks_of(parameter))


def gradient_hooks_of(parameter: Tensor) -> tuple[dict[int, Any] | None, dict[int, Any] | None]:
    """Return the tables of the hooks on the gradient of a leaf, before and after it is accumulated, not copies."""
    return parameter._backward_hooks, parameter._post_accumulate_grad_hooks


def is_lazy_norm(module: nn.Module) -> bool:
    """Return whether a module is one of torch's lazy norms; it changes its class once it has seen an input."""
    return isinstance(module, _LazyNormBase)


def is_compiled_in_place(module: nn.Module) -> bool:
    """Return whether ``module.compile()`` was called."""
    return module._compiled_call_impl is not None


def is_compiled_wrapper(module: nn.Module) -> bool:
    """Return whether a module is what ``torch.compile(module)`` returns."""
    return hasattr(module, "_orig_mod")


def private_reset_of(module: nn.Module) -> Callable[[], None] | None:
    """Return the private method by which some of torch's modules (MultiheadAttention, Transformer) draw parameters."""
    return getattr(module, "_reset_parameters", None)


def version_of(tensor: Tensor) -> int:
    """Return a tensor's version, which every in-place operation on it or on a view of it raises."""
    return tensor._version


def is_zero_without_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is one of autograd's efficient zeros, which have no memory."""
    return tensor._is_zerotensor()


def is_functorch_wrapper(tensor: Tensor) -> bool:
    """Return whether a tensor is a wrapper made by a transform of ``torch.func``, which has no memory of its own."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportAttributeAccessIssue]


def functorch_is_active() -> bool:
    """Return whether code runs inside a transform of ``torch.func``; ``torch.compile`` can trace the call."""
    return torch._C._are_functorch_transforms_active()


def transforms_active() -> set[str]:
    """Return the kinds of the transforms of ``torch.func`` in which code runs: vmap, grad, jvp, functionalize."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return {interpreter.key().name.lower() for interpreter in functorch.get_interpreter_stack() or ()}


def apply_in_transforms(function: type[Any], constant: Any, *tensors: Tensor | None) -> Any:
    """Apply an autograd function with ``setup_context`` and ``vmap`` inside ``vmap`` and ``grad`` of ``torch.func``.

    It does what ``function.apply(constant, *tensors)`` does, in a tenth of the time: that one makes a class per call,
    reads the signature of ``forward`` and looks for tensors in every argument.

    Args:
        function: The function; its forward pass returns a tuple of tensors and None, none of them an input. Outside of
            all transforms its method ``outside`` is called, with the same arguments.
        constant: The first argument, which has no tensors.
        tensors: The others.
    """
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    # What a backward pass saved may be wrapped for a transform that has ended.
    tensors, top = functorch.unwrap_dead_wrappers(tensors), functorch.peek_interpreter_stack()
    if top is None:
        return function.outside(constant, *tensors)
    level = top.level()
    if top.key() == functorch.TransformType.Grad:
        allowed = functorch.get_single_level_autograd_function_allowed()
        functorch.set_single_level_autograd_function_allowed(True)
        try:
            node: Any = _AtLevel
            return node.apply((function, constant, level, functorch.CGradInterpreterPtr(top)), *tensors)
        finally:
            functorch.set_single_level_autograd_function_allowed(allowed)
    pairs = [(None, None) if one is None else functorch._unwrap_batched(one, level) for one in tensors]
    popped = functorch.pop_dynamic_layer_stack()
    try:
        given, dims = [one for one, _ in pairs], [dim for _, dim in pairs]
        if not any(dim is not None for dim in dims):
            return apply_in_transforms(function, constant, *given)
        info = VmapInfo(functorch.CVmapInterpreterPtr(top).batchSize(), "error")
        results, places = function.vmap(info, (None, *dims), constant, *given)
    finally:
        functorch.push_dynamic_layer_stack(popped)
    return tuple(
        one if one is None or dim is None else functorch._add_batch_dim(one, dim, level)
        for one, dim in zip(results, places, strict=True)
    )


def apply_outside_transforms(function: type[Any], constant: Any, *tensors: Tensor | None) -> Any:
    """Apply such an autograd function outside of all transforms."""
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors):
        return _Outside.apply((function, constant), *tensors)
    return function.forward(constant, *tensors)


class _Outside(torch.autograd.Function):
    """The node of an autograd function outside of all transforms."""

    @staticmethod
    def forward(ctx: Any, at: tuple[Any, ...], *tensors: Tensor | None) -> Any:
        ctx.function, constant = at
        results = ctx.function.forward(constant, *tensors)
        ctx.function.setup_context(ctx, (constant, *tensors), results)
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        return ctx.function.backward(ctx, *upstream)


class _AtLevel(_SingleLevelFunction):
    """The node of an autograd function at one level of ``grad``."""

    @staticmethod
    def forward(at: tuple[Any, ...], *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        function, constant, level, interpreter = at
        functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
        given = [None if one is None else functorch._unwrap_for_grad(one, level) for one in tensors]
        popped = functorch.pop_dynamic_layer_stack()
        try:
            # The node itself is made without gradients; those of the levels below are as outside of this one.
            with torch.set_grad_enabled(interpreter.prevGradMode()), _set_fwd_grad_enabled(True):
                results = apply_in_transforms(function, constant, *given)
        finally:
            functorch.push_dynamic_layer_stack(popped)
        return tuple(None if one is None else functorch._wrap_for_grad(one, level) for one in results)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        at, *tensors = inputs
        ctx.function = at[0]
        ctx.function.setup_context(ctx, (at[1], *tensors), output)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        return ctx.function.backward(ctx, *upstream)


def forward_mode_is_active() -> bool:
    """Return whether code runs inside ``forward_ad.dual_level()``; ``torch.compile`` can trace the call."""
    return forward_ad._current_level >= 0


def dispatch_mode_is_active() -> bool:
    """Return whether a ``TorchDispatchMode`` of a user or a library watches operations."""
    return _python_dispatch._get_current_dispatch_mode() is not None


def is_jit_tracing() -> bool:
    """Return whether ``torch.jit.trace`` records operations."""
    return torch._C._get_tracing_state() is not None


def in_backward() -> bool:
    """Return whether code runs inside a backward pass on this thread."""
    return torch._C._current_graph_task_id() != -1


def keeps_graph() -> bool:
    """Return whether the backward pass that runs on this thread may run again: ``retain_graph``."""
    return torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore[reportAttributeAccessIssue]


def sequence_number(node: Any) -> int:
    """Return the number of a node of an autograd graph: nodes of one thread are numbered in the order they are made."""
    return node._sequence_nr()


def convolution_groups(node: Any) -> int:
    """Return the number of groups of the convolution that made a node ``ConvolutionBackward0``."""
    return node._saved_groups


def constant_when_compiled(function: _Function) -> _Function:
    """Mark a function whose result ``torch.compile`` puts into the graph as a constant.

    ``torch.compiler.assume_constant_result`` does the same, but imports all of ``torch._dynamo``, which takes over a
    second.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def compiler_is_loaded() -> bool:
    """Return whether ``torch.compile`` can be active: its part of torch is imported at its first use."""
    return "torch._dynamo" in sys.modules


def compiled_frames() -> int:
    """Return how many frames of code ``torch.compile`` has looked at in this process; imports nothing."""
    compiler = sys.modules.get("torch._dynamo.utils")
    return 0 if compiler is None else compiler.counters["frames"]["total"]
