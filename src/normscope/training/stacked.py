"""Training of several runs at once: the seeds of an arm as one stacked model, member by member as if it were alone.

A step computes all members by one ``torch.func.vmap`` over their weights and batches, and one optimizer updates the
stacked weights. All else is per member, by the code of a single run: initial weights, order of the data, clipping,
evaluations, the choice of the tested weights, checkpoints and result. Results agree with those of a single run up to
rounding, because a product of stacked matrices may add in another order.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.diagnostics import gradient_shares
from normscope.results.store import RunFolder
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Split, Task
from normscope.torch_internals import apply_in_transforms, buffers_of, functorch_is_active, parameters_of
from normscope.training import checkpoint
from normscope.training.checkpoint import Progress
from normscope.training.loop import CHECKPOINT_SECONDS, CHECKPOINT_SHARE, deterministic
from normscope.training.outcome import PROGRESS_SECONDS, Interrupted, Outcome, State, Watch
from normscope.training.randomness import generator, seed_dropout


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a stack; the arguments of :func:`normscope.training.loop.train` that differ between its runs."""

    task: Task
    """Data, loss and metric."""
    build: Callable[[], nn.Module]
    """Builds the model with its initial weights."""
    seed: int
    """Seed of the streams of data order and dropout."""
    folder: RunFolder
    """Folder of the run; the caller holds its lease."""
    identity: Mapping[str, Any]
    """Description of the run, written to ``run.json`` before step 0."""


def train_stacked(members: Sequence[Member], *, recipe: Recipe, split: Split, preset: str, watch: Watch) -> list[State]:
    """Train several runs of an arm, or continue them, and write the result of each.

    Members at different steps, as after a kill between two checkpoints, meet before they are stacked. A member whose
    loss is not finite leaves the stack, and the others go on.

    Args:
        members: The runs.
        recipe: Their training settings.
        split: Their split of the data.
        preset: Key of the task's presets.
        watch: Called a few times per second, with the mean loss.

    Returns:
        The final state of each, as :func:`normscope.training.loop.train` returns it.

    Raises:
        Interrupted: If ``watch`` requests a stop; the checkpoints have been written.
        ValueError: If the recipe does not fit the data.
    """
    device = torch.device(recipe.device)
    with deterministic(device, warn_only=False):
        runs = [_Run(member, recipe, split, preset) for member in members]
        clock = _Clock(watch)
        while live := [run for run in runs if run.state is None]:
            step = min(run.progress.step for run in live)
            together = [run for run in live if run.progress.step == step]
            later = [run.progress.step for run in live if run.progress.step > step]
            if step == recipe.steps:
                for run in together:
                    run.end("done", None)
                continue
            _Stack(together, live, recipe, clock).advance(min(later, default=recipe.steps))
    return [run.state for run in runs if run.state is not None]


class _Run:
    """The parts of one member, which are those of a single run."""

    def __init__(self, member: Member, recipe: Recipe, split: Split, preset: str) -> None:
        device = torch.device(recipe.device)
        self.task, self.seed, self.folder, self.device = member.task, member.seed, member.folder, device
        self.data = member.task.load(device, split, preset)
        self.order = self.data.order(recipe.batch_size, partial(generator, member.seed, "data"))
        for _ in range(2):
            self.model = member.build().to(device)
            self.optimizer = recipe.make_optimizer(self.model)
            try:
                self.progress = checkpoint.restore(member.folder, self.model, self.optimizer) or Progress()
                break
            except checkpoint.CheckpointDamaged as error:
                checkpoint.set_aside(member.folder)
                warnings.warn(
                    f"{error}; the run begins again, and the file is kept as checkpoint.damaged", stacklevel=2
                )
        self.outcome = Outcome(
            task=member.task,
            data=self.data,
            model=self.model,
            recipe=recipe,
            split=split,
            folder=member.folder,
            progress=self.progress,
            is_stacked=True,
        )
        self.outcome.begin(member.identity)
        self.model.train()
        self.loss = math.nan
        self.state: State | None = None

    def end(self, state: State, why: str | None) -> None:
        reason = None if why is None else f"{why} at step {self.progress.step}"
        self.state = self.outcome.end(state, reason=reason)

    def batch(self) -> tuple[Tensor, ...]:
        return self.data.batch(self.order.batch(self.progress.step))

    def save(self) -> None:
        checkpoint.save(self.folder, self.model, self.optimizer, self.progress)


