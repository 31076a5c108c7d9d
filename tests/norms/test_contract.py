"""What every norm promises, whatever it computes."""

import copy
import inspect
import pickle
import re

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad
from torch.nn import functional as F

from normscope.norms import NORMS
from support.made_norms import MIXES_POSITIONS

WIDTH = 7
SHAPE = (5, 3, WIDTH)

DETACHED = {"detach_norm", "ada_norm"}
"""The backward pass is not the derivative of the forward pass, by definition."""
MIXES_ROWS = {"batch_norm", *MIXES_POSITIONS}
"""The statistics of a row come from other rows, by definition."""
MIXES_SAMPLES = {"batch_norm"}
WITHOUT_EPS = {"none", "dyt", "derf"}

WITHOUT_EPS = ("none", "dyt", "derf")

every_norm = pytest.mark.parametrize("name", NORMS)


def make(name: str, shape: int | tuple[int, ...] = WIDTH, dtype: torch.dtype = torch.float64, **settings) -> nn.Module:
    """Build a norm whose parameters are away from ones and zeros, so that one that is ignored is seen."""
    module = NORMS[name](shape, dtype=dtype, **settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.3)
    return module


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or SHAPE, generator=generator, dtype=torch.float64).to(dtype)


def call(module: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
    names = [name for name, _ in module.named_parameters()]
    return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))


def input_gradient(module: nn.Module, x: Tensor, upstream: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x), x, upstream)
    return gradient


@every_norm
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_keeps_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    x = sample(dtype=dtype).requires_grad_()
    y = make(name, dtype=torch.float32)(x)
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert (y.shape, y.dtype) == (gradient.shape, gradient.dtype) == (x.shape, dtype)


