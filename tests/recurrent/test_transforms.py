"""Recurrent layers under torch's transforms: batches of models, parametrizations, compilers, exports, two processes."""

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from normscope.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from normscope.torch_internals import compiled_frames

WIDTH, H, B, T = 3, 5, 4, 3
LAYERS = {LSTM: nn.LSTM, GRU: nn.GRU, RNN: nn.RNN}
CELLS = [LSTMCell, GRUCell, RNNCell]
BATCH_NORM = {"norm": "batch_norm", "batch_norm_steps": T}
EACH = pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
NORMS = pytest.mark.parametrize("options", [{"norm": None}, {}, BATCH_NORM], ids=["none", "layer_norm", "batch_norm"])
SAME = {"rtol": 1e-9, "atol": 1e-10}


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def built(kind: type, *arguments: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(WIDTH, H, *arguments, **options).double()


def gradients(module: Any, x: Tensor, call: Any = None) -> list[Tensor]:
    output = (module if call is None else call)(x)
    output = output[0] if isinstance(output, tuple) else output
    return [output, *torch.autograd.grad(output, tuple(module.parameters()), drawn(*output.shape, seed=9))]


@EACH
@NORMS
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_models(kind: type, options: dict[str, Any], training: bool) -> None:
    models = [built(kind, **options) for _ in range(3)]
    with torch.no_grad():
        for index, model in enumerate(models):
            for parameter in model.parameters():
                parameter.add_(0.3 * drawn(*parameter.shape, seed=index))
            model(drawn(T, B, WIDTH, seed=7))
            model.train(training)
    x = drawn(T, B, WIDTH)
    parameters, buffers = torch.func.stack_module_state(models)
    outputs = torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (x,))[0])(parameters, buffers)
    torch.testing.assert_close(outputs, torch.stack([model(x)[0] for model in models]), **SAME)
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer, torch.stack([dict(model.named_buffers())[name] for model in models]), **SAME)


@EACH
@pytest.mark.parametrize("options", [{"norm": None}, {}], ids=["none", "layer_norm"])
def test_jacobians_in_both_modes_and_gradients_of_each_sample(kind: type, options: dict[str, Any]) -> None:
    layer, x = built(kind, **options), drawn(T, B, WIDTH)
    want = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(lambda x: layer(x)[0])(x), want, **SAME)
    parameters, upstream = dict(layer.named_parameters()), drawn(T, H, seed=3)

    def loss(parameters: Any, x: Tensor) -> Tensor:
        return (torch.func.functional_call(layer, parameters, (x,))[0] * upstream).sum()

    got = torch.func.vmap(torch.func.grad(loss), (None, 1))(parameters, x)
    for sample in range(B):
        want = torch.autograd.grad(loss(parameters, x[:, sample]), tuple(parameters.values()))
        torch.testing.assert_close([one[sample] for one in got.values()], list(want), **SAME)


@pytest.mark.parametrize("cell", CELLS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("norm", [None, "layer_norm"])
def test_cells(cell: type, norm: str | None) -> None:
    models = [cell(WIDTH, H, norm=norm).double() for _ in range(3)]
    x = drawn(B, WIDTH)
    state = torch.func.stack_module_state(models)
    outputs = torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (x,)))(*state)
    first = outputs[0] if cell is LSTMCell else outputs
    want = [model(x)[0] if cell is LSTMCell else model(x) for model in models]
    torch.testing.assert_close(first, torch.stack(want), **SAME)
    torch.compiler.reset()
    compiled = torch.compile(models[0], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(models[0], x, compiled), gradients(models[0], x), **SAME)
    program = torch.export.export(models[0], (x,))
    torch.testing.assert_close(program.module()(x), models[0](x), **SAME)


def test_what_torchs_layer_cannot_do_without_norms_ours_does() -> None:
    """The reason why a layer without norm does not always call torch's operations."""
    x = drawn(T, B, WIDTH)
    models, theirs = [nn.LSTM(WIDTH, H).double() for _ in range(2)], nn.LSTM(WIDTH, H)
    state = torch.func.stack_module_state(models)
    with pytest.raises(RuntimeError, match="Batching rule not implemented for aten::lstm"):
        torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (x,))[0])(*state)
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jacfwd(lambda x: theirs(x)[0])(x.float())
    layer = built(LSTM, norm=None)
    torch.func.jacfwd(lambda x: layer(x)[0])(x)
    assert layer.computed_by.startswith("loop: ")
    layer(x)
    assert layer.computed_by == "torch"


