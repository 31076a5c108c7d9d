"""Recurrent layers run step by step in the place of their kernels, and measured in a forward and a backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.diagnostics.recurrent.profile import LayerRecord, LayerSteps, Rows, rows_of, squares
from normscope.inspection.find import find_norms
from normscope.inspection.norm_in_model import NormInModel
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched
from normscope.recurrent import GRU, LSTM, RNN, Places
from normscope.recurrent.run import run
from normscope.recurrent.scan import Regularizers, scan
from normscope.recurrent.steps import State, StepNorms, gru_step, lstm_step, rnn_step
from normscope.torch_internals import in_backward, is_compiled_in_place, is_compiled_wrapper

_KINDS = {"RNN": (nn.RNN, RNN), "LSTM": (nn.LSTM, LSTM), "GRU": (nn.GRU, GRU)}


@dataclass(kw_only=True)
class StepsWatch:
    """What :func:`watch_steps` records; read it after the backward pass."""

    records: list[LayerRecord] = field(default_factory=list)
    unseen: dict[str, str] = field(default_factory=dict)
    """Recurrent modules whose steps are not measured, and why."""

    def read(self) -> list[LayerSteps]:
        """Return the measurements of every layer and direction, in the order in which they ran."""
        return [record.read() for record in self.records]


@contextmanager
def watch_steps(model: nn.Module, *, found: Sequence[NormInModel] | None = None) -> Iterator[StepsWatch]:
    """Measure every step of the recurrent layers in the forward and the backward pass inside the block.

    torch's layers and those of this package run by :func:`~normscope.recurrent.scan.scan` inside, which gives the same
    numbers up to rounding; compiled models run uncompiled. To be used within
    :func:`~normscope.inspection.preserve_state.untouched`.

    Args:
        model: Any module.
        found: Its norms, if they are already known.

    Yields:
        A record that is filled inside the block.
    """
    watch = StepsWatch()
    layers: list[_Watched] = []
    by_identity: dict[int, NormInModel] | None = None
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNCellBase):
            watch.unseen[name] = "is a cell, whose steps the model makes itself"
        if not isinstance(module, nn.RNNBase):
            continue
        kind = _kind_of(module)
        if kind is None:
            watch.unseen[name] = "has a forward of its own"
            continue
        if by_identity is None:
            by_identity = {id(norm.module): norm for norm in (find_norms(model)[0] if found is None else found)}
        layers.append(_Watched(name, module, kind, watch, by_identity))
    compiled = any(is_compiled_wrapper(module) or is_compiled_in_place(module) for module in model.modules())
    with ExitStack() as restore:
        if layers and compiled:
            restore.enter_context(torch.compiler.set_stance("force_eager"))
        for layer in layers:
            vars(layer.module)["forward"] = layer.forward
            restore.callback(vars(layer.module).pop, "forward", None)
        yield watch


@check_arguments
def step_profile(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> list[LayerSteps]:
    """Measure the recurrent layers of a model step by step in one training step; the model is left unchanged.

    Args:
        model: Any module; its ``torch.nn.RNN``, ``LSTM`` and ``GRU``, and those of this package, are measured.
        batch: Second argument of ``loss``.
        loss: Maps (model, batch) to a scalar.
        generator: Seeds dropout; if None, torch's global random state is used and restored.

    Returns:
        One entry per layer, direction and call, in the order in which they ran.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import step_profile
        >>> _ = torch.manual_seed(0)
        >>> lstm = torch.nn.LSTM(4, 8, bidirectional=True)
        >>> loss = lambda model, x: model(x)[0].square().mean()
        >>> forward, backward = step_profile(lstm, torch.randn(5, 2, 4), loss)
        >>> backward.name, backward.kind, backward.steps, sorted(backward.saturated)
        ('l0_reverse', 'LSTM', 5, ['candidate', 'forget gate', 'input gate', 'output gate', 'read-out of c'])
    """
    with untouched(model, seed=draw_seed(generator)), watch_steps(model) as watch:
        gradients_of(loss(model, batch), model)
        return watch.read()


def _kind_of(module: nn.RNNBase) -> str | None:
    """Return the kind of a recurrent layer, or None if its class or the layer has a forward of its own."""
    forward = None if "forward" in vars(module) else type(module).forward
    return next((kind for kind, known in _KINDS.items() if any(forward is each.forward for each in known)), None)


class _AsOurs:
    """A layer of torch as :func:`~normscope.recurrent.run.run` reads layers: without norms and dropout of the state."""

    def __init__(self, module: nn.RNNBase, states: int) -> None:
        self.module = module
        self.places = Places(products="plain", cell="plain")
        self.regularizers = Regularizers(zoneout=(0.0,) * states, recurrent_dropout=0.0)
        directions = ("", "_reverse") if module.bidirectional else ("",)
        self.norms = {f"l{layer}{each}": {} for layer in range(module.num_layers) for each in directions}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


class _Watched:
    """One recurrent layer, whose forward runs step by step."""

    def __init__(
        self, name: str, module: nn.RNNBase, kind: str, watch: StepsWatch, norms: dict[int, NormInModel]
    ) -> None:
        self.name, self.module, self.kind, self.watch, self.norms = name, module, kind, watch, norms
        self.calls = 0
        self.heard: dict[int, list[Rows]] = {}
        self.squashes = getattr(module, "nonlinearity", "tanh") == "tanh"

    def forward(self, input: Any, hx: Any = None, *, reset: Any = None) -> tuple[Any, Any]:
        """Run the layer as its own forward does, and record every step."""
        kind: Any = self.kind
        target = (
            self.module if isinstance(self.module, RNN | LSTM | GRU) else _AsOurs(self.module, 1 + (kind == "LSTM"))
        )
        step: Callable[..., State] = {"LSTM": lstm_step, "GRU": gru_step}.get(kind, rnn_step)
        if kind == "RNN":
            step = partial(rnn_step, activation=torch.tanh if self.squashes else torch.relu)
        given = hx if hx is None or kind == "LSTM" else (hx,)
        with ExitStack() as hooks:
            loop: Callable[..., Any] = scan
            # Activations that are recomputed in the backward pass are those of a call that is recorded.
            if not in_backward():
                for part in self.module.modules():
                    norm = self.norms.get(id(part))
                    if norm is not None and norm.traits.statistics in {"features", None}:
                        hooks.callback(part.register_forward_hook(self.hear, with_kwargs=True).remove)
                rows = [
                    f"l{layer}{each}"
                    for layer in range(self.module.num_layers)
                    for each in ("", "_reverse")[: 1 + self.module.bidirectional]
                ]
                loop = partial(self.loop, iter(rows), self.calls)
                self.calls += 1
            output, state = run(target, kind, step, input, given, reset, loop=loop)
        return output, state if kind == "LSTM" else state[0]

    def hear(self, module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
        """Keep the statistics of what a norm normalizes until the step is recorded."""
        x = inputs[0] if inputs else next(iter(named.values()))
        self.heard.setdefault(id(module), []).append(rows_of(self.norms[id(module)], x))

    def loop(
        self,
        rows: Iterator[str],
        call: int,
        step: partial[State] | Sequence[partial[State]],
        parts: Sequence[Tensor],
        state: State,
        **settings: Any,
    ) -> tuple[list[Tensor], State]:
        """Run one layer and direction as :func:`~normscope.recurrent.scan.scan` does, and record every step."""
        name, reverse = next(rows), bool(settings["reverse"])
        sizes = [len(part) for part in parts]
        if not sum(sizes):
            return scan(step, parts, state, **settings)
        # A batch norm has a function for every time step.
        steps = [step] * len(parts) if isinstance(step, partial) else step
        norms: StepNorms = steps[0].keywords["norms"]
        record = LayerRecord(
            name=f"{self.name}.{name}" if self.name else name,
            kind=self.kind,
            call=call,
            reverse=reverse,
            sizes=sizes,
            widths=tuple(one.shape[-1] for one in state),
            norms={
                id(norm): (place, self.norms[id(norm)])
                for place, groups in (("ih", norms.ih), ("hh", norms.hh), ("cell", norms.cell))
                for _, norm in groups
                if id(norm) in self.norms
            },
            state=tuple({} for _ in state),
            gradients=tuple({} for _ in state),
            through=tuple({} for _ in state),
        )
        self.watch.records.append(record)
        for norm in record.norms:
            for heard in self.heard.pop(norm, ()):
                for t, part in enumerate(heard.split(sizes)):
                    if sizes[t]:
                        record.record_rows(t, norm, part, None)
        times = iter(reversed(range(len(parts))) if reverse else range(len(parts)))

        def watched(part: Tensor, now: State, read: Tensor) -> State:
            t, seen = next(times), dict[str, Tensor]()
            new = steps[t](part, now, read, seen=seen)
            if not len(part):
                return new
            with torch.no_grad():
                record.record_gates(t, seen, squashes=self.squashes)
                begins = _begins(settings["resets"], t + reverse, len(part))
                starts = (now[0] == 0).all(-1) if not now[0].requires_grad else None
                if begins is not None and starts is None and not settings["start"][0].requires_grad:
                    starts = begins & (now[0] == 0).all(-1)
                for norm, (place, _) in record.norms.items():
                    for heard in self.heard.pop(norm, ()):
                        record.record_rows(t, norm, heard, starts if place == "hh" else None)
                if len(new) > 1:
                    record.state[1][t] = squares(new[1])
            for one, sums in zip(now, record.through, strict=True):
                _hear_gradient(one, sums, t, besides=begins)
            if len(new) > 1:
                _hear_gradient(new[1], record.gradients[1], t)
            return new

        outputs, end = scan(watched, parts, state, **settings)
        for t, h in enumerate(outputs):
            if sizes[t]:
                record.state[0][t] = squares(h)
                _hear_gradient(h, record.gradients[0], t)
        if len(end) > 1 and end[1].requires_grad:
            end = (end[0], end[1].view_as(end[1]))
            end[1].register_hook(lambda gradient: setattr(record, "end", squares(gradient)))
        return outputs, end


def _begins(resets: Sequence[Tensor] | None, at: int, size: int) -> Tensor | None:
    """Return which sequences of a step begin anew, ``[B_t]``; None if no resets were given."""
    if resets is None:
        return None
    fresh = resets[at] if at < len(resets) else resets[0].new_zeros(0)
    return nn.functional.pad(fresh, (0, size - len(fresh)))


def _hear_gradient(tensor: Tensor, sums: dict[int, Tensor], t: int, besides: Tensor | None = None) -> None:
    """Record the sums of squares of a gradient when it arrives, zero for the sequences in ``besides``."""

    def heard(gradient: Tensor) -> None:
        sums[t] = squares(gradient) if besides is None else squares(gradient).masked_fill(besides, 0.0)

    if tensor.requires_grad:
        tensor.register_hook(heard)
