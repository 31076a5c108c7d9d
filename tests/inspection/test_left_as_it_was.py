"""Every call of the package that takes a model leaves all of it as it was, and the process around it."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg  # noqa: F401 its first import adds to the filters of warnings
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import normscope
from normscope import analysis, diagnostics
from normscope.studies.preflight import preflight
from normscope.studies.spec import make_study
from support.whole_state import differences, process_state, whole_state

WIDTH = 8


class Plain(nn.Module):
    """A stream with a norm inside its branches, a batch norm, dropout and an unsaved buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)) for _ in range(2)
        )
        self.batch = nn.BatchNorm1d(WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.register_buffer("factor", torch.ones(WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.factor
        for branch in self.branches:
            x = x + branch(x)
        return self.frozen(self.batch(x))


class PreNorm(nn.Sequential):
    """A stream that can be converted to RMS norms."""

    def __init__(self) -> None:
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        super().__init__(nn.Linear(WIDTH, WIDTH), nn.Unflatten(0, (2, -1)), encoder)


def count(*args: Any) -> None:
    """Do nothing, as a hook."""


def register_all_hooks(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, inputs, output: output + 1)
    module.register_forward_hook(count, with_kwargs=True, always_call=True)
    module.register_forward_pre_hook(count, prepend=True)
    module.register_forward_pre_hook(count, with_kwargs=True)
    module.register_full_backward_hook(count)
    module.register_full_backward_pre_hook(count)
    module.register_state_dict_post_hook(count)
    module.register_state_dict_pre_hook(count)
    module.register_load_state_dict_pre_hook(count)
    module.register_load_state_dict_post_hook(count)
    next(module.parameters()).register_hook(count)
    next(module.parameters()).register_post_accumulate_grad_hook(count)


class RegistersHooks(Plain):
    """Registers hooks at its first forward and remembers that it did, as transformers' capture_outputs does."""

    def __init__(self) -> None:
        super().__init__()
        self.done = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.done:
            for module in (self, self.stem, self.branches[0][0]):
                register_all_hooks(module)
            self.done = True
        return super().forward(x)


class RemovesHooks(Plain):
    """Removes hooks that were registered before the first forward, the first of two."""

    def __init__(self) -> None:
        super().__init__()
        self.handles = [self.stem.register_forward_hook(count), self.stem.register_forward_pre_hook(count)]
        self.stem.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x: Tensor) -> Tensor:
        for handle in self.handles:
            handle.remove()
        return super().forward(x)


class ChangesAttributes(Plain):
    """Draws from generators of its own, and writes into lists, tables, sets and tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.generators = [torch.Generator().manual_seed(1), np.random.default_rng(1), random.Random(1)]
        self.calls, self.cache, self.seen = [], {"rows": [0]}, {1}
        self.total, self.step = torch.zeros(2), 0

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand((), generator=self.generators[0])
        scale = self.generators[1].random() + self.generators[2].random()
        self.calls.append(noise)
        self.cache["rows"].append(len(x))
        self.cache["last"] = x
        self.seen.add(self.step)
        self.total += 1
        self.step += 1
        self.stem.weight.note = self.step
        self.register_buffer("late", torch.ones(1), persistent=False)
        self.frozen.requires_grad_(True)
        self.batch.eval()
        return super().forward(x) * (1 + noise) * scale


class Parametrizes(Plain):
    """Parametrizes a layer at its first forward, which changes the layer's class."""

    def __init__(self) -> None:
        super().__init__()
        self.done = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.done:
            parametrizations.weight_norm(self.stem)
            self.done = True
        return super().forward(x)


class Recurrent(nn.Module):
    """torch's LSTM, and a GRU of this package, over the rows as one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, dropout=0.1, bidirectional=True)
        self.gru = normscope.GRU(2 * WIDTH, WIDTH, norm="layer_norm", recurrent_dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[0]


class Fails(Plain):
    """Raises in the middle of a forward, after it has changed itself."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        self.batch.eval()
        self.stem.register_forward_hook(count)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            raise ArithmeticError("in the middle")


def with_gradients() -> nn.Module:
    model = Plain()
    model(torch.randn(4, WIDTH)).backward(torch.randn(4, WIDTH))
    model.zero_grad(set_to_none=False)
    return model.eval()


def with_hooks() -> nn.Module:
    model = Plain()
    for module in (model, model.stem, model.branches[1][0]):
        register_all_hooks(module)
    return model


def parametrized() -> nn.Module:
    model = Plain()
    parametrizations.weight_norm(model.stem)
    parametrizations.spectral_norm(model.branches[0][1])
    return model


def compiled() -> nn.Module:
    return torch.compile(Plain(), backend="eager")  # pyright: ignore[reportReturnType]


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(WIDTH), nn.LazyBatchNorm1d(), nn.LayerNorm(WIDTH))


def lazy_buffers() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LazyBatchNorm1d(affine=False), nn.LayerNorm(WIDTH))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "with_gradients": with_gradients,
    "pre_norm": PreNorm,
    "with_hooks": with_hooks,
    "registers_hooks": RegistersHooks,
    "removes_hooks": RemovesHooks,
    "changes_attributes": ChangesAttributes,
    "parametrizes": Parametrizes,
    "fails": Fails,
    "recurrent": Recurrent,
    "parametrized": parametrized,
    "compiled": compiled,
    "lazy": lazy,
    "lazy_buffers": lazy_buffers,
}


def batch() -> Tensor:
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(2))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def bad_loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def swap_and_undo(model: nn.Module) -> None:
    normscope.swap(model, "layer_norm", "rms_norm").undo()


def convert_and_undo(model: nn.Module) -> None:
    normscope.to_rms_norm(model, batch()).undo()


