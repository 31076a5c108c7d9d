"""The operator passes torch's checker, and is one node of a compiled graph and no node of an exported one."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import AotEagerAndRecordGraphs, CompileCounter
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from normscope.kernels import operator
from normscope.kernels.formula import CENTER, Formula
from normscope.norms import AdaNorm, DetachNorm, LayerNorm, LayerNormSimple, RMSNorm, ScaleNorm
from support.family import MEMBERS, NORMS, definition, gain, sample, shift

pytestmark = [
    # What torch's own recorder of graphs and its strict export say of themselves.
    pytest.mark.filterwarnings("ignore:Your compiler for AOTAutograd:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning"),
    # torch 2.14's own checker reads this of tensors it made, and hides the warning by a way that an error passes by.
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning:torch\\._subclasses\\.meta_utils"
    ),
]

WIDTH = 7
MODULES = {
    "layer_norm": LayerNorm,
    "layer_norm_simple": LayerNormSimple,
    "rms_norm": RMSNorm,
    "scale_norm": ScaleNorm,
    "ada_norm": AdaNorm,
    "detach_norm": DetachNorm,
}
# Float64 sums of a few terms of order ten, in either order.
SAME = {"rtol": 0, "atol": 1e-12}

every_module = pytest.mark.parametrize("name", MODULES)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


@pytest.fixture
def _tidy() -> Iterator[None]:
    """Collect what a refused compilation leaves behind.

    There are generators among it that at their end, whenever that comes, put the dispatcher back into another state.
    """
    yield
    with torch._C._PreserveDispatchKeyGuard():
        gc.collect()


def make(name: str, dtype: torch.dtype = torch.float64, width: int = WIDTH) -> nn.Module:
    module = MODULES[name](width, dtype=dtype)
    with torch.no_grad():
        for at, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * sample(*parameter.shape, seed=10 + at))
    return module


def arguments(formula: Formula, dtype: torch.dtype, residual: bool, learned: str) -> tuple[Any, ...]:
    """Return arguments of the operator with two leading axes, all of which require gradients."""
    tensors = [
        sample(3, 4, WIDTH, dtype=dtype),
        sample(3, 4, WIDTH, seed=1, dtype=dtype) if residual else None,
        gain(WIDTH, dtype) if learned in ("gain", "both") else None,
        shift(WIDTH, dtype) if learned in ("bias", "both") else None,
    ]
    return (*(one if one is None else one.requires_grad_() for one in tensors), WIDTH, *formula)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    ("residual", "learned", "dtype"),
    [(True, "both", torch.float32), (False, "none", torch.float64)],
)
def test_torchs_checker_passes_the_operator(name: str, residual: bool, learned: str, dtype: torch.dtype) -> None:
    given = arguments(NORMS[name], dtype, residual, learned)
    # In low precision its own comparison of a traced gradient is not of one rounding.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(operator.norm, given, test_utils=tests)


def test_the_layout_of_the_outputs_is_foretold_for_any_input() -> None:
    _, *rest = arguments(NORMS["layer_norm"], torch.float64, True, "both")
    given = (sample(WIDTH, 4, 3).permute(2, 1, 0).requires_grad_(), *rest)
    torch.library.opcheck(operator.norm, given, test_utils=("test_faketensor", "test_aot_dispatch_dynamic"))
    assert operator.norm(*given)[0].is_contiguous()


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(("wants_weight", "wants_bias"), [(True, True), (False, False), (True, False)])
def test_torchs_checker_passes_the_backward_operator(name: str, wants_weight: bool, wants_bias: bool) -> None:
    formula = NORMS[name]
    with torch.no_grad():
        x, _, weight, _, *numbers = arguments(formula, torch.float64, False, "both")
        _, _, mean, square = operator.norm(x.detach(), None, weight.detach(), None, *numbers)
    given = (sample(3, 4, WIDTH, seed=2), None, x.detach(), mean, square, weight.detach(), *numbers)
    torch.library.opcheck(operator.norm_backward, (*given, wants_weight, wants_bias))


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("learned", ["both", "gain", "bias", "none"])
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "no_residual"])
def test_outputs_and_gradients_are_those_of_the_definition(name: str, learned: str, residual: bool) -> None:
    formula = MEMBERS[name]
    found = []
    for ours in (True, False):
        given = arguments(formula, torch.float64, residual, learned)
        z, total = operator.norm(*given)[:2] if ours else definition(formula, *given[:4])
        out = [z, total] if residual else [z]
        wanted = [one for one in given[:4] if one is not None]
        found.append(
            [*out, *torch.autograd.grad(out, wanted, [sample(3, 4, WIDTH, seed=5 + at) for at in range(len(out))])]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **SAME)


@pytest.mark.parametrize("name", NORMS)
def test_the_statistics_are_those_of_the_rows_and_not_for_differentiation(name: str) -> None:
    formula = NORMS[name]
    x, *rest = arguments(formula, torch.float64, False, "none")
    _, total, mean, square = operator.norm(x, *rest)
    center = x.mean(-1, keepdim=True) if formula.flags & CENTER else torch.zeros(3, 4, 1, dtype=x.dtype)
    assert total.numel() == 0
    assert mean.numel() == (12 if formula.flags & CENTER else 0)
    torch.testing.assert_close(square, (x - center).square().mean(-1).flatten(), **SAME)


def test_a_second_derivative_through_the_operator_is_refused() -> None:
    given = arguments(NORMS["layer_norm"], torch.float64, False, "both")
    z, *_ = operator.norm(*given)
    (first,) = torch.autograd.grad(z, given[0], sample(3, 4, WIDTH, seed=5), create_graph=True)
    with pytest.raises(RuntimeError, match=r"no autograd formula was registered"):
        torch.autograd.grad(first, given[0], sample(3, 4, WIDTH, seed=6))


def gradients(of: Callable[..., Any], module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    leaves = [one.detach().requires_grad_() for one in inputs]
    out = of(*leaves)
    out = out if isinstance(out, tuple) else (out,)
    ups = [sample(*one.shape, seed=30 + at, dtype=one.dtype) for at, one in enumerate(out)]
    return [*out, *torch.autograd.grad(out, [*leaves, *module.parameters()], ups)]


@every_module
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "no_residual"])
def test_a_compiled_norm_is_one_node_forward_and_one_backward(name: str, residual: bool) -> None:
    module, inputs = make(name), [sample(5, 3, WIDTH), sample(5, 3, WIDTH, seed=1)][: 1 + residual]
    want = gradients(module, module, *inputs)
    graphs = AotEagerAndRecordGraphs()
    got = gradients(torch.compile(module, fullgraph=True, backend=graphs), module, *inputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **SAME)
    for graph, node in (
        (graphs.fw_graphs[0], "normscope.norm.default"),
        (graphs.bw_graphs[0], "normscope.norm_backward.default"),
    ):
        assert [str(one.target) for one in graph.graph.nodes].count(node) == 1


@every_module
def test_a_compiled_detach_norm_keeps_no_input(name: str) -> None:
    module, graphs = make(name, torch.float32), AotEagerAndRecordGraphs()
    x = sample(50, WIDTH, dtype=torch.float32).requires_grad_()
    torch.compile(module, fullgraph=True, backend=graphs)(x)
    outputs = graphs.fw_graphs[0].graph.find_nodes(op="output")[0].args[0]
    kept = [one.meta["val"] for one in outputs[1:] if isinstance(one.meta.get("val"), Tensor)]
    as_large_as_x = [one for one in kept if one.numel() == x.numel()]
    assert len(as_large_as_x) == (name != "detach_norm")


@every_module
@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "by itself"])
def test_batches_of_other_sizes_need_no_other_graph(name: str, dynamic: bool | None) -> None:
    module, counter = make(name), CompileCounter()
    compiled = torch.compile(module, fullgraph=True, backend=counter, dynamic=dynamic)
    sizes = (5, 8, 3, 17, 64, 1000, 2)
    for at, size in enumerate(sizes):
        x = sample(size, WIDTH, seed=size)
        torch.testing.assert_close(compiled(x), module(x), **SAME)
        if at == 1:
            before = counter.frame_count
    # Of its own, torch makes one graph for the first size and one for any other.
    assert before <= 2
    assert counter.frame_count == before


def test_a_marked_batch_needs_one_graph_alone_also_with_gradients() -> None:
    module, graphs = make("layer_norm"), AotEagerAndRecordGraphs()
    compiled = torch.compile(module, fullgraph=True, backend=graphs)
    for size in (5, 8, 3, 64):
        x = sample(size, WIDTH, seed=size).requires_grad_()
        torch._dynamo.mark_dynamic(x, 0)
        up = sample(size, WIDTH, seed=1)
        got = torch.autograd.grad(compiled(x), [x, *module.parameters()], up)
        for a, b in zip(got, torch.autograd.grad(module(x), [x, *module.parameters()], up), strict=True):
            torch.testing.assert_close(a, b, **SAME)
    assert len(graphs.graphs) == 1


@every_module
@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16, torch.float16)],
)
def test_compiled_dtypes_are_those_of_eager_mode_also_under_autocast(
    name: str, dtype: torch.dtype, parameters: torch.dtype
) -> None:
    module, x = make(name, parameters), sample(5, WIDTH, dtype=dtype)
    want = gradients(module, module, x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    plain = gradients(compiled, module, x)
    with torch.autocast("cpu", torch.bfloat16):
        under = gradients(compiled, module, x)
    for got in (plain, under):
        assert [(one.dtype, one.shape) for one in got] == [(one.dtype, one.shape) for one in want]
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", ["layer_norm", "scale_norm", "detach_norm"])
@pytest.mark.parametrize("view", ["transposed", "expanded", "every second"])
def test_compiled_layouts_are_those_of_the_numbers(name: str, view: str) -> None:
    module = make(name)
    x = {
        "transposed": sample(WIDTH, 5, 6).permute(1, 2, 0),
        "expanded": sample(1, WIDTH).expand(6, WIDTH),
        "every second": sample(6, 2 * WIDTH)[..., ::2],
    }[view]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(compiled, module, x), gradients(module, module, x.contiguous()), strict=True):
        torch.testing.assert_close(a, b, **SAME)


@pytest.mark.parametrize("name", ["layer_norm", "ada_norm", "detach_norm"])
def test_compiled_in_a_model_and_checkpointed(name: str) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH, dtype=torch.float64), make(name), nn.Tanh())
    x = sample(5, WIDTH)
    want = gradients(model, model, x)

    def checkpointed(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)

    got = gradients(torch.compile(checkpointed, fullgraph=True, backend="aot_eager"), model, x)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **SAME)


def test_a_second_derivative_of_compiled_code_is_refused() -> None:
    compiled = torch.compile(make("layer_norm"), fullgraph=True, backend="aot_eager")
    x = sample(5, WIDTH).requires_grad_()
    (first,) = torch.autograd.grad(compiled(x), x, sample(5, WIDTH, seed=1), create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not currently support double backward"):
        torch.autograd.grad(first, x, sample(5, WIDTH, seed=2))


def transforms(module: nn.Module, upstream: Tensor, direction: Tensor) -> dict[str, Callable[[Tensor], Any]]:
    parameters = dict(module.named_parameters())

    def score(x: Tensor) -> Tensor:
        return (module(x) * upstream).sum()

    def of_a_row(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return (functional_call(module, parameters, (row,)) * upstream[0]).sum()

    return {
        "grad": lambda x: grad(score)(x),
        "vmap": lambda x: vmap(lambda row: module(row))(x),
        "vmap along the second axis": lambda x: vmap(lambda row: module(row), in_dims=1, out_dims=1)(x.unsqueeze(0)),
        "per-sample gradients": lambda x: vmap(grad(of_a_row), (None, 0))(parameters, x),
        "jvp": lambda x: jvp(module, (x,), (direction,))[1],
        "grad of grad": lambda x: grad(lambda y: (grad(score)(y) ** 2).sum())(x),
    }


@pytest.mark.usefixtures("_tidy")
@every_module
@pytest.mark.parametrize("transform", transforms(nn.Identity(), torch.ones(1), torch.ones(1)))
def test_transforms_inside_compiled_code_are_right(name: str, transform: str) -> None:
    module = make(name).requires_grad_(False)
    upstream, direction, x = sample(5, WIDTH, seed=1), sample(5, WIDTH, seed=2), sample(5, WIDTH)
    function = transforms(module, upstream, direction)[transform]
    want = function(x)
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    for a, b in zip(*(torch.utils._pytree.tree_leaves(one) for one in (got, want)), strict=True):
        torch.testing.assert_close(a, b, **SAME)


@pytest.mark.usefixtures("_tidy")
@every_module
@pytest.mark.parametrize("learns", [True, False], ids=["learns", "frozen"])
@pytest.mark.parametrize("fullgraph", [True, False], ids=["one graph", "graphs"])
def test_a_tangent_that_enters_compiled_code_comes_out_or_is_refused(name: str, learns: bool, fullgraph: bool) -> None:
    module = make(name).requires_grad_(learns)
    compiled = torch.compile(module, fullgraph=fullgraph, backend="aot_eager")
    got, refused = None, None
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(sample(5, WIDTH), sample(5, WIDTH, seed=2))
        want = forward_ad.unpack_dual(module(dual)).tangent
        try:
            got = forward_ad.unpack_dual(compiled(dual)).tangent
        except (NotImplementedError, torch._dynamo.exc.Unsupported) as error:
            refused = error
    if refused is not None:
        # torch 2.13 cannot compile a backward pass that has a forward derivative as well. torch 2.14 takes no tangent
        # into compiled code: where it has to compile all it refuses, and where not it runs the norm as it is.
        with_a_backward_pass = (
            isinstance(refused, NotImplementedError) and "the jvp function" in str(refused) and learns
        )
        assert with_a_backward_pass or ("would silently drop the tangent" in str(refused) and fullgraph)
        return
    assert got is not None, "the tangent was lost without a word"
    torch.testing.assert_close(got, want, **SAME)


@pytest.mark.parametrize(
    ("name", "strict"), [*((name, False) for name in MODULES), ("layer_norm", True), ("detach_norm", True)]
)
def test_an_exported_graph_holds_torchs_operations_alone(name: str, strict: bool) -> None:
    module = make(name)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (sample(5, 3, WIDTH),), dynamic_shapes=({0: batch},), strict=strict)
    assert not any("normscope" in str(node.target) for node in program.graph.nodes)
    for size in (1, 5, 64):
        x = sample(size, 3, WIDTH, seed=1)
        torch.testing.assert_close(program.module()(x), module(x), **SAME)
    decomposed = program.run_decompositions()
    torch.testing.assert_close(decomposed.module()(x), module(x), **SAME)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in MODULES), ("layer_norm", torch.float16)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_onnx_file_computes_the_same_in_another_runtime(name: str, dtype: torch.dtype) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    module = make(name, torch.float32).eval()
    x = sample(5, 3, WIDTH, dtype=dtype)
    axes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=axes, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    x = sample(9, 3, WIDTH, seed=1, dtype=dtype)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    # Another order of sums in float32, and a rounding to what is stored.
    atol = 16 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
    torch.testing.assert_close(torch.from_numpy(got), module(x).detach(), rtol=torch.finfo(dtype).eps, atol=atol)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["rms_norm", "scale_norm", "detach_norm"])
def test_inductor_runs_the_operator(name: str) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH, dtype=torch.float64), make(name), nn.Tanh())
    x = sample(5, WIDTH)
    got = gradients(torch.compile(model, fullgraph=True), model, x)
    for a, b in zip(got, gradients(model, model, x), strict=True):
        torch.testing.assert_close(a, b, **SAME)