class _Clock:
    """Decides when to report, and when to write checkpoints, as the loop of a single run does."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.saved_at = self.watched_at = time.perf_counter()
        self.took = 0.0

    def stops(self, step: int, loss: float) -> bool | None:
        """Return whether to save and stop (True), to save and go on (False), or just to go on (None)."""
        now = time.perf_counter()
        if now - self.watched_at < PROGRESS_SECONDS and step > 1:
            return None
        self.watched_at = now
        if self.watch(step, loss):
            return True
        return False if now - self.saved_at > max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * self.took) else None


class _Stack:
    """Members at the same step. Their weights and the states of their optimizers are slices of stacked tensors."""

    def __init__(self, members: Sequence[_Run], live: Sequence[_Run], recipe: Recipe, clock: _Clock) -> None:
        self.members, self.live, self.recipe, self.clock = members, live, recipe, clock
        # Its weights are replaced in every step.
        self.template = _with_stacked_maps(deepcopy(members[0].model))
        self.names = _names(self.template)
        self.slots: list[tuple[dict[str, Any], str]] = []
        self.values: list[Tensor] = []
        self.weights: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.optimizer = recipe.make_optimizer(members[0].model)
        self._join()

    def advance(self, until: int) -> None:
        """Train until a step, or until a member has ended.

        Raises:
            Interrupted: If a stop is requested; the checkpoints have been written.
        """
        while self.members[0].progress.step < until:
            self._update()
            ended = any(run.state is not None for run in self.members)
            step, losses = self.members[0].progress.step, [run.loss for run in self.members]
            stop = self.clock.stops(step, statistics.fmean(losses))
            if stop is not None or ended:
                self._part()
            if stop is not None:
                begin = time.perf_counter()
                for run in self.live:
                    if run.state is None:
                        run.save()
                self.clock.saved_at = time.perf_counter()
                self.clock.took = self.clock.saved_at - begin
            if stop:
                raise Interrupted(f"a stack of {len(self.live)} runs stopped at step {step} of {self.recipe.steps}")
            if ended:
                return
            if stop is not None:
                self._join()
        self._part()

    def _update(self) -> None:
        """Make an update of all members; one whose loss, or evaluation, is not finite ends."""
        step = self.members[0].progress.step
        evaluates = self.recipe.evaluates_after(step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        shares = self._gradients_one_by_one() if evaluates else self._gradients()
        for run in self.members:
            run.progress.step = step + 1
            if math.isfinite(run.loss):
                run.progress.losses.append(run.loss)
            else:
                run.end("diverged", f"the training loss was {run.loss}")
        if self.recipe.clip:
            for place, run in enumerate(self.members):
                self._show_gradients(place, run)
                self.recipe.clip_gradients(run.model)
        self.optimizer.step()
        for run, found in zip(self.members, shares, strict=True):
            if evaluates and run.state is None and (failure := run.outcome.validate(found)) is not None:
                run.end(*failure)

    def _gradients(self) -> list[Any]:
        """Compute the losses and gradients of all members at once."""

        def member(*given: Tensor) -> Tensor:
            # torch.func.functional_call does the same, and takes as long as all norms of a small network.
            *tensors, x = given
            for (table, name), tensor in zip(self.slots, tensors, strict=True):
                table[name] = tensor
            return self.template(x)

        def model(x: Tensor) -> Tensor:
            return torch.vmap(member, randomness="error")(*self.values, x)

        task: Any = self.members[0].task
        batch = [torch.stack(parts) for parts in zip(*(run.batch() for run in self.members), strict=True)]
        self.optimizer.zero_grad(set_to_none=True)
        losses = task.stacked_losses(model, batch)
        # The gradient of a member is that of its own loss, whatever the others' are.
        losses.backward(torch.ones_like(losses))
        for run, value in zip(self.members, losses.tolist(), strict=True):
            run.loss = value
        return [{}] * len(self.members)

    def _gradients_one_by_one(self) -> list[Any]:
        """Compute the same with the model of each member, and measure its gradients at norms."""
        found = []
        for run in self.members:
            run.optimizer.zero_grad(set_to_none=True)
            seed_dropout(run.seed, run.progress.step, run.device)
            batch = run.batch()
            with gradient_shares(run.model) as shares:
                loss = run.task.loss(run.model, batch)
                run.loss = loss.item()
                if math.isfinite(run.loss):
                    loss.backward()
            found.append(shares)
        own = [dict(run.model.named_parameters()) for run in self.members]
        for name, whole in self.weights.items():
            slopes = [each[name].grad for each in own]
            known = [
                torch.zeros_like(each[name]) if one is None else one for one, each in zip(slopes, own, strict=True)
            ]
            whole.grad = None if all(one is None for one in slopes) else torch.stack(known)
        return found

    def _show_gradients(self, place: int, run: _Run) -> None:
        for name, weight in run.model.named_parameters():
            whole = self.weights[name].grad
            weight.grad = None if whole is None else whole[place]

    def _join(self) -> None:
        """Stack the members' tensors, and make those of the members slices of them."""
        models = [run.model for run in self.members]
        own = [dict(model.named_parameters()) for model in models]
        self.weights = {name: torch.stack([each[name].detach() for each in own]).requires_grad_() for name in own[0]}
        kept = [dict(model.named_buffers()) for model in models]
        self.buffers = {name: torch.stack([each[name] for each in kept]) for name in kept[0]}
        for stacked, each in ((self.weights, own), (self.buffers, kept)):
            for name, whole in stacked.items():
                for place, tensors in enumerate(each):
                    tensors[name].data = whole.detach()[place]
        # A tensor that a network uses twice has two places.
        self.slots, self.values = [], []
        for module in self.template.modules():
            for table, stacked in ((parameters_of(module), self.weights), (buffers_of(module), self.buffers)):
                for name in table:
                    if (whole := self.names.get((id(module), name))) is not None:
                        self.slots.append((table, name))
                        self.values.append(stacked[whole])
        replaced = {id(weight): self.weights[name] for name, weight in own[0].items()}
        template = self.members[0].optimizer
        for group, usual in zip(self.optimizer.param_groups, template.param_groups, strict=True):
            group["params"] = [replaced[id(weight)] for weight in usual["params"]]
        self.optimizer.state.clear()
        for name in own[0]:
            states = [run.optimizer.state[each[name]] for run, each in zip(self.members, own, strict=True)]
            if states[0]:
                self.optimizer.state[self.weights[name]] = {
                    key: deepcopy(value) if key == "step" else torch.stack([each[key] for each in states])
                    for key, value in states[0].items()
                }

    def _part(self) -> None:
        """Give every member tensors and a state of the optimizer of its own."""
        for place, run in enumerate(self.members):
            for stacked, tensors in (
                (self.weights, run.model.named_parameters()),
                (self.buffers, run.model.named_buffers()),
            ):
                for name, tensor in tensors:
                    tensor.data = stacked[name].detach()[place].clone()
            for name, weight in run.model.named_parameters():
                weight.grad = None
                if state := self.optimizer.state.get(self.weights[name]):
                    # All members have made equally many steps.
                    run.optimizer.state[weight] = {
                        key: deepcopy(value) if key == "step" else value[place].clone() for key, value in state.items()
                    }


