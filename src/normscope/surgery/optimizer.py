"""The exchange of parameters in an optimizer's groups, and its undo."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[Mapping[str, nn.Parameter], Mapping[str, nn.Parameter]]
"""The old and the new parameters of one module, by their names in the model."""

_NAMES = ("param_names", "names")
"""Keys of a group with the names of its parameters: torch's, and that of ``norm_parameter_groups``."""


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """The state of an optimizer before an exchange, and the undo."""

    optimizer: torch.optim.Optimizer
    old: Mapping[int, nn.Parameter]
    """Parameters of the old modules that the optimizer had, by their identities."""
    new: set[int]
    """Identities of the parameters of the new modules."""
    group_of: Mapping[int, int]
    order: Sequence[Sequence[nn.Parameter]]
    """The parameters of every group before."""
    names: Sequence[Mapping[str, Mapping[int, str]]]
    """The lists of names of every group before."""
    states: Mapping[int, Mapping[str, Any]]
    """Copies of the state of the old parameters."""

    def check(self) -> None:
        """Check that the groups still exist.

        Raises:
            RuntimeError: If one does not.
        """
        count = len(self.optimizer.param_groups)
        if count < len(self.order):
            raise RuntimeError(f"the optimizer has {count} groups and had {len(self.order)} when this was swapped")

    def undo(self, present: set[int]) -> None:
        """Remove the parameters that this exchange added, and restore those that it removed, with their state.

        The changes of other exchanges are kept.

        Args:
            present: Identities of the parameters that the model has now.
        """
        groups, state = self.optimizer.param_groups, self.optimizer.state
        for group in groups:
            stays = [p for p in group["params"] if id(p) in present or id(p) not in self.new]
            for parameter in group["params"]:
                if id(parameter) in self.new and id(parameter) not in present:
                    state.pop(parameter, None)
            _set(group, stays, _names(group))
        inside = {id(p) for group in groups for p in group["params"]}
        for number, (group, before, names) in enumerate(zip(groups, self.order, self.names, strict=False)):
            absent = {p for p in self.old if self.group_of[p] == number and p not in inside}
            told = {key: {p: name for p, name in known.items() if p in self.old} for key, known in names.items()}
            now = {key: known | told.get(key, {}) for key, known in _names(group).items()}
            _set(group, _in_order(group["params"], before, absent), now)
        for identity, parameter in self.old.items():
            state.pop(parameter, None)
            if identity in self.states:
                state[parameter] = _beside(self.states[identity], parameter)


def exchange(optimizer: torch.optim.Optimizer, pairs: Sequence[Pair], staying: set[int]) -> Exchanged:
    """Exchange parameters in an optimizer, in place; those that stay keep their place and state.

    New parameters join the group of the first old one of the same module that has as many axes, or of its first one;
    those of a module that had none in the optimizer join the group with most of the others.

    Args:
        optimizer: An optimizer of torch's with a state per parameter: any but LBFGS.
        pairs: Old and new parameters of every module. Frozen new parameters are not added.
        staying: Identities of the parameters of the rest of the model, which may be tied to these.

    Returns:
        A record with the undo.

    Raises:
        TypeError: If ``optimizer`` is not a ``torch.optim.Optimizer``.
        ValueError: If it is LBFGS, has no parameter of this model, or the group of new parameters is ambiguous. Nothing
            is changed then.
    """
    check_optimizer(optimizer)
    groups = optimizer.param_groups
    group_of = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    if not group_of.keys() & {*staying, *(id(p) for old, _ in pairs for p in old.values())}:
        raise ValueError("the optimizer holds no parameter of this model: give the one that trains it")
    old = {id(p): p for before, _ in pairs for p in before.values() if id(p) in group_of}
    new = {id(p) for _, after in pairs for p in after.values()}
    coming = _homes(optimizer, pairs, group_of)
    done = Exchanged(
        optimizer=optimizer,
        old=old,
        new=new,
        group_of=group_of,
        order=[list(group["params"]) for group in groups],
        names=[_names(group) for group in groups],
        states={identity: _copied(optimizer.state[p]) for identity, p in old.items() if p in optimizer.state},
    )
    renamed: dict[tuple[str, int], str] = {}
    for before, after in pairs:
        called = {id(p): name for name, p in after.items()}
        renamed |= {(name, id(p)): called[id(p)] for name, p in before.items() if id(p) in called}
    gone = {identity: p for identity, p in old.items() if identity not in new | staying}
    for parameter in gone.values():
        optimizer.state.pop(parameter, None)
    for number, group in enumerate(groups):
        fresh = coming.get(number, {})
        told = {id(p): name for name, p in fresh.items()}
        names = {
            key: {p: renamed.get((name, p), name) for p, name in known.items()} | told
            for key, known in done.names[number].items()
        }
        _set(group, [*(p for p in group["params"] if id(p) not in gone), *fresh.values()], names)
    return done


