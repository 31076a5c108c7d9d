"""Which norms a model has, which of them are out of reach, and why."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from normscope.inspection.kinds import Norm, recognise


@dataclass(frozen=True, kw_only=True)
class Unreached:
    """A norm that stays what it is."""

    name: str
    """Where it stands in the model; empty for the model itself."""
    what: str
    """Its class, or the code that is no module."""
    why: str
    where: str = ""
    """File and line, where they are known."""


def find_norms(model: nn.Module) -> tuple[list[Norm], list[Unreached]]:
    """List the norms of a model that are modules.

    torch's and ours are known by their class; any other by what a copy of it computes on random rows. Nothing in the
    model is changed, no hook runs.

    Args:
        model: Any module.

    Returns:
        The norms that can be replaced, in the order of the model, tied ones once; and those that cannot.
    """
    found: list[Norm] = []
    unreached: list[Unreached] = []
    for names, module, parent, norm in _modules(model):
        what = type(module).__name__
        if fused := [name for name in module._parameters if "norm_" in name or name.startswith("ln_")]:
            why = f"fused: it has the norm's parameters itself ({', '.join(fused)})"
            unreached.append(Unreached(name=names[0], what=what, why=why))
            continue
        if norm is None:
            continue
        owner = type(parent).__module__.split(".") if parent is not None else []
        if isinstance(norm, Norm) and ("intrinsic" in owner or "quantized" in owner):
            norm = f"{type(parent).__name__} reads its numbers (quantization): swap first, quantize afterwards"
        if isinstance(norm, str):
            unreached.append(Unreached(name=names[0], what=what, why=norm))
        else:
            found.append(norm)
    return found, unreached


def _modules(
    model: nn.Module,
) -> Iterator[tuple[tuple[str, ...], nn.Module, nn.Module | None, Norm | str | None]]:
    """Give every module once: its names, its first parent and what norm it is; but nothing that stands inside one."""
    names: dict[int, list[str]] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        names.setdefault(id(module), []).append(name)
    closed: list[str] = []
    for name, module in modules.items():
        if names[id(module)][0] != name or any(name.startswith(inside) for inside in closed):
            continue
        norm = recognise(tuple(names[id(module)]), module)
        if norm is not None:
            closed.append(f"{name}." if name else "")
        elif hasattr(module, "parametrizations"):
            closed.append(f"{name}.parametrizations." if name else "parametrizations.")
        yield tuple(names[id(module)]), module, modules[name.rpartition(".")[0]] if name else None, norm
