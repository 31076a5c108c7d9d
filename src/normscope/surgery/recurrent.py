"""Recurrent layers and cells replaced by those with norms, and back: the parameters that both have stay the same."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.find import held_by_other_library
from normscope.inspection.norm_in_model import ModuleInModel, Unreachable
from normscope.inspection.preserve_state import copy_of, random_states_kept
from normscope.inspection.probing import isolated
from normscope.norms import NORMS
from normscope.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from normscope.registry import look_up
from normscope.specs import parse_call
from normscope.surgery.difference import OutputDifference, relative
from normscope.surgery.guards import share_hooks
from normscope.surgery.replacement import Maker, Replacement, check_new
from normscope.surgery.transfer import Ties
from normscope.torch_internals import buffers_of, children_of, has_gradient_hooks, parameters_of

_TORCH: Mapping[str, type[nn.Module]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_cell": nn.RNNCell,
    "lstm_cell": nn.LSTMCell,
    "gru_cell": nn.GRUCell,
}
_OURS: Mapping[str, type[nn.Module]] = {
    f"ln_{key}": kind for key, kind in zip(_TORCH, (RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell), strict=True)
}
RECURRENT: Mapping[str, type[nn.Module]] = {**_TORCH, **_OURS}
"""The recurrent layers and cells that a swap knows: torch's, and those with norms."""
_BASES = (nn.RNNBase, nn.RNNCellBase)


def is_recurrent(one: object) -> bool:
    """Return whether a key or a class names a recurrent layer or cell."""
    return one in RECURRENT if isinstance(one, str) else isinstance(one, type) and issubclass(one, _BASES)


def find_recurrent(model: nn.Module) -> tuple[list[ModuleInModel], list[Unreachable]]:
    """List the recurrent layers and cells of a model.

    Args:
        model: Any module.

    Returns:
        Those of torch's own classes and of ours, in the order of the model, tied ones once; and those that are left
        alone, with the reason.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    keys = {kind: key for key, kind in RECURRENT.items()}
    found: list[ModuleInModel] = []
    unreachable: list[Unreachable] = []
    for module, places in names.items():
        kind = type(module)
        quantized = kind.__name__ in {base.__name__ for base in _TORCH.values()} and "ao" in kind.__module__.split(".")
        if not quantized and not isinstance(module, _BASES):
            continue
        if why := _reason_against(module, quantized=quantized):
            unreachable.append(Unreachable(name=places[0], what=kind.__name__, why=why))
        else:
            found.append(ModuleInModel(names=tuple(places), kind=keys[kind], module=module))
    return found, unreachable


def _reason_against(module: nn.Module, *, quantized: bool) -> str | None:
    """Say why a recurrent layer cannot be replaced, or return None if it can."""
    if quantized:
        return "quantized, or prepared for it: swap first, quantize afterwards"
    if why := held_by_other_library(module):
        return why
    if type(module) not in RECURRENT.values():
        base = next(base.__name__ for base in type(module).__mro__ if base in RECURRENT.values() or base in _BASES)
        return f"a class derived from {base}, whose changes would be lost"
    ours = type(module) in _OURS.values()
    usual = ("weight_", "bias_", "initial_") if ours else ("weight_", "bias_")
    own = [
        *(name for name in parameters_of(module) if not name.startswith(usual)),
        *buffers_of(module),
        *(name for name in children_of(module) if not ours or name != "norms"),
    ]
    return f"has parameters, buffers or modules of its own: {', '.join(own)}" if own else None


@dataclass(frozen=True, kw_only=True)
class RecurrentTarget:
    """What replaces recurrent layers."""

    label: str
    """The text or the name of the function that was given."""
    make: Callable[..., Any]
    """A class of ``RECURRENT``, or a function with the arguments of torch's constructor."""
    key: str | None = None
    """The key of ``RECURRENT``, if one was given."""
    arguments: Mapping[str, Any]
    """Arguments given with the key."""

    def build(self, layer: ModuleInModel) -> nn.Module:
        """Build a fresh layer of the sizes and with the options of an old one.

        Args:
            layer: The old layer. Where both are ours, its options that were not given are kept.

        Raises:
            TypeError: If ``make`` returns something else than a module.
            ValueError: If the new layer is of another kind, or has not all weights and biases of the old one.
        """
        old: Any = layer.module
        cell = layer.kind.removeprefix("ln_")
        if self.key is not None and self.key.removeprefix("ln_") != cell:
            raise ValueError(
                f"{layer.name} is of the kind {layer.kind}, in whose place {self.label} cannot stand: give {cell} or "
                f"ln_{cell}"
            )
        like = next(old.parameters())
        arguments = {name: getattr(old, name) for name in _decided_by_model(_OURS[f"ln_{cell}"])}
        given = {**(_options(old) if self.key is not None and self.key == layer.kind else {}), **self.arguments}
        # The sizes of nn.GRU and nn.LSTM are positional.
        sizes = [arguments.pop(name) for name in ("input_size", "hidden_size")]
        devices = [like.device.index or 0] if like.is_cuda else []
        with torch.inference_mode(False), random_states_kept(devices), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "dropout option adds dropout", UserWarning)
            made = self.make(*sizes, **arguments, **given, device=like.device, dtype=like.dtype)
        if getattr(made, "forget_bias", None) is not None and not old.bias:
            raise ValueError(f"{self.label}: {layer.name} has no biases, and its forget gates none to be set")
        if not isinstance(made, nn.Module):
            raise TypeError(f"{self.label} must give a torch.nn.Module, got {made!r}")
        have = {name: p.shape for name, p in parameters_of(made).items() if p is not None}
        for name, parameter in parameters_of(old).items():
            if parameter is not None and not name.startswith("initial_") and have.get(name) != parameter.shape:
                got = list(have[name]) if name in have else "none"
                raise ValueError(
                    f"{self.label} gave a {type(made).__name__} for {layer.name}, whose {name} has the shape "
                    f"{list(parameter.shape)}, got {got}: it must have the parameters of nn.{_TORCH[cell].__name__}"
                )
        return made


