"""Try every instrument on one small model: swap, undo, train, save and load, compile, diagnose.

A check that the library's own model does not pass either is counted as the library's, and so is an output that is not
finite where every norm of ours is. A refusal is an error of a kind
that normscope documents (a ValueError, TypeError or LookupError that normscope itself raised).
"""

import contextlib
import copy
import io
import math
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

import normscope
from normscope.norms import NORMS
from strangers.blame import CheckFailed, NotOurs, alive, blamed, finite, near, same
from strangers.libraries import Subject, seed
from strangers.snapshot import differences, snapshot

Status = Literal["ok", "failed", "refused", "theirs", "skipped", "timeout", "killed"]

TARGETS = ("rms_norm", "layer_norm", "dyt", "group_norm", "none")
"""What norms are swapped to, where the catalogue has it."""

CHECKS = ("swap", "undo", "train", "save", "compile", "diagnose")
OWN = ("repeat", "train", "compile")
"""What the library's own model is tried with first, on its own or where the swapped one failed."""

OURS = os.path.dirname(os.path.abspath(normscope.__file__))
STEPS, RATE = 3, 1e-2


Report = Callable[[dict[str, Any]], None]


def try_subject(
    subject: Subject, *, targets: Sequence[str], backend: str, compiled: Sequence[str], report: Report
) -> None:
    """Try every target with every check, and report each cell as it begins and as it ends.

    Args:
        subject: A model that builds and runs.
        targets: Keys of ``NORMS``.
        backend: Of ``torch.compile``.
        compiled: The targets whose models are compiled.
        report: Called with ``{"begins": cell}`` and with ``{"cell": ..., "status": ..., ...}``.
    """
    own = Own(subject, backend)
    cell(report, "own/repeat", own.repeat)
    if own.failed:
        return
    cell(report, "own/train", own.train)
    found: list[Any] = []
    if not cell(report, "own/find", lambda: found.extend(finds(own))):
        return
    kinds = sorted({norm.kind for norm in found})
    report({"norms": kinds})
    cell(report, "own/diagnose", lambda: diagnoses(own, own.fresh()))
    if not kinds:
        return
    if "layer_norm" in kinds:
        cell(report, "to_rms_norm/convert", lambda: converts(own, own.fresh()))
    for target in targets:
        what = [kind for kind in kinds if kind != target]
        if not what:
            report({"cell": f"{target}/swap", "status": "skipped", "error": "every norm is of this kind"})
            continue
        try_target(own, what, target, compiled=target in compiled, report=report)


def try_target(own: "Own", what: list[str], target: str, *, compiled: bool, report: Report) -> None:
    """Try one target with every check."""
    model = own.fresh()
    before, swapped = snapshot(model), []
    if not cell(report, f"{target}/swap", lambda: swapped.append(swaps(own, model, what, target))):
        return
    cell(report, f"{target}/undo", lambda: undoes(own, model, swapped[0], before))
    again = own.fresh()
    normscope.swap(again, what, target)
    trains_too = "train" not in own.failed
    if trains_too:
        cell(report, f"{target}/train", lambda: trains(own, again))
    cell(report, f"{target}/save", lambda: saves(own, again, lambda m: normscope.swap(m, what, target)), own=own.save)
    if compiled:
        cell(report, f"{target}/compile", lambda: compiles(own, again), own=own.compile)
    if trains_too:
        cell(report, f"{target}/diagnose", lambda: diagnoses(own, again))


