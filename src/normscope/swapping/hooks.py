"""Hooks of a norm on what takes its place: they belong to the place, not to the module."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.module import _WrappedHook

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