def _decided_by_model(ours: type[nn.Module]) -> list[str]:
    """Return the arguments that torch's constructor has, too, but for device and dtype."""
    parameters = inspect.signature(ours).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("device", "dtype")]


def _options(old: Any) -> dict[str, Any]:
    """Return the options of one of our layers that it can tell."""
    options: dict[str, Any] = {"places": old.places} if hasattr(old, "places") else {}
    if hasattr(old, "regularizers"):
        zoneout = old.regularizers.zoneout
        options |= {
            "zoneout": zoneout if len(zoneout) > 1 else zoneout[0],
            "recurrent_dropout": old.regularizers.recurrent_dropout,
            "learned_initial_state": hasattr(old, "initial_h"),
        }
    return options


def read_recurrent_target(to: str | Maker) -> RecurrentTarget:
    """Parse what is to replace recurrent layers.

    Args:
        to: A key of ``RECURRENT``, a key with arguments such as ``ln_lstm(norm='rms_norm', places='kiros')``, or a
            class or function with the arguments of torch's constructor.

    Raises:
        LookupError: If there is no such key, or no norm of the name.
        TypeError: If it is neither a text nor a function.
        ValueError: If the text cannot be parsed, or the layer has no such argument or not this value.
    """
    if not isinstance(to, str):
        if not callable(to) or isinstance(to, nn.Module):
            raise TypeError(f"to must be one of {', '.join(RECURRENT)} or a function, got {to!r}")
        return RecurrentTarget(label=getattr(to, "__name__", repr(to)), make=to, arguments={})
    key, arguments = parse_call(to, "recurrent layer", "ln_lstm(norm='rms_norm')")
    if key in NORMS:
        raise ValueError(f'{key} is a norm and takes no layer\'s place: write it inside, "ln_lstm(norm={key!r})"')
    make = look_up("recurrent layer", RECURRENT, key)
    taken = [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if strange := [name for name in arguments if name not in taken]:
        raise ValueError(
            f"{to!r}: {key} takes {', '.join(taken) or 'no arguments'}, got {strange[0]}; the model decides the others"
        )
    with isolated():
        try:
            make(2, 2, **arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{to!r}: {error}") from error
    return RecurrentTarget(label=to, make=make, key=key, arguments=arguments)


def build_recurrent(
    model: nn.Module,
    layers: Sequence[ModuleInModel],
    target: RecurrentTarget,
    *,
    preserve: bool = False,
    force: bool = False,
) -> list[Replacement]:
    """Build the replacements of recurrent layers. Neither the layers nor the model are changed.

    Weights and biases are taken over as the same objects: ties, hooks, gradients and an optimizer's state stay. So are
    norms that both have.

    Args:
        model: The model.
        layers: Recurrent layers of the model.
        target: What replaces them.
        preserve: As for norms; the norms of a recurrent layer have no numbers that would preserve its function.
        force: Whether a layer is taken that does not run on a sample or gives another shape.

    Returns:
        One replacement per layer.

    Raises:
        TypeError: If ``target`` builds something else than a module.
        ValueError: If it builds a layer of another kind, one without the old weights, or one module for two places; or
            one that does not run or gives another shape and ``force`` is not set.
    """
    made = [target.build(layer) for layer in layers]
    check_new(model, target.label, layers, made)
    ties = Ties.of(model, layers)
    return [_fitted(layer, new, target, ties, force=force) for layer, new in zip(layers, made, strict=True)]


def _fitted(layer: ModuleInModel, new: nn.Module, target: RecurrentTarget, ties: Ties, *, force: bool) -> Replacement:
    """Put the parameters and norms of an old layer into a new one.

    Raises:
        ValueError: If the new layer does not run or gives another shape, and ``force`` is not set.
    """
    old = layer.module
    kept: list[str] = []
    lost: list[str] = []
    for name, parameter in parameters_of(old).items():
        role = {"weight": "weights", "bias": "biases"}.get(name.partition("_")[0], name)
        mine = parameters_of(new).get(name)
        if parameter is None:
            continue
        if mine is None:
            lost.append(role)
        elif role != "biases" or getattr(new, "forget_bias", None) is None:
            # Torch's layers have a second list of their weights, which assignment keeps up to date.
            setattr(new, name, parameter)
            kept.append(role)
        else:
            _keep_forget_gate(mine, parameter)
            setattr(new, name, ties.converted(parameter, mine, "forget_bias"))
            kept.append("biases (as new parameters)")
            lost.append("biases of the forget gates")
            if ties.is_cut(parameter):
                lost.append(f"the tie of {name} with what is not converted")
            if has_gradient_hooks(parameter):
                lost.append(f"hooks on the parameter {name}")
    there = _norms_of(new)
    for name, norm in _norms_of(old).items():
        # A function may build a norm with other numbers that its text does not show.
        if target.key is not None and repr(there.get(name)) == repr(norm) and type(there[name]) is type(norm):
            parent, _, child = name.rpartition(".")
            children_of(new.get_submodule(parent))[child] = norm
            kept.append("norms")
        else:
            lost.append("norms")
    if "norms" in kept and "norms" in lost:
        lost = ["other norms" if one == "norms" else one for one in lost]
    after = _options(new)
    lost += [
        name.replace("_", " ")
        for name, value in _options(old).items()
        if name in ("zoneout", "recurrent_dropout") and value not in (0, (0, 0), after.get(name))
    ]
    new.train(old.training)
    if not any(p.requires_grad for p in old.parameters()):
        new.requires_grad_(False)
    shared, unshared = share_hooks(old, new)
    measured = _difference(layer, new)
    if measured.trouble and not force:
        raise ValueError(f"{measured.trouble}. Nothing was changed; force=True puts it in all the same")
    return Replacement(
        old=layer,
        module=new,
        kept=tuple(dict.fromkeys((*kept, *shared))),
        lost=tuple(dict.fromkeys((*lost, *unshared))),
        difference=measured,
        forced=(measured.trouble,) if measured.trouble else (),
    )


def _keep_forget_gate(new: nn.Parameter, old: nn.Parameter) -> None:
    """Copy an old bias into a new one, but for its forget gate; gates are i, f, g, o."""
    with torch.no_grad():
        forget = new.chunk(4)[1].clone()
        new.copy_(old)
        new.chunk(4)[1].copy_(forget)
    new.requires_grad_(old.requires_grad)


def _norms_of(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the norms of one of our layers that have parameters or buffers, by their names in it."""
    inside = [(name, part) for name, part in layer.named_modules() if isinstance(part, nn.ModuleList)]
    norms = {f"{name}.{place}": norm for name, part in inside for place, norm in part.named_children()}
    return {name: norm for name, norm in norms.items() if [*norm.parameters(), *norm.buffers()]}


def _difference(layer: ModuleInModel, new: nn.Module) -> OutputDifference:
    """Run copies of two layers on random sequences, in evaluation and in float64, and compare their outputs."""
    old: Any = layer.module
    sizes = (4, old.input_size) if isinstance(old, nn.RNNCellBase) else (4, 6, old.input_size)
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(2), dtype=torch.float64, device="cpu")
    with isolated(), torch.no_grad():
        before = _outputs(copy_of(old).eval().forward(x))
        try:
            after = _outputs(copy_of(new).eval().forward(x))
        except Exception as error:
            # A user's module may fail in any way.
            return OutputDifference(trouble=f"{type(new).__name__} did not run in place of {layer.name}: {error}")
    if after.shape != before.shape:
        shapes = f"gives {list(after.shape)} for {layer.name} where {type(old).__name__} gave {list(before.shape)}"
        return OutputDifference(trouble=f"{type(new).__name__} {shapes}")
    features = zip(before.flatten(0, -2).T, after.flatten(0, -2).T, strict=True)
    return OutputDifference(
        usual=relative(before, after), by_feature=max(relative(one, other) for one, other in features)
    )


def _outputs(returned: Any) -> Tensor:
    """Return the outputs of a layer, or the h of a cell.

    Raises:
        TypeError: If they are no tensor.
    """
    outputs = returned[0] if isinstance(returned, tuple) else returned
    if not isinstance(outputs, Tensor):
        raise TypeError(f"gives a {type(outputs).__name__}")
    return outputs
