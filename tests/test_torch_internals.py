"""What the package relies on in torch's private names holds on the installed torch."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.utils._python_dispatch import TorchDispatchMode

from normscope import torch_internals


class Holder(nn.Module):
    """A module with a parameter, a saved and an unsaved buffer, a child and an empty place for each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_parameter("bias", None)
        self.register_buffer("saved", torch.zeros(2))
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)
        self.child = nn.Linear(2, 2)
        self.register_module("empty", None)


def test_tables_are_those_of_the_module_and_not_copies() -> None:
    module = Holder()
    assert set(torch_internals.parameters_of(module)) == {"weight", "bias"}
    assert set(torch_internals.buffers_of(module)) == {"saved", "unsaved"}
    assert set(torch_internals.children_of(module)) == {"child", "empty"}
    assert torch_internals.unsaved_buffers_of(module) == {"unsaved"}
    assert vars(module)[torch_internals.CHILDREN_TABLE] is torch_internals.children_of(module)
    torch_internals.parameters_of(module)["bias"] = nn.Parameter(torch.ones(3))
    torch_internals.buffers_of(module)["later"] = torch.ones(4)
    torch_internals.children_of(module)["empty"] = nn.Identity()
    torch_internals.unsaved_buffers_of(module).remove("unsaved")
    assert module.bias is dict(module.named_parameters())["bias"]
    assert module.later.shape == (4,)
    assert isinstance(module.empty, nn.Identity)
    assert {"bias", "later", "unsaved"} <= set(module.state_dict())


def test_a_shallow_copy_shares_its_tables_until_it_is_given_others() -> None:
    module = Holder()
    twin = copy.copy(module)
    tables = (torch_internals.parameters_of, torch_internals.buffers_of, torch_internals.children_of)
    assert all(table(twin) is table(module) for table in tables)
    torch_internals.set_tables(twin, {"weight": nn.Parameter(torch.zeros(2))}, {}, {})
    assert [name for name, _ in twin.named_parameters()] == ["weight"]
    assert twin.weight is not module.weight
    assert len(list(module.named_parameters())) == 3
    assert not list(twin.buffers())


def test_every_kind_of_hook_has_its_table() -> None:
    module = nn.Linear(2, 2)
    assert not any(vars(module)[name] for name in torch_internals.HOOK_TABLES)
    module.register_forward_hook(lambda *_, **__: None, with_kwargs=True, always_call=True)
    module.register_forward_pre_hook(lambda *_, **__: None, with_kwargs=True)
    module.register_full_backward_hook(lambda *_: None)
    module.register_full_backward_pre_hook(lambda *_: None)
    module.register_state_dict_post_hook(lambda *_: None)
    module.register_state_dict_pre_hook(lambda *_: None)
    module.register_load_state_dict_pre_hook(lambda *_: None)
    module.register_load_state_dict_post_hook(lambda *_: None)
    assert all(len(vars(module)[name]) == 1 for name in torch_internals.HOOK_TABLES)
    assert {name for name in vars(nn.Linear(2, 2)) if name.endswith("_hooks")} <= set(torch_internals.HOOK_TABLES)
    assert set(torch_internals.HOOK_TABLES) > torch_internals.CALL_HOOK_TABLES


def test_a_hook_that_gets_its_module_is_bound_to_it() -> None:
    module = nn.Linear(2, 2)
    module.register_load_state_dict_pre_hook(lambda *_: None)
    module.register_forward_hook(lambda *_: None)
    # The public method of the one and the older, private one, which does not bind.
    module._register_load_state_dict_pre_hook(lambda *_: None)
    bound = [torch_internals.is_bound_hook(hook) for hook in vars(module)["_load_state_dict_pre_hooks"].values()]
    assert bound == [True, False]
    assert not any(torch_internals.is_bound_hook(hook) for hook in vars(module)["_forward_hooks"].values())


def test_the_kind_of_backward_hooks_goes_with_a_shared_table() -> None:
    old, new, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    old.register_full_backward_hook(lambda *_: None)
    vars(new)["_backward_hooks"] = vars(old)["_backward_hooks"]
    torch_internals.copy_backward_hook_kind(old, new)
    torch_internals.copy_backward_hook_kind(old, other)
    with pytest.raises(RuntimeError, match="Cannot use both regular backward hooks and full backward hooks"):
        new.register_backward_hook(lambda *_: None)
    other.register_backward_hook(lambda *_: None)