@every_norm
def test_takes_any_leading_axes(name: str) -> None:
    module = make(name).eval()
    x = sample(2, 5, 3, WIDTH)
    want = torch.stack([module(part) for part in x])
    if name in MIXES_POSITIONS:
        x = x.flatten(0, 1)
        want = want.flatten(0, 1)
    torch.testing.assert_close(module(x), want, rtol=0, atol=8 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("name", [name for name in NORMS if name not in DETACHED])
def test_first_derivatives_are_those_of_finite_differences(name: str) -> None:
    module = make(name)
    inputs = [t.detach().requires_grad_() for t in (sample(3, 2, WIDTH), *module.parameters())]
    assert gradcheck(lambda *tensors: call(module, *tensors), inputs)


@pytest.mark.parametrize("name", [name for name in NORMS if name not in DETACHED])
def test_second_derivatives_are_those_of_finite_differences(name: str) -> None:
    module = make(name)
    inputs = [t.detach().requires_grad_() for t in (sample(3, 2, WIDTH), *module.parameters())]
    assert gradgradcheck(lambda *tensors: call(module, *tensors), inputs)


def detached_surrogate(name: str, x: Tensor) -> Tensor:
    """Return torch's own arithmetic with what the definition calls a constant written in as numbers."""
    simple = F.layer_norm(x, (WIDTH,))
    if name == "ada_norm":
        return (1 - 0.1 * simple.detach()) * simple
    variance, mean = (t.detach() for t in torch.var_mean(x, -1, correction=0, keepdim=True))
    return (x - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize("name", sorted(DETACHED))
def test_derivatives_of_both_orders_treat_what_is_detached_as_numbers(name: str) -> None:
    module = make(name)
    upstream, probe = sample(seed=1).requires_grad_(), sample(seed=2)
    x = sample().requires_grad_()
    first, second = {}, {}
    for side, function in (("ours", module), ("theirs", lambda t: detached_surrogate(name, t))):
        (first[side],) = torch.autograd.grad(function(x), x, upstream, create_graph=True)
        second[side] = torch.autograd.grad(first[side], (x, upstream), probe, materialize_grads=True, allow_unused=True)
    # Double rounding in sums of seven terms of order one.
    torch.testing.assert_close(first["ours"], first["theirs"], rtol=0, atol=1e-13)
    torch.testing.assert_close(second["ours"], second["theirs"], rtol=0, atol=1e-13)


@every_norm
def test_a_row_depends_on_other_rows_only_where_the_definition_says_so(name: str) -> None:
    module = make(name)
    x = sample()
    changed = x.clone()
    changed[0, 0] += sample(WIDTH, seed=1)
    same = torch.equal(module(x)[0, 1:], module(changed)[0, 1:])
    assert same == (name not in MIXES_ROWS)


@every_norm
def test_a_sample_depends_on_other_samples_only_where_the_definition_says_so(name: str) -> None:
    module = make(name)
    x = sample()
    changed = x.clone()
    changed[0] += sample(3, WIDTH, seed=1)
    same = torch.equal(module(x)[1:], module(changed)[1:])
    assert same == (name not in MIXES_SAMPLES)


@every_norm
def test_strides_do_not_matter(name: str) -> None:
    module = make(name)
    wide = sample(3, 2 * WIDTH, 5)
    views = [
        wide[:, ::2].permute(2, 0, 1),
        sample(WIDTH, 3, 5).permute(2, 1, 0),
        sample(1, 3, WIDTH).expand(5, 3, WIDTH),
        sample(10, 3, WIDTH).flip(2)[::2],
    ]
    for x in views:
        dense = x.contiguous()
        # Another layout may be summed in another order.
        atol = 16 * torch.finfo(torch.float64).eps
        torch.testing.assert_close(module(x), module(dense), rtol=0, atol=atol)
        upstream = sample(seed=1)
        torch.testing.assert_close(
            input_gradient(module, x, upstream), input_gradient(module, dense, upstream), rtol=0, atol=10 * atol
        )


@every_norm
@pytest.mark.parametrize("shape", [(0, 3, WIDTH), (5, 0, WIDTH)])
def test_an_empty_batch_gives_an_empty_output_and_zero_parameter_gradients(name: str, shape: tuple[int, ...]) -> None:
    module = make(name)
    before = copy.deepcopy(module.state_dict())
    y = module(torch.empty(shape, dtype=torch.float64, requires_grad=True))
    y.backward(torch.empty_like(y))
    assert y.shape == shape
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.parameters())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        (name, value, dtype)
        for name in NORMS
        for value in (0.0, 3.0, -1e4)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        # Its derivative at zero, g / eps, is above the range of float16: the test below.
        if (name, value, dtype) != ("scale_norm", 0.0, torch.float16)
    ],
)
def test_constant_rows_stay_finite_forward_and_backward(name: str, value: float, dtype: torch.dtype) -> None:
    module = make(name, dtype=torch.float32)
    x = torch.full(SHAPE, value, dtype=dtype, requires_grad=True)
    y = module(x)
    y.backward(sample(dtype=dtype))
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_the_derivative_of_scale_norm_at_zero_is_the_gain_over_eps() -> None:
    module = make("scale_norm", dtype=torch.float32)
    x = torch.zeros(SHAPE, requires_grad=True)
    upstream = sample(dtype=torch.float32)
    module(x).backward(upstream)
    want = upstream * module.weight.detach() / module.eps
    torch.testing.assert_close(x.grad, want)
    assert want.abs().max() > torch.finfo(torch.float16).max


@every_norm
def test_every_norm_is_made_as_torchs_layer_norm_is(name: str) -> None:
    for shape in (WIDTH, (WIDTH,), [3, WIDTH]):
        module = NORMS[name](shape, 1e-3, device="cpu", dtype=torch.float64)
        assert all(parameter.dtype == torch.float64 for parameter in module.parameters())
        assert NORMS[name](shape, eps=1e-3).normalized_shape == module.normalized_shape
    with pytest.raises(ValueError, match=r"eps must be finite and at least 0, got -1e-05"):
        NORMS[name](WIDTH, eps=-1e-5)