def check_optimizer(optimizer: Any) -> None:
    """Refuse an object without parameter groups and a state per parameter.

    Args:
        optimizer: The argument of a caller.

    Raises:
        TypeError: If it is not a ``torch.optim.Optimizer``.
        ValueError: If it is LBFGS.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS keeps one history for all parameters together: swap first and make it afterwards")


def _homes(
    optimizer: torch.optim.Optimizer, pairs: Sequence[Pair], group_of: Mapping[int, int]
) -> dict[int, dict[str, nn.Parameter]]:
    """Return the group of every new parameter.

    Raises:
        ValueError: If it is ambiguous.
    """
    homes = [[(p.dim(), group_of[id(p)]) for p in old.values() if id(p) in group_of] for old, _ in pairs]
    every = [home for one in homes for _, home in one]
    count = len(optimizer.param_groups)
    usual = max(set(every), key=every.count) if every else (0 if count == 1 else None)
    coming: dict[int, dict[str, nn.Parameter]] = {}
    seen = set(group_of)
    for home, (_, new) in zip(homes, pairs, strict=True):
        for name, parameter in new.items():
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            alike = [number for axes, number in home if axes == parameter.dim()]
            place = (*alike, *(number for _, number in home), usual)[0]
            if place is None:
                raise ValueError(
                    f"the optimizer has {count} groups and none holds a parameter of the swapped modules: swap "
                    "first and build the optimizer afterwards"
                )
            seen.add(id(parameter))
            coming.setdefault(place, {})[name] = parameter
    return coming


def _names(group: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Return the names of a group's parameters by their identities, for every list of names that it has."""
    params = group["params"]
    return {
        key: dict(zip(map(id, params), group[key], strict=True))
        for key in _NAMES
        if isinstance(group.get(key), list | tuple) and len(group[key]) == len(params)
    }


def _set(group: dict[str, Any], params: Sequence[nn.Parameter], names: Mapping[str, Mapping[int, str]]) -> None:
    """Set the parameters of a group, and their names."""
    group["params"][:] = params
    for key, known in names.items():
        group[key] = [known[id(p)] for p in params]


def _in_order(params: Sequence[nn.Parameter], before: Sequence[nn.Parameter], absent: set[int]) -> list[nn.Parameter]:
    """Insert absent parameters, each after its former predecessors."""
    rank = {id(p): place for place, p in enumerate(before)}
    ordered = list(params)
    for place, parameter in enumerate(before):
        if id(parameter) in absent:
            earlier = [at for at, p in enumerate(ordered) if rank.get(id(p), place) < place]
            ordered.insert(max(earlier, default=-1) + 1, parameter)
    return ordered


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in state.items()
    }


def _beside(state: Mapping[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    """Move the moments of a parameter to its present device; a step count stays on the CPU."""
    return {
        key: value.to(parameter.device) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for key, value in state.items()
    }