def enter(watch: Callable[[nn.Module], Any]) -> Callable[[nn.Module], None]:
    def call(model: nn.Module) -> None:
        with watch(model):
            pass

    return call


CALLS: dict[str, Callable[[nn.Module], Any]] = {
    "diagnose": lambda m: normscope.diagnose(m, batch(), loss, learning_rate=1e-3, warmup=0),
    "diagnose_seeded": lambda m: normscope.diagnose(m, batch(), loss, learning_rate=1e-3, generator=generator()),
    "diagnose_refused": lambda m: normscope.diagnose(m, batch(), bad_loss),
    "find_norms": normscope.find_norms,
    "find_norms_for_replacement": lambda m: normscope.find_norms(m, for_replacement=True),
    "swap": swap_and_undo,
    "swap_refused": lambda m: normscope.swap(m, "layer_norm", "rms_norm", preserve=True),
    "to_rms_norm": convert_and_undo,
    "norm_parameters": normscope.norm_parameters,
    "norm_parameter_groups": lambda m: normscope.norm_parameter_groups(m, weight_decay=0.1),
    "depth_profile": lambda m: diagnostics.depth_profile(m, batch(), loss),
    "gradients_at_norms": lambda m: diagnostics.gradients_at_norms(m, batch(), loss),
    "numeric_range": lambda m: diagnostics.numeric_range(m, batch(), loss),
    "step_profile": lambda m: diagnostics.step_profile(m, batch(), loss),
    "warmup_features": lambda m: diagnostics.warmup_features(m, batch(), loss, learning_rate=1e-3),
    "gradient_shares": enter(diagnostics.gradient_shares),
    "gradients_through_training": enter(diagnostics.gradients_through_training),
    "curvature": lambda m: analysis.curvature(m, batch(), loss="mse", generator=generator(), probes=2),
    "invariances": lambda m: analysis.invariances(m, batch(), generator=generator(), scales=(1.0,)),
    "parity": lambda m: analysis.parity(m, nn.LayerNorm(WIDTH), WIDTH, generator=generator(), rows=4),
}


@contextmanager
def unusual_process() -> Iterator[None]:
    """Set everything that a call could reset to its default."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=False))
        stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        torch.use_deterministic_algorithms(True, warn_only=True)
        stack.enter_context(torch.autograd.set_detect_anomaly(False, check_nan=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=True))
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_model_and_the_process_as_they_were(name: str, model_name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[model_name]()
    with unusual_process():
        before = whole_state(model)
        with suppress(Exception):
            CALLS[name](model)
        assert differences(before, whole_state(model)) == []


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_recurrent_model_is_diagnosed_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    model: Any = torch.compile(Recurrent(), backend="eager")
    model(batch())
    before = whole_state(model)
    assert len(normscope.diagnose(model, batch(), loss).recurrent) == 5
    assert differences(before, whole_state(model)) == []


@pytest.mark.parametrize("name", ["diagnose", "depth_profile", "curvature", "to_rms_norm"])
def test_a_call_is_not_always_refused(name: str) -> None:
    CALLS[name](PreNorm())


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("model_name", ["registers_hooks", "removes_hooks", "changes_attributes"])
def test_both_passes_of_a_diagnosis_see_the_same_model(model_name: str) -> None:
    torch.manual_seed(0)
    model, twin = MODELS[model_name](), MODELS[model_name]()
    twin.load_state_dict(model.state_dict())
    told = normscope.diagnose(model, batch(), loss, learning_rate=1e-12)
    assert told.first_update is not None
    assert told.first_update["loss_after"] == pytest.approx(told.loss, rel=1e-5)
    torch.manual_seed(1)
    mine = model(batch())
    torch.manual_seed(1)
    assert torch.equal(mine, twin(batch()))


def test_the_process_is_as_it_was_after_calls_that_build_their_models() -> None:
    def make(depth: int) -> nn.Module:
        random.random()
        np.random.rand()  # noqa: NPY002
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True)
        return nn.TransformerEncoder(layer, depth)

    before = process_state()
    sgd: Any = lambda model: torch.optim.SGD(model.parameters(), lr=0.1)  # noqa: E731
    diagnostics.coordinate_check(make, (2, 4), batch()[None], loss, optimizer=sgd, steps=1, seeds=(0,))
    assert differences(before, process_state()) == []
    preflight(make_study("digits", norms=["layer_norm", "rms_norm"]))
    assert differences(before, process_state()) == []


@pytest.mark.parametrize("make", [lazy, lazy_buffers])
@pytest.mark.parametrize(
    "name", ["diagnose", "depth_profile", "gradients_at_norms", "numeric_range", "warmup_features"]
)
def test_a_lazy_model_is_refused(make: Callable[[], nn.Module], name: str) -> None:
    with pytest.raises(ValueError, match="lazy parameters or buffers: run a batch through it first"):
        CALLS[name](make())


def test_the_comparison_sees_each_change() -> None:
    changes: list[Callable[[Any], Any]] = [
        lambda m: register_all_hooks(m.stem),
        lambda m: m.stem.register_forward_hook(count),
        lambda m: m.stem.weight.register_hook(count),
        lambda m: m.batch.running_mean.add_(1),
        lambda m: m.batch.eval(),
        lambda m: m.frozen.requires_grad_(True),
        lambda m: setattr(m.stem.weight, "grad", torch.zeros(WIDTH, WIDTH)),
        lambda m: setattr(m, "later", 1),
        lambda m: m.generators[0].manual_seed(9),
        lambda m: m.generators[1].random(),
        lambda m: m.cache["rows"].append(1),
        lambda m: m.total.add_(1),
        lambda m: torch.rand(1),
        lambda m: random.random(),
    ]
    for change in changes:
        model = ChangesAttributes()
        before = whole_state(model)
        change(model)
        assert differences(before, whole_state(model)) != []