@every_norm
def test_a_large_mean_costs_no_more_than_its_own_rounding(name: str) -> None:
    module = make(name, dtype=torch.float32)
    x = 1e4 + sample(dtype=torch.float32)
    want = copy.deepcopy(module).double()(x.double())
    # Float32 holds a mean of 1e4 to one ulp; deviations are of order one and no gain of ours exceeds five.
    atol = 5 * torch.finfo(torch.float32).eps * 1e4
    torch.testing.assert_close(module(x).double(), want, rtol=torch.finfo(torch.float32).eps, atol=atol)


@every_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parameters", ["wide", "narrow"])
def test_half_precision_is_the_float64_result_rounded_once(name: str, dtype: torch.dtype, parameters: str) -> None:
    module = make(name, dtype=torch.float32 if parameters == "wide" else dtype)
    x = sample(8, 4, WIDTH, dtype=dtype)
    want = copy.deepcopy(module).double()(x.double()).to(dtype)
    # The float32 inside may tip a rounding by one spacing; next to zero, sums leave a few of float32's own.
    torch.testing.assert_close(module(x), want, rtol=torch.finfo(dtype).eps, atol=32 * torch.finfo(torch.float32).eps)


@every_norm
def test_half_precision_gradients_are_those_of_float64(name: str) -> None:
    module = make(name, dtype=torch.float32)
    x, upstream = sample(dtype=torch.bfloat16), sample(seed=1, dtype=torch.bfloat16)
    want = input_gradient(copy.deepcopy(module).double(), x.double(), upstream.double())
    got = input_gradient(module, x, upstream).double()
    # One rounding of the gradient; it may be the difference of numbers as large as the largest.
    assert (got - want).abs().max() <= torch.finfo(torch.bfloat16).eps * want.abs().max()


@every_norm
def test_every_parameter_receives_a_gradient(name: str) -> None:
    module = make(name)
    y = module(sample().requires_grad_())
    y.backward(sample(seed=1))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@every_norm
def test_refuses_a_wrong_width(name: str) -> None:
    module = make(name)
    with pytest.raises(ValueError, match=rf"{type(module).__name__}\(.*expects \[\.\.\., 7\], got \[5, 3, 8\]"):
        module(sample(5, 3, 8))
    with pytest.raises(ValueError, match=r"expects \[\.\.\., 7\], got \[\]"):
        module(torch.tensor(1.0))


@every_norm
def test_refuses_integers(name: str) -> None:
    with pytest.raises(TypeError, match=r"expects a floating dtype, got torch\.int64"):
        make(name)(torch.ones(SHAPE, dtype=torch.int64))


@every_norm
@pytest.mark.parametrize("shape", [0, -1, (), (3, 0)])
def test_refuses_a_shape_without_entries(name: str, shape: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"sizes of at least 1, got {re.escape(str(shape))}"):
        NORMS[name](shape)


@pytest.mark.parametrize("name", [name for name in NORMS if name not in WITHOUT_EPS])
@pytest.mark.parametrize("eps", [-1e-5, float("nan"), float("inf")])
def test_refuses_an_eps_that_is_no_eps(name: str, eps: float) -> None:
    with pytest.raises(ValueError, match=rf"eps must be finite and at least 0, got {eps}"):
        NORMS[name](WIDTH, eps=eps)


@every_norm
def test_several_axes_are_one_long_axis(name: str) -> None:
    folded, flat = make(name, (3, WIDTH)), make(name, 3 * WIDTH)
    with torch.no_grad():
        for theirs, ours in zip(flat.parameters(), folded.parameters(), strict=True):
            theirs.copy_(ours.reshape(theirs.shape))
    x, upstream = sample(5, 4, 3, WIDTH), sample(5, 4, 3, WIDTH, seed=1)
    # Sums of twenty-one terms of order one, possibly in another order.
    atol = 64 * torch.finfo(torch.float64).eps
    torch.testing.assert_close(folded(x).flatten(-2), flat(x.flatten(-2)), rtol=0, atol=atol)
    want = input_gradient(flat, x.flatten(-2), upstream.flatten(-2))
    torch.testing.assert_close(input_gradient(folded, x, upstream).flatten(-2), want, rtol=0, atol=atol)