def test_hooks_on_a_gradient_are_seen() -> None:
    plain, before, after = (nn.Parameter(torch.ones(2)) for _ in range(3))
    before.register_hook(lambda gradient: gradient)
    after.register_post_accumulate_grad_hook(lambda parameter: None)
    assert [torch_internals.has_gradient_hooks(one) for one in (plain, before, after)] == [False, True, True]


@pytest.mark.parametrize("kind", [nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyInstanceNorm2d])
def test_lazy_norms_are_told_from_others(kind: type[nn.Module]) -> None:
    assert torch_internals.is_lazy_norm(kind())
    assert not torch_internals.is_lazy_norm(nn.BatchNorm2d(3))
    assert not torch_internals.is_lazy_norm(nn.LazyLinear(3))


def test_both_ways_to_compile_a_module_are_seen() -> None:
    plain, in_place = nn.Linear(2, 2), nn.Linear(2, 2)
    in_place.compile(backend="eager")
    wrapper = torch.compile(plain, backend="eager")
    modules = (plain, in_place, wrapper)
    assert [torch_internals.is_compiled_in_place(one) for one in modules[:2]] == [False, True]
    assert [torch_internals.is_compiled_wrapper(one) for one in modules] == [False, False, True]


def test_the_private_reset_draws_the_parameters() -> None:
    attention = nn.MultiheadAttention(4, 2)
    reset = torch_internals.private_reset_of(attention)
    assert reset is not None
    before = attention.in_proj_weight.detach().clone()
    reset()
    assert not torch.equal(before, attention.in_proj_weight)
    assert torch_internals.private_reset_of(nn.Linear(2, 2)) is None


def test_an_operation_in_place_raises_the_version() -> None:
    x = torch.ones(4)
    before = torch_internals.version_of(x)
    x + 1
    assert torch_internals.version_of(x) == before
    x[:2].mul_(2)
    assert torch_internals.version_of(x) == before + 1


def test_a_zero_without_memory_is_told_from_zeros() -> None:
    assert torch_internals.is_zero_without_memory(torch._efficientzerotensor(3))
    assert not torch_internals.is_zero_without_memory(torch.zeros(3))


def test_torch_func_is_seen_and_its_tensors_too() -> None:
    seen = []

    def note(x: Tensor) -> Tensor:
        seen.append((torch_internals.is_functorch_wrapper(x), torch_internals.functorch_is_active()))
        return x.sum()

    note(torch.ones(2, 3))
    torch.func.vmap(note)(torch.ones(2, 3))
    torch.func.grad(note)(torch.ones(3))
    note(torch.ones(2, 3))
    assert seen == [(False, False), (True, True), (True, True), (False, False)]


def test_forward_mode_is_seen() -> None:
    assert not torch_internals.forward_mode_is_active()
    with forward_ad.dual_level():
        assert torch_internals.forward_mode_is_active()
    assert not torch_internals.forward_mode_is_active()


def test_transforms_are_seen_in_what_is_compiled() -> None:
    def tells(x: Tensor) -> Tensor:
        return x * (1 + torch_internals.functorch_is_active() + 10 * torch_internals.forward_mode_is_active())

    x, compiled = torch.ones(3), {"fullgraph": True, "backend": "eager"}
    assert torch.equal(torch.compile(tells, **compiled)(x), x)
    assert torch.equal(torch.compile(lambda x: torch.func.vmap(tells)(x), **compiled)(x), 2 * x)
    jvp = torch.compile(lambda x: torch.func.jvp(tells, (x,), (x,))[1], **compiled)
    assert torch.equal(jvp(x), 12 * x)


def test_a_dispatch_mode_is_seen() -> None:
    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    assert not torch_internals.dispatch_mode_is_active()
    with Watching():
        assert torch_internals.dispatch_mode_is_active()
    assert not torch_internals.dispatch_mode_is_active()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_jit_tracing_is_seen() -> None:
    seen = []

    def note(x: Tensor) -> Tensor:
        seen.append(torch_internals.is_jit_tracing())
        return x + 1

    note(torch.ones(2))
    torch.jit.trace(note, torch.ones(2), check_trace=False)
    assert seen == [False, True]


