"""Hooks of a norm on what takes its place: they belong to the place, not to the module."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from normscope.torch_internals import CALL_HOOK_TABLES, HOOK_TABLES, copy_backward_hook_kind, is_bound_hook


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
    for name in HOOK_TABLES:
        hooks: Any = vars(old).get(name)
        own: Any = vars(new).get(name)
        if not isinstance(hooks, Mapping) or not isinstance(own, Mapping):
            continue
        bound = [hook for hook in hooks.values() if is_bound_hook(hook)]
        if bound:
            lost.append(f"{len(bound)} of {name}, bound to the old module")
        elif own and hooks:
            lost.append(f"{len(hooks)} of {name}, for the new module brings its own")
        elif not own:
            vars(new)[name] = hooks
            taken += len(hooks) if name in CALL_HOOK_TABLES else 0
    copy_backward_hook_kind(old, new)
    return [f"{taken} hooks"] if taken else [], lost
