"""Dispatch: a norm of plain tensors is computed by a kernel, any other by its definition."""

import contextlib
import copy
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from normscope.kernels import dispatch, fused
from normscope.kernels.formula import CENTER, ROOT
from normscope.norms import AdaNorm, DetachNorm, LayerNorm, LayerNormSimple, RMSNorm, ScaleNorm

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


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (5, WIDTH), generator=generator, dtype=torch.float64).to(dtype)


def make(name: str, dtype: torch.dtype = torch.float64, **settings: object) -> nn.Module:
    """Build a norm whose parameters are not ones and zeros."""
    module = MODULES[name](WIDTH, dtype=dtype, **settings)
    with torch.no_grad():
        for at, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * sample(*parameter.shape, seed=10 + at))
    return module


def twin(module: nn.Module) -> nn.Module:
    """Return the same norm, computed by its definition."""
    other = copy.deepcopy(module)
    other.backend = "eager"
    return other


def kernels_run(body: object) -> int:
    """Count the calls of the C++ function, which writes its name into a profile."""
    with warnings.catch_warnings():
        # The profiler warns when it starts: of torch 2.11 always, of later versions when it restarts.
        warnings.simplefilter("ignore")
        with profile() as seen:
            body()  # type: ignore[operator]
    return sum(one.count for one in seen.key_averages() if one.key == "normscope::norm")


@every_module
def test_plain_tensors_go_through_the_kernel_and_backend_eager_does_not(name: str) -> None:
    module = make(name)
    assert kernels_run(lambda: module(sample())) == 1
    assert kernels_run(lambda: module(sample(), sample(seed=1))) == 1
    assert kernels_run(lambda: twin(module)(sample())) == 0
    torch.testing.assert_close(module(sample()), twin(module)(sample()), **SAME)


@every_module
@pytest.mark.parametrize("inputs", ["numbers", "with a residual"])
def test_the_python_way_without_a_compiler_computes_the_same(name: str, inputs: str) -> None:
    module = make(name)
    tensors = [sample()] if inputs == "numbers" else [sample(), sample(seed=1)]
    want = module(*tensors)
    from normscope.kernels.backends import cpu

    bare = copy.copy(cpu.load())
    object.__setattr__(bare, "call", None)
    with mock.patch.object(dispatch, "_call", None), mock.patch.object(cpu, "load", return_value=bare):
        got = module(*tensors)
        # And what is not for a kernel is not for this way either.
        dual = jvp(module, (sample(),), (sample(seed=2),))[1]
        batched = vmap(module)(sample(3, 5, WIDTH))
        with forward_ad.dual_level():
            entered = forward_ad.unpack_dual(module(forward_ad.make_dual(sample(), sample(seed=2)))).tangent
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert entered is not None
    torch.testing.assert_close(entered, dual, **SAME)
    torch.testing.assert_close(dual, jvp(twin(module), (sample(),), (sample(seed=2),))[1], **SAME)
    torch.testing.assert_close(batched, module(sample(3, 5, WIDTH)), **SAME)


ADDED, UPSTREAM = sample(seed=8), sample(seed=9)


def projected(module: nn.Module, x: Tensor, residual: bool = False) -> Tensor:
    """Compute a number from one row or several, with randomness that every transform supports."""
    added, upstream = (one[: len(x)] if x.dim() > 1 else one[0] for one in (ADDED, UPSTREAM))
    z = module(x, added) if residual else module(x)
    out = z[0] + z[1].square() if residual else z
    return (out * upstream).sum()


@every_module
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_transforms_of_functions_differentiate_the_definition(name: str, residual: bool) -> None:
    module = make(name)
    transforms = {
        "grad": lambda f: grad(f)(sample()),
        "vmap of grad": lambda f: vmap(grad(f))(sample()),
        "jvp": lambda f: jvp(f, (sample(),), (sample(seed=1),))[1],
        "jacrev": lambda f: jacrev(f)(sample()),
        "jacfwd": lambda f: jacfwd(f)(sample()),
        "hessian": lambda f: hessian(f)(sample(2, WIDTH)),
        "grad of grad": lambda f: grad(lambda x: (grad(f)(x) ** 2).sum())(sample()),
    }
    for transform in transforms.values():
        ours, theirs = (transform(lambda x, by=by: projected(by, x, residual)) for by in (module, twin(module)))
        torch.testing.assert_close(ours, theirs, **SAME)