def test_a_backward_pass_is_seen() -> None:
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda gradient: seen.append(torch_internals.in_backward()))
    assert not torch_internals.in_backward()
    y.sum().backward()
    assert seen == [True]
    assert not torch_internals.in_backward()


@pytest.mark.parametrize("retain", [False, True])
def test_a_backward_pass_knows_whether_its_graph_is_kept(retain: bool) -> None:
    seen = []
    y = torch.ones(2, requires_grad=True) * 2
    y.register_hook(lambda gradient: seen.append(torch_internals.keeps_graph()))
    y.sum().backward(retain_graph=retain)
    assert seen == [retain]


def test_nodes_are_numbered_as_they_are_made() -> None:
    x = torch.ones(2, requires_grad=True)
    nodes = [x.exp().grad_fn, x.sin().grad_fn, x.cos().grad_fn]
    numbers = [torch_internals.sequence_number(node) for node in nodes]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_node_of_a_convolution_knows_its_groups(groups: int) -> None:
    out = nn.Conv2d(4, 4, 3, groups=groups)(torch.ones(1, 4, 5, 5))
    assert out.grad_fn is not None
    assert out.grad_fn.name() == "ConvolutionBackward0"
    assert torch_internals.convolution_groups(out.grad_fn) == groups


def test_a_marked_function_is_a_constant_of_the_graph() -> None:
    calls = []

    @torch_internals.constant_when_compiled
    def number() -> int:
        # A call into the operating system, which the compiler could not trace.
        calls.append(open("/dev/null").close())
        return 3

    compiled = torch.compile(lambda x: x * number(), fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))
    assert len(calls) == 1


@pytest.mark.slow
def test_compiled_frames_are_counted_without_loading_the_compiler() -> None:
    program = (
        "import sys, torch\n"
        "from normscope.torch_internals import compiled_frames, compiler_is_loaded\n"
        "print(compiled_frames(), 'torch._dynamo' in sys.modules, compiler_is_loaded())\n"
        "torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2))\n"
        "print(compiled_frames(), compiler_is_loaded())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "False", "False", "1", "True"], done.stderr


def test_a_function_is_mapped_over_nested_containers() -> None:
    assert torch_internals.tree_map(lambda x: x + 1, ({"a": 1}, [2, (3,)])) == ({"a": 2}, [3, (4,)])


def test_the_base_class_of_batch_norms_is_what_torch_asks_for() -> None:
    assert issubclass(nn.BatchNorm1d, torch_internals.BatchNormBase)
    assert issubclass(nn.SyncBatchNorm, torch_internals.BatchNormBase)
    assert not issubclass(nn.InstanceNorm1d, torch_internals.BatchNormBase)


def test_a_weight_for_gradients_per_sample_is_known() -> None:
    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch_internals.is_expanded_weight(self.weight))
            return x

    seen: list[bool] = []
    module = Asked()
    call_for_per_sample_grads(module)(torch.ones(2, 3))
    module(torch.ones(2, 3))
    assert seen == [True, False]
    assert not torch_internals.is_expanded_weight(None)


def test_hooks_of_the_forward_pass_are_seen() -> None:
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        module = nn.Linear(2, 2)
        assert not torch_internals.has_forward_hooks(module)
        handle = getattr(module, register)(lambda *_: None)
        assert torch_internals.has_forward_hooks(module)
        handle.remove()
        assert not torch_internals.has_forward_hooks(module)


def test_a_hook_of_all_modules_leaves_no_flag_behind() -> None:
    seen = []
    with torch_internals.global_forward_hook(lambda *call: seen.append(call)):
        nn.Linear(2, 2)(torch.zeros(1, 2))
    assert len(seen) == 1
    nn.Linear(2, 2)(torch.zeros(1, 2))
    assert len(seen) == 1
    # torch warns where a flag is left.
    torch.compile(nn.Linear(2, 2), backend="eager")(torch.zeros(1, 2))