@EACH
@NORMS
def test_activation_checkpoints(kind: type, options: dict[str, Any]) -> None:
    layer, x = built(kind, 2, bidirectional=True, **options), drawn(T, B, WIDTH)

    def call(x: Tensor) -> Any:
        return checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)

    torch.testing.assert_close(gradients(layer, x, call), gradients(layer, x), rtol=0, atol=0)


@EACH
@NORMS
@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l0"])
def test_parametrizations_of_weights_act_and_are_removed(kind: type, options: dict[str, Any], name: str) -> None:
    x = drawn(T, B, WIDTH)
    layer = built(kind, **options)
    want = layer(x)[0]
    parametrizations.weight_norm(layer, name)
    torch.testing.assert_close(layer(x)[0], want, **SAME)
    length, direction = (layer.get_parameter(f"parametrizations.{name}.original{index}") for index in (0, 1))
    assert all(one.abs().sum() > 0 for one in torch.autograd.grad(layer(x)[0], (length, direction), drawn(T, B, H)))
    with torch.no_grad():
        length.mul_(torch.linspace(1, 3, len(length))[:, None])
    changed = layer(x)[0]
    assert not torch.allclose(changed, want)
    parametrize.remove_parametrizations(layer, name)
    torch.testing.assert_close(layer(x)[0], changed, **SAME)
    if name == "weight_hh_l0":
        parametrizations.orthogonal(layer, name)
        torch.testing.assert_close(layer.weight_hh_l0.T @ layer.weight_hh_l0, torch.eye(H).double(), **SAME)
        assert layer(x)[0].isfinite().all()


@EACH
@pytest.mark.parametrize("norm", [None, "layer_norm"])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_the_old_weight_norm(kind: type, norm: str | None) -> None:
    layer, x = built(kind, norm=norm), drawn(T, B, WIDTH)
    want = layer(x)[0]
    nn.utils.weight_norm(layer, "weight_hh_l0")
    torch.testing.assert_close(layer(x)[0], want, **SAME)
    with torch.no_grad():
        layer.weight_hh_l0_g.mul_(torch.linspace(1, 3, len(layer.weight_hh_l0_g))[:, None])
    changed = layer(x)[0]
    assert not torch.allclose(changed, want)
    nn.utils.remove_weight_norm(layer, "weight_hh_l0")
    torch.testing.assert_close(layer(x)[0], changed, **SAME)


@EACH
@pytest.mark.parametrize("options", [{}, BATCH_NORM, {"norm": "rms_norm", "zoneout": 0.1}], ids=str)
def test_autocast_multiplies_in_half_precision_and_carries_float32(kind: type, options: dict[str, Any]) -> None:
    layer = kind(WIDTH, 32, **options).eval()
    x = drawn(T, B, WIDTH, dtype=torch.float32)
    want = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x)
    states = state if isinstance(state, tuple) else (state,)
    assert {output.dtype, *(one.dtype for one in states)} == {torch.float32}
    # Three steps of products of 32 numbers that are rounded to eight bits.
    torch.testing.assert_close(output, want, rtol=0, atol=0.03)
    assert not torch.equal(output, want)
    output.backward(torch.ones_like(output))
    assert all(one.grad is not None and one.grad.isfinite().all() for one in layer.parameters())


class Net(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(WIDTH, WIDTH), kind(WIDTH, H), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x))[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_network_calls_the_kernels(backend: str) -> None:
    """torch.compile leaves recurrent layers out of its graphs, ours as torch's: they run as without it."""
    torch.compiler.reset()
    net, x = Net(LSTM).double(), drawn(T, B, WIDTH)
    compiled = torch.compile(net, backend=backend)
    before = compiled_frames()
    compiled(x)
    # The parts before and after the layer, and what torch tries of the layer itself; not the functions that it calls.
    assert compiled_frames() - before < 10
    torch.testing.assert_close(gradients(net, x, compiled), gradients(net, x), **SAME)
    assert net.layer.computed_by == "cpu"
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["nn.LSTM", "LSTM"])
def test_one_graph_is_refused_by_torch_for_its_own_layer_and_ours(layer: str) -> None:
    """In a new process: code that torch.compile has once left out is left out for good."""
    program = (
        f"import torch; from torch import nn; from normscope import LSTM; layer = {layer}(3, 5)\n"
        "torch.compile(layer, backend='eager', fullgraph=True)(torch.zeros(2, 4, 3))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Dynamo does not support RNN, GRU, or LSTM" in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "options", "backend"),
    [
        (RNN, {}, "aot_eager"),
        (GRU, {"learned_initial_state": True}, "aot_eager"),
        (LSTM, {"norm": "ada_norm", "cell_norm": "rms_norm"}, "aot_eager"),
        (RNN, {"norm": "batch_norm", "batch_norm_steps": 2}, "aot_eager"),
        (RNN, {"norm": "rms_norm"}, "inductor"),
    ],
)
def test_one_graph_where_torch_allows_it(kind: type, options: dict[str, Any], backend: str) -> None:
    torch.compiler.reset()
    layer, x = built(kind, **options), drawn(2, B, WIDTH)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    with torch._dynamo.config.patch(allow_rnn=True):
        got = gradients(layer, x, compiled)
    assert layer.computed_by == "loop: torch.compile traces the steps"
    torch.testing.assert_close(got, gradients(layer, x), **SAME)
    torch.compiler.reset()