@every_norm
def test_a_list_or_a_size_is_a_shape(name: str) -> None:
    for shape in (WIDTH, [WIDTH], torch.Size([WIDTH])):
        assert tuple(NORMS[name](shape).normalized_shape) == (WIDTH,)


@every_norm
def test_parameters_are_made_where_and_as_asked(name: str) -> None:
    module = NORMS[name](WIDTH, device="meta", dtype=torch.float64)
    floating = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    assert all(t.device.type == "meta" and t.dtype == torch.float64 for t in floating)
    y = module(torch.empty(SHAPE, device="meta", dtype=torch.float64))
    assert (y.shape, y.device.type) == (SHAPE, "meta")


@every_norm
def test_parameters_start_the_same_after_a_reset(name: str) -> None:
    module = make(name)
    fresh = NORMS[name](WIDTH, dtype=torch.float64)
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
    assert all(torch.equal(module.state_dict()[key], value) for key, value in fresh.state_dict().items())


@every_norm
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    module = make(name).eval()
    x = sample()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
        assert repr(twin) == repr(module)


@every_norm
def test_the_representation_names_every_setting(name: str) -> None:
    settings = set(inspect.signature(NORMS[name]).parameters) - {"device", "dtype", "normalized_shape"}
    text = repr(NORMS[name](WIDTH))
    assert "(7,)" in text
    if name in WITHOUT_EPS:
        # They take an eps, to be made as the others are, and have none.
        assert "eps=" not in text
        settings.remove("eps")
    assert [setting for setting in settings if f"{setting}=" not in text] == []


@every_norm
def test_compiles_into_one_graph(name: str) -> None:
    torch.compiler.reset()
    module = make(name)
    x, upstream = sample(), sample(seed=1)
    want, want_gradient = module(x), input_gradient(module, x, upstream)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    # The traced graph may sum in another order.
    torch.testing.assert_close(compiled(x), want, rtol=0, atol=1e-14)
    torch.testing.assert_close(input_gradient(compiled, x, upstream), want_gradient, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize("name", ["layer_norm", "ada_norm", "batch_norm"])
def test_compiles_with_inductor(name: str) -> None:
    torch.compiler.reset()
    module = make(name)
    x, upstream = sample(), sample(seed=1)
    want, want_gradient = module(x), input_gradient(module, x, upstream)
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(compiled(x), want, rtol=0, atol=1e-14)
    torch.testing.assert_close(input_gradient(compiled, x, upstream), want_gradient, rtol=0, atol=1e-13)


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_autocast_changes_nothing(name: str, dtype: torch.dtype) -> None:
    module = make(name, dtype=torch.float32)
    x = sample(dtype=dtype)
    want = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = module(x)
    assert got.dtype == dtype
    assert torch.equal(got, want)


@every_norm
def test_vmap_is_a_loop(name: str) -> None:
    module = make(name).eval()
    x, upstream = sample(4, *SHAPE), sample(*SHAPE, seed=1)

    def projected(row: Tensor) -> Tensor:
        return (module(row) * upstream).sum()

    # A batched kernel may sum in another order.
    atol = 64 * torch.finfo(torch.float64).eps
    torch.testing.assert_close(torch.vmap(module)(x), torch.stack([module(t) for t in x]), rtol=0, atol=atol)
    want = torch.stack([input_gradient(module, t, upstream) for t in x])
    torch.testing.assert_close(torch.vmap(grad(projected))(x), want, rtol=0, atol=atol)