@every_module
def test_first_derivatives_of_the_transforms_are_those_of_the_kernel(name: str) -> None:
    module = make(name)
    x = sample().requires_grad_()
    (want,) = torch.autograd.grad(projected(module, x), x)
    torch.testing.assert_close(grad(lambda x: projected(module, x))(sample()), want, **SAME)
    torch.testing.assert_close(jacrev(lambda x: projected(module, x))(sample()), want, **SAME)
    torch.testing.assert_close(jacfwd(lambda x: projected(module, x))(sample()), want, **SAME)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "scale_norm"])
def test_per_sample_gradients_of_the_parameters_are_those_of_a_loop(name: str) -> None:
    module, x, upstream = make(name), sample(4, 3, WIDTH), sample(3, WIDTH, seed=1)

    def loss(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return (functional_call(module, parameters, (one,)) * upstream).sum()

    parameters = dict(module.named_parameters())
    got = vmap(grad(loss), (None, 0))({key: one.detach() for key, one in parameters.items()}, x)
    for at, one in enumerate(x):
        want = torch.autograd.grad(loss(parameters, one), list(parameters.values()))
        for key, gradient in zip(parameters, want, strict=True):
            torch.testing.assert_close(got[key][at], gradient, **SAME)


def test_an_ensemble_is_a_map_over_the_parameters() -> None:
    modules = [make("layer_norm") for _ in range(3)]
    with torch.no_grad():
        for at, one in enumerate(modules):
            one.weight.mul_(at + 1)
    stacked, _ = torch.func.stack_module_state(modules)
    got = vmap(lambda state, x: functional_call(modules[0], state, (x,)), (0, None))(stacked, sample())
    for one, want in zip(got, modules, strict=True):
        torch.testing.assert_close(one, want(sample()), **SAME)


@every_module
def test_forward_mode_sees_the_tangent_of_any_argument(name: str) -> None:
    module = make(name)
    for of in ("x", "residual"):
        tangents = []
        for one in (module, twin(module)):
            with forward_ad.dual_level():
                given = {"x": sample(), "residual": sample(seed=1)}
                given[of] = forward_ad.make_dual(given[of], sample(seed=2))
                z, total = one(given["x"], given["residual"])
                tangents.append([forward_ad.unpack_dual(out).tangent for out in (z, total)])
        for ours, theirs in zip(*tangents, strict=True):
            assert ours is not None
            torch.testing.assert_close(ours, theirs, **SAME)


def test_a_tangent_of_the_gain_alone_is_seen() -> None:
    module = make("layer_norm")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(module.weight.detach(), sample(WIDTH, seed=1))
        z = functional_call(module, {"weight": dual}, (sample(),))
        tangent = forward_ad.unpack_dual(z).tangent
    want = (twin(module)(sample()) - module.bias) / module.weight * sample(WIDTH, seed=1)
    torch.testing.assert_close(tangent, want, **SAME)


@every_module
def test_meta_and_fake_tensors_have_shape_and_dtype_and_no_numbers(name: str) -> None:
    module = MODULES[name](WIDTH, device="meta", dtype=torch.bfloat16)
    z, total = module(*(torch.empty(5, WIDTH, device="meta", dtype=torch.bfloat16) for _ in range(2)))
    assert [(one.shape, one.dtype, one.device.type) for one in (z, total)] == [((5, WIDTH), torch.bfloat16, "meta")] * 2
    real = make(name)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(sample())
        z, total = copy.deepcopy(real)(fake, fake)
    assert (type(z), z.shape, z.dtype, z.device.type) == (type(fake), fake.shape, fake.dtype, "cpu")


class Logged(TorchDispatchMode):
    """Records every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@every_module
def test_a_mode_that_logs_operations_misses_none(name: str) -> None:
    module, x, up = make(name), sample().requires_grad_(), sample(seed=1)
    logs = []
    for one in (module, twin(module)):
        with Logged() as log:
            torch.autograd.grad(one(x), x, up)
        logs.append(log.names)
    assert len(logs[0]) > 1
    assert logs[0] == logs[1]


def test_a_mode_that_logs_functions_changes_nothing() -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    module = make("layer_norm")
    with Mode():
        got = module(sample())
    assert torch.equal(got, module(sample()))


class Doubled(torch.Tensor):
    """A tensor subclass that counts its operations."""

    done: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.done.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


@every_module
@pytest.mark.parametrize("which", ["input", "residual", "parameter"])
def test_a_subclass_is_computed_by_operations_that_it_can_see(name: str, which: str) -> None:
    module = make(name)
    x, residual = sample(), sample(seed=1)
    want = module(x, residual)
    if which == "parameter":
        if not hasattr(module, "weight"):
            pytest.skip("has no parameters")
        own = nn.Parameter(module.weight.detach().as_subclass(Doubled))
        module.weight = own
    else:
        x, residual = (
            one.as_subclass(Doubled) if at == which else one for at, one in (("input", x), ("residual", residual))
        )
    Doubled.done.clear()
    got = module(x, residual)
    assert set(Doubled.done) - {"__get__"}
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.as_subclass(Tensor), b, **SAME)


@every_module
def test_views_with_lazy_bits_and_other_layouts_are_right(name: str) -> None:
    module = make(name)
    complex_x = torch.complex(sample(), sample(seed=1))
    negative = complex_x.conj().imag
    assert negative.is_neg()
    torch.testing.assert_close(module(negative), module(-sample(seed=1)), **SAME)
    zero = torch._efficientzerotensor((5, WIDTH), dtype=torch.float64)
    torch.testing.assert_close(module(zero), module(torch.zeros(5, WIDTH, dtype=torch.float64)), **SAME)


@every_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_output_has_the_dtype_of_the_input_under_autocast_and_with_any_parameters(
    name: str, dtype: torch.dtype
) -> None:
    for parameters in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        module = make(name, parameters)
        x, residual = sample(dtype=dtype).requires_grad_(), sample(seed=1, dtype=dtype).requires_grad_()
        for autocast in (
            contextlib.nullcontext(),
            torch.autocast("cpu", torch.bfloat16),
            torch.autocast("cpu", torch.float16),
        ):
            with autocast:
                z, total = module(x, residual)
            assert (z.dtype, total.dtype) == (dtype, dtype)
            up = sample(seed=2, dtype=dtype)
            wanted = [x, residual, *module.parameters()]
            got = torch.autograd.grad(z, wanted, up)
            assert [one.dtype for one in got] == [one.dtype for one in wanted]
            wide = copy.deepcopy(twin(module)).double()
            leaf = total.detach().double().requires_grad_()
            right = wide(leaf)
            grads = torch.autograd.grad(right, [leaf, *wide.parameters()], up.double())
            for a, b in zip([z, got[1], *got[2:]], [right, *grads], strict=True):
                unit = torch.finfo(a.dtype).eps + 32 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
                assert (a.double() - b).abs().max() <= unit * b.abs().max()


@every_module
def test_twins_from_pickles_and_copies_learn_the_same(name: str) -> None:
    module = make(name)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), twin(module)):
        x, z = sample().requires_grad_(), []
        for one in (module, other):
            z.append(torch.autograd.grad(one(x), [x, *one.parameters()], sample(seed=1)))
        for a, b in zip(*z, strict=True):
            torch.testing.assert_close(a, b, **SAME)
    assert pickle.loads(pickle.dumps(module)).backend is None


@every_module
def test_what_came_out_can_be_copied_pickled_and_changed(name: str) -> None:
    z = make(name)(sample())
    assert torch.equal(pickle.loads(pickle.dumps(z.detach())), z)
    assert torch.equal(copy.deepcopy(z.detach()), z)
    assert z._base is None
    assert z.is_contiguous()


def test_parameters_shared_by_two_modules_get_the_sum_of_their_gradients() -> None:
    one, other = make("layer_norm"), make("layer_norm")
    other.weight, other.bias = one.weight, one.bias
    x, up = sample(), sample(seed=1)
    other(one(x)).backward(up)
    got = [one.weight.grad, one.bias.grad]
    lone = [twin(one) for _ in range(2)]
    lone[1](lone[0](x)).backward(up)
    for at, key in enumerate(("weight", "bias")):
        torch.testing.assert_close(got[at], sum(getattr(each, key).grad for each in lone), **SAME)


def test_one_norm_may_be_used_twice_in_a_graph() -> None:
    found = []
    for module in (one := make("layer_norm"), twin(one)):
        x = sample().requires_grad_()
        found.append(torch.autograd.grad(module(module(x) * 2 + x), [x, *module.parameters()], sample(seed=1)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **SAME)


def test_threads_may_call_at_once_forward_and_backward() -> None:
    module = make("layer_norm", torch.float32)
    start = threading.Barrier(4)

    def work(seed: int) -> list[Tensor]:
        start.wait()
        out = []
        for again in range(12):
            x = sample(300, WIDTH * 1, seed=seed, dtype=torch.float32).requires_grad_()
            z = module(x)
            out = [
                z,
                *torch.autograd.grad(z, [x, *module.parameters()], z.detach().flip(0), create_graph=again % 2 == 1),
            ]
        return out

    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(work, range(4)))
    start = threading.Barrier(1)
    for seed, got in enumerate(at_once):
        for a, b in zip(got, work(seed), strict=True):
            assert torch.equal(a, b)


def test_one_graph_may_be_walked_by_threads_at_once() -> None:
    module, x = make("layer_norm"), sample(64, WIDTH).requires_grad_()
    z = module(x)

    def work(seed: int) -> Tensor:
        up = sample(64, WIDTH, seed=seed)
        return torch.autograd.grad(z, x, up, retain_graph=True, create_graph=seed % 2 == 1)[0]

    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(work, range(16)))
    for seed, got in enumerate(at_once):
        torch.testing.assert_close(got, work(seed), **SAME)


@every_module
def test_a_default_device_of_another_kind_leaves_tensors_where_they_are(name: str) -> None:
    module, x = make(name), sample().requires_grad_()
    want = torch.autograd.grad(module(x), x, sample(seed=1))[0]
    with torch.device("meta"):
        z = module(x)
        assert z.device.type == "cpu"
        for again in (False, True):
            (got,) = torch.autograd.grad(z, x, sample_on_cpu(), retain_graph=True, create_graph=again)
            assert got.device.type == "cpu"
            torch.testing.assert_close(got, want, **SAME)


def sample_on_cpu() -> Tensor:
    with torch.device("cpu"):
        generator = torch.Generator("cpu").manual_seed(1)
        return torch.randn(5, WIDTH, generator=generator, dtype=torch.float64)


def test_a_default_dtype_of_float64_changes_nothing() -> None:
    module, x = make("layer_norm", torch.float32), sample(dtype=torch.float32).requires_grad_()
    want = [module(x), *torch.autograd.grad(module(x), [x, *module.parameters()], sample(seed=1, dtype=torch.float32))]
    torch.set_default_dtype(torch.float64)
    try:
        got = [module(x), *torch.autograd.grad(module(x), [x, *module.parameters()], sample(seed=1).float())]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_deterministic_algorithms_leave_no_memory_unwritten() -> None:
    module, x = make("layer_norm", torch.bfloat16), sample(1000, WIDTH, dtype=torch.bfloat16).requires_grad_()
    want = [
        module(x),
        *torch.autograd.grad(module(x), [x, *module.parameters()], sample(1000, WIDTH, dtype=torch.bfloat16)),
    ]
    torch.use_deterministic_algorithms(True)
    try:
        got = [
            module(x),
            *torch.autograd.grad(module(x), [x, *module.parameters()], sample(1000, WIDTH, dtype=torch.bfloat16)),
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("given", ["gain", "bias"])
def test_parameters_of_another_shape_are_left_to_the_definition(given: str) -> None:
    """An equal number of entries is not sufficient: torch refuses a weight of [1, 7] for rows of 7."""
    wrong = torch.ones(1, WIDTH, dtype=torch.float64)
    weight, bias = (wrong, None) if given == "gain" else (None, wrong)
    assert fused(sample(), (WIDTH,), weight, bias, None, CENTER | ROOT, 1e-5) is None


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.ones(5, 8)},
        {"x": torch.ones(())},
        {"x": torch.ones(5, WIDTH, dtype=torch.int64)},
        {"x": torch.ones(5, WIDTH, dtype=torch.complex64)},
        {"weight": torch.ones(8)},
        {"weight": torch.ones(WIDTH, dtype=torch.float64)},
        {"bias": torch.ones(WIDTH, dtype=torch.int32)},
        {"residual": torch.ones(4, WIDTH)},
        {"residual": torch.ones(5, WIDTH, dtype=torch.float64)},
        {"weight": torch.ones(WIDTH, device="meta")},
        {"x": torch.ones(5, WIDTH).to_sparse()},
    ],
    ids=lambda change: ", ".join(f"{key} {one.dtype} {list(one.shape)} {one.layout}" for key, one in change.items()),
)
def test_what_does_not_fit_is_left_to_the_definition(change: dict[str, Tensor]) -> None:
    given = {"x": torch.ones(5, WIDTH), "weight": torch.ones(WIDTH), "bias": None, "residual": None, **change}
    for backend in (None, "cpu"):
        out = fused(
            given["x"],
            (WIDTH,),
            given["weight"],
            given["bias"],
            given["residual"],
            CENTER | ROOT,
            1e-5,
            backend=backend,
        )
        assert out is None


def test_tracing_writes_operations_that_anyone_can_run() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    module = make("layer_norm")
    graph = make_fx(module)(sample())
    assert not any("normscope" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph(sample(seed=1)), module(sample(seed=1)), **SAME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, (sample(),))
    torch.testing.assert_close(traced(sample(9, WIDTH, seed=1)), module(sample(9, WIDTH, seed=1)), **SAME)