FLAT = pytest.mark.filterwarnings(r"ignore:The tensor attributes self._flat_weights:UserWarning")
"""What torch.export says of torch's own layers, and of ours without norm, which are torch's."""


@FLAT
@EACH
@pytest.mark.parametrize(
    "options", [{}, {"norm": "rms_norm", "bidirectional": True}, {"norm": None}, BATCH_NORM], ids=str
)
def test_exported_programs_run_with_other_batches(kind: type, options: dict[str, Any]) -> None:
    layer = built(kind, **options)
    layer(drawn(T, B, WIDTH, seed=3))
    layer.eval()
    shapes = {"input": {1: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(layer, (drawn(T, B, WIDTH),), dynamic_shapes=shapes)
    x = drawn(T, 7, WIDTH, seed=1)
    torch.testing.assert_close(program.module()(x), layer(x), **SAME)


@FLAT
def test_an_exported_program_has_one_length_as_that_of_torchs_layer() -> None:
    shapes = {"input": {0: torch.export.Dim("time", min=2, max=64)}}
    for layer in (LSTM(WIDTH, H).eval(), nn.LSTM(WIDTH, H).eval()):
        with pytest.raises(Exception, match="time"):
            torch.export.export(layer, (torch.zeros(T, B, WIDTH),), dynamic_shapes=shapes)


@pytest.mark.slow
@EACH
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_onnx_file_computes_the_same_in_another_runtime(kind: type) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = kind(WIDTH, H, norm="rms_norm").eval()
    shapes = {"input": {1: torch.export.Dim("batch", min=2, max=64)}}
    given = drawn(2, B, WIDTH, dtype=torch.float32)
    program = torch.onnx.export(layer, (given,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    x = drawn(2, 7, WIDTH, seed=1, dtype=torch.float32)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    output, state = layer(x)
    want = (output, *(state if isinstance(state, tuple) else (state,)))
    # Sums of a few numbers near one in another order.
    torch.testing.assert_close(
        [torch.from_numpy(one) for one in got], [one.detach() for one in want], rtol=0, atol=1e-5
    )


def process(rank: int, folder: str) -> None:
    """Train on half a batch beside another process, and compare with the whole batch in one."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for kind in LAYERS:
        for options in ({}, {"norm": "ada_norm", "bidirectional": True, "learned_initial_state": True}, {"norm": None}):
            layer = built(kind, **options)
            x = drawn(T, 2 * B, WIDTH)
            want = torch.autograd.grad(layer(x)[0], tuple(layer.parameters()), torch.ones_like(layer(x)[0]) / 2)
            twin = DistributedDataParallel(layer)
            output = twin(x[:, rank * B : (rank + 1) * B])[0]
            output.backward(torch.ones_like(output))
            torch.testing.assert_close([one.grad for one in layer.parameters()], list(want), **SAME)
    # Each process has moments of its own batch, as with torch's batch norm; those of the first are shared.
    layer = built(LSTM, **BATCH_NORM)
    twin = DistributedDataParallel(layer)
    for _ in range(2):
        twin(drawn(T, B, WIDTH, seed=rank))[0].backward(torch.ones(T, B, H).double())
    means = [torch.empty_like(layer.norms["l0"]["ih"][0].running_mean) for _ in range(2)]
    twin.eval()(drawn(T, B, WIDTH))
    dist.all_gather(means, layer.norms["l0"]["ih"][0].running_mean)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this PyTorch is built without gloo")
def test_two_processes_have_the_gradients_of_one(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(process, (str(tmp_path),), nprocs=2)