def cell(report: Report, name: str, check: Callable[[], Any], own: Callable[[], Any] | None = None) -> bool:
    """Run one check, report how it ended, and return whether it passed; a failure that ``own`` shares is theirs."""
    report({"begins": name})
    started, result = time.perf_counter(), {"cell": name, "status": "ok"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except Exception as error:
        result |= told(error)
        if isinstance(error, NotOurs) or (name.startswith("own/") and name != "own/diagnose"):
            result["status"] = "theirs"
        elif own is not None:
            with contextlib.suppress(Exception):
                own()
                own = None
            result["status"] = result["status"] if own is None else "theirs"
    report(result | {"seconds": round(time.perf_counter() - started, 2)})
    return result["status"] == "ok"


def told(error: Exception) -> dict[str, Any]:
    """Return the status of an error, its text, and the last line of normscope's that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1].filename if frames else ""
    raised = last.startswith(OURS) and (frames[-1].line or "").startswith("raise ")
    refused = raised and isinstance(error, ValueError | TypeError | LookupError)
    ours = [frame for frame in frames if frame.filename.startswith(OURS)]
    where = f"{os.path.relpath(ours[-1].filename, OURS)}:{ours[-1].name}" if ours else ""
    deepest = f"{os.path.basename(last)}:{frames[-1].lineno}" if frames else ""
    text = f"{type(error).__name__}: {error}"[:800]
    return {"status": "refused" if refused else "failed", "error": text, "where": where, "deepest": deepest}


class Own:
    """The library's model without us: its outputs, and what of our checks it passes by itself."""

    def __init__(self, subject: Subject, backend: str) -> None:
        self.subject, self.backend = subject, backend
        self.failed: set[str] = set()
        seed()
        self.model = subject.build().eval()
        self.before = self.outputs(self.model)
        self.shapes = [tuple(output.shape) for output in self.before]
        draws = torch.Generator().manual_seed(2)
        self.goals = [torch.randn(output.shape, generator=draws).to(output.dtype) for output in self.before]
        self.with_gradient: set[str] = set()

    def fresh(self) -> nn.Module:
        """Return a copy; where a model cannot be copied, build it again from the same seed."""
        try:
            return copy.deepcopy(self.model)
        except Exception:
            seed()
            return self.subject.build().eval()

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """Return the outputs in evaluation."""
        model.eval()
        with torch.no_grad():
            return self.subject.outputs(model)

    def loss(self, model: nn.Module) -> Tensor:
        """Return the loss in the mode that the model is in; that of a model which has its own is of training."""
        if self.subject.train_loss is not None:
            seed()
            return self.subject.train_loss(model.train())
        outputs = self.subject.outputs(model)
        goals = (
            self.goals if [tuple(o.shape) for o in outputs] == self.shapes else [torch.ones_like(o) for o in outputs]
        )
        return torch.stack([(o - g).float().square().mean() for o, g in zip(outputs, goals, strict=True)]).sum()

    @contextlib.contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Remember that a check failed."""
        self.failed.add(name)
        yield
        self.failed.discard(name)

    def repeat(self) -> None:
        """Check that the model computes the same twice."""
        with self.noted("repeat"):
            same(self.before, self.outputs(self.model), "outputs of a second call")
            same(self.before, self.outputs(self.fresh()), "outputs of a copy")

    def train(self) -> None:
        """Check that the model trains."""
        with self.noted("train"):
            trains(self, self.fresh())

    def save(self) -> None:
        """Check that the state of the trained model brings everything."""
        model = self.fresh()
        trains(self, model)
        saves(self, model, lambda other: None)

    def compile(self) -> None:
        """Check that the compiled model computes the same."""
        compiles(self, self.fresh())


def swaps(own: Own, model: nn.Module, what: list[str], target: str) -> Any:
    """Check that a swap replaces something, and that the outputs are finite and of the same shapes."""
    with unchanged_where_refused(model, "swap"):
        report = normscope.swap(model, what, target)
    if not report.replaced:
        raise CheckFailed("swap replaced nothing")
    outputs = own.outputs(model)
    shapes = [tuple(output.shape) for output in outputs]
    if shapes != own.shapes and not own.subject.shapes_vary:
        raise CheckFailed(f"shapes were {own.shapes} and are {shapes}")
    if not finite(outputs):
        with torch.no_grad():
            raise blamed(model, lambda: own.outputs(model), "an output is not finite")
    return report


def undoes(own: Own, model: nn.Module, report: Any, before: dict[str, Any]) -> None:
    """Check that undo gives back outputs, parameters, buffers, modules and hooks, bit for bit."""
    report.undo()
    # The call between swap and undo has drawn random numbers, and may have put the model into evaluation.
    changed = [name for name in differences(before, snapshot(model)) if not name.startswith("the random state")]
    if changed:
        raise CheckFailed(f"undo leaves {len(changed)} changed: {changed[:4]}")
    if list(model.state_dict()) != list(own.model.state_dict()):
        raise CheckFailed("the order of the state has changed")
    same(own.before, own.outputs(model), "outputs after undo")


@contextlib.contextmanager
def unchanged_where_refused(model: nn.Module, name: str) -> Iterator[None]:
    """Check that an instrument which raises has left model and process as they were."""
    before = snapshot(model)
    try:
        yield
    except Exception as error:
        changed = differences(before, snapshot(model))
        if changed:
            raise CheckFailed(f"{name} refused and changed {len(changed)}: {changed[:4]}") from error
        raise


def finds(own: Own) -> Sequence[Any]:
    """Check that find_norms leaves model and process as they were, and return what it found."""
    before = snapshot(own.model)
    found, _ = normscope.find_norms(own.model)
    changed = differences(before, snapshot(own.model))
    if changed:
        raise CheckFailed(f"find_norms changed {len(changed)}: {changed[:4]}")
    return found


def converts(own: Own, model: nn.Module) -> None:
    """Check that to_rms_norm keeps the outputs, to 1e-4 of the largest, or refuses and changes nothing."""
    call = own.subject.call
    with unchanged_where_refused(model, "to_rms_norm"):
        normscope.to_rms_norm(model, *call.inputs, **call.named)
    near(own.before, own.outputs(model), "outputs of RMS norms", 1e-4)


def trains(own: Own, model: nn.Module) -> None:
    """Check that three steps change a finite loss, and that what had a gradient without us has one still."""
    first = float(own.loss(model.eval()).detach())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = own.loss(model.train())
        loss.backward()
        total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not (loss.isfinite() and total.isfinite()):
            what = f"loss {loss.item():g}, norm of the gradient {total.item():g}"
            raise blamed(model, lambda: own.loss(model.train()).backward(), what)
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    places = {name.rpartition(".")[0] for name in moved}
    if not own.with_gradient:
        own.with_gradient = places
    has = {name for name, module in model.named_modules() if any(p.requires_grad for p in module.parameters())}
    bare = [place for place in own.with_gradient - places if place in has and not _inside(place, places)]
    if bare:
        raise CheckFailed(f"parameters without gradient, which had one before: {sorted(bare)[:4]}")
    last = float(own.loss(model.eval()).detach())
    # What the first order of the loss promises is less than its rounding.
    if last == first and STEPS * RATE * total**2 < 1e-6 * abs(first):
        what = f"the loss stays {first}, the norm of the gradient is {total.item():.0e}"
        raise blamed(model, lambda: own.loss(model.train()).backward(), what, alive, "nonzero")
    if not math.isfinite(last) or last == first:
        raise CheckFailed(f"the loss was {first} and is {last}")


def _inside(place: str, places: set[str]) -> bool:
    """Tell whether a place is a wrapper of one that got a gradient."""
    return any(each.startswith(f"{place}.") for each in places)


def saves(own: Own, model: nn.Module, swap: Callable[[nn.Module], Any]) -> None:
    """Check that a saved state, loaded into another swapped model, gives the same outputs."""
    expected = own.outputs(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = own.fresh()
    swap(other)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(expected, own.outputs(other), "outputs after save and load")


def compiles(own: Own, model: nn.Module) -> None:
    """Check that the compiled model computes what the model does, to 1e-3 of the largest output."""
    expected = own.outputs(model)
    torch.compiler.reset()
    try:
        got = own.outputs(torch.compile(model, backend=own.backend))  # type: ignore[arg-type]
    finally:
        torch.compiler.reset()
    near(expected, got, "compiled outputs", 1e-3)


def diagnoses(own: Own, model: nn.Module) -> None:
    """Check that diagnose returns and leaves model and process as they were, and that the model still runs."""
    expected = own.outputs(model)
    model.train()
    seed(3)
    before = snapshot(model)
    diagnosis = normscope.diagnose(model, None, lambda network, batch: own.loss(network), learning_rate=1e-3)
    changed = differences(before, snapshot(model))
    if changed:
        raise CheckFailed(f"diagnose changed {len(changed)}: {changed[:4]}")
    if not diagnosis.summary():
        raise CheckFailed("diagnose has nothing to tell")
    same(expected, own.outputs(model), "outputs after diagnose")


def known(targets: Sequence[str]) -> list[str]:
    """Return those of the targets that the catalogue has."""
    return [target for target in targets if target in NORMS]