def _names(model: nn.Module) -> dict[tuple[int, str], str]:
    """Return the name of the tensor, among the model's parameters and buffers, at each place of each module."""
    named = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    return {
        (id(module), name): named[id(tensor)]
        for module in model.modules()
        for table in (parameters_of(module), buffers_of(module))
        for name, tensor in table.items()
        if tensor is not None
    }


class _StackedMap(torch.autograd.Function):
    """A linear map whose weights are mapped, as products of stacks; torch's own rule takes three times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        wants_x, _, wants_bias = ctx.needs_input_grad
        dx = torch.bmm(dy, weight) if wants_x else None
        return dx, torch.bmm(dy.transpose(1, 2), x), dy.sum(1) if wants_bias else None

    @staticmethod
    def outside(_: None, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
        return (functional.linear(x, weight, bias),)

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], _: None, *tensors: Tensor | None) -> tuple[tuple[Tensor], tuple[int]]:
        x, weight, bias = (
            one if one is None or dim == 0 else one.movedim(dim, 0) if dim else one.expand(info.batch_size, *one.shape)
            for one, dim in zip(tensors, dims[1:], strict=True)
        )
        assert x is not None
        if x.dim() == 3:
            return (_StackedMap.apply(x, weight, bias),), (0,)  # pyright: ignore
        y: Any = _StackedMap.apply(x.flatten(1, -2), weight, bias)
        return (y.view(*x.shape[:-1], -1),), (0,)


def _with_stacked_maps(model: nn.Module) -> nn.Module:
    """Let the linear maps of a model use :class:`_StackedMap`."""

    def forward(module: nn.Linear, input: Tensor) -> Tensor:
        if input.dim() < 2 or not functorch_is_active():
            return functional.linear(input, module.weight, module.bias)
        return apply_in_transforms(_StackedMap, None, input, module.weight, module.bias)[0]

    for module in model.modules():
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
            module.forward = partial(forward, module)
    return model
