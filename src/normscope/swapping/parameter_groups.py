"""An optimizer's parameter groups after parameters came and went."""

from collections.abc import Callable, Iterable

import torch
from torch import nn


def exchange(
    optimizer: torch.optim.Optimizer,
    pairs: Iterable[tuple[list[nn.Parameter], dict[str, nn.Parameter]]],
    staying: set[int],
) -> Callable[[], None]:
    """Take parameters out of an optimizer and put others in, in place; those that stay keep place and state.

    New parameters join the group of the first old one of the same norm; those of a norm that had none in the optimizer
    join the group in which most of the others are.

    Args:
        optimizer: Any of torch's.
        pairs: Of every norm the old parameters, and the new by their names. Frozen new ones stay outside.
        staying: Identities of the parameters that the rest of the model has, which may be tied to a norm's.

    Returns:
        A function that undoes it: groups and state are as they were.

    Raises:
        ValueError: If nothing tells to which of several groups new parameters belong. Nothing is changed then.
    """
    pairs = list(pairs)
    groups = optimizer.param_groups
    group_of = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    homes = [[group_of[id(p)] for p in old if id(p) in group_of] for old, _ in pairs]
    every = [home for one in homes for home in one]
    usual = max(set(every), key=every.count) if every else (0 if len(groups) == 1 else None)
    kept = {id(p) for _, new in pairs for p in new.values()} | staying
    gone = {id(p): p for old, _ in pairs for p in old if id(p) not in kept and id(p) in group_of}
    coming: dict[int, dict[str, nn.Parameter]] = {}
    seen = set(group_of)
    for home, (_, new) in zip(homes, pairs, strict=True):
        for name, parameter in new.items():
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            place = home[0] if home else usual
            if place is None:
                raise ValueError(
                    f"the optimizer has {len(groups)} groups and none holds a parameter of the swapped norms: swap "
                    "first and build the optimizer afterwards"
                )
            seen.add(id(parameter))
            coming.setdefault(place, {})[name] = parameter
    before = [list(group["params"]) for group in groups]
    names = [list(group["param_names"]) if "param_names" in group else None for group in groups]
    states = {id(p): optimizer.state.pop(p) for p in gone.values() if p in optimizer.state}
    for number, group in enumerate(groups):
        stays = [place for place, p in enumerate(group["params"]) if id(p) not in gone]
        fresh = coming.get(number, {})
        group["params"][:] = [*(group["params"][place] for place in stays), *fresh.values()]
        if "param_names" in group:
            known = group["param_names"]
            group["param_names"] = [*(known[place] for place in stays), *fresh]

    def back() -> None:
        for group, params, told in zip(groups, before, names, strict=False):
            group["params"][:] = params
            if told is not None:
                group["param_names"] = told
        for new in coming.values():
            for parameter in new.values():
                optimizer.state.pop(parameter, None)
        for identity, state in states.items():
            optimizer.state[gone[identity]] = state

    return back
