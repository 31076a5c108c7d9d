"""Our subclasses of torch's modules do what torch's tests ask of torch's modules, or refuse it in a sentence."""

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.fusion import fuse_linear_bn_eval
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.testing._internal.common_modules import ModuleInfo, module_db

from normscope.norms import NORMS, BatchNorm, ChannelsFirst, LayerNorm, RMSNorm

KNOWN: dict[type[nn.Module], ModuleInfo] = {info.module_cls: info for info in module_db}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def calls(of: type[nn.Module], dtype: torch.dtype, training: bool) -> Iterator[tuple[Any, dict[str, Any], Tensor]]:
    """Yield the constructor arguments and the input of every case that torch tests a module with."""
    info: Any = KNOWN[of]
    for case in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
        (x,) = case.forward_input.args
        yield case.constructor_input.args, case.constructor_input.kwargs, x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("torchs", "ours"), [(nn.LayerNorm, LayerNorm), (nn.RMSNorm, RMSNorm)])
def test_torchs_cases_of_the_norms_of_rows(torchs: Any, ours: Any, dtype: torch.dtype, training: bool) -> None:
    # A rounding of the output; the sums inside may have another order.
    rtol = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2**-7}[dtype]
    for args, settings, x in calls(torchs, dtype, training):
        theirs, mine = torchs(*args, **settings, dtype=dtype), ours(*args, **settings, dtype=dtype)
        for parameter in theirs.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        mine.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(mine.state_dict())
        want, got = theirs(x), mine(x)
        torch.testing.assert_close(got, want, rtol=rtol, atol=10 * rtol)
        if dtype == torch.float64:
            upstream = torch.randn_like(want)
            gradients = [
                torch.autograd.grad(y, (x, *m.parameters()), upstream) for y, m in ((want, theirs), (got, mine))
            ]
            torch.testing.assert_close(gradients[1], gradients[0], rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("torchs", BATCH_NORMS)
def test_torchs_cases_of_batch_norm(torchs: Any, training: bool) -> None:
    for args, settings, x in calls(torchs, torch.float64, training):
        theirs = torchs(*args, **settings, dtype=torch.float64).train(training)
        named = dict(zip(("normalized_shape", "eps", "momentum", "affine", "track_running_stats"), args, strict=False))
        ours = ChannelsFirst(BatchNorm(**named, **settings, dtype=torch.float64)).train(training)
        for _ in range(2):
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
        if not x.numel():
            # An empty batch is no batch: ours does not count it.
            continue
        assert list(ours.norm.state_dict()) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.norm.state_dict()[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", NORMS)
def test_complex_numbers_are_refused_with_the_reason(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 8, dtype=dtype)
    with pytest.raises(TypeError, match=rf"expects a floating dtype, got {dtype}: .* torch.view_as_real\(x\)"):
        NORMS[name](8)(x)
    module = NORMS[name](8).to(dtype)
    if list(module.parameters()):
        with pytest.raises(TypeError, match=rf"expects a floating dtype, got parameters of {dtype}"):
            module(x.real.clone())


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization|.*quantize_per_tensor")
@pytest.mark.parametrize("name", NORMS)
def test_quantized_numbers_are_refused(name: str) -> None:
    x = torch.quantize_per_tensor(torch.randn(4, 3, 8), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"expects a floating dtype, got torch\.quint8"):
        NORMS[name](8)(x)


def test_gradients_per_sample_are_those_of_each_sample() -> None:
    x, upstream = torch.randn(4, 3, 8), torch.randn(4, 3, 8)
    for frozen in ((), ("weight",), ("bias",)):
        module = LayerNorm(8)
        for name in frozen:
            module.get_parameter(name).requires_grad_(False)
        call_for_per_sample_grads(module)(x).backward(upstream)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for sample in range(4):
            want = torch.autograd.grad(module(x[sample]), tuple(trained.values()), upstream[sample])
            got = [parameter.grad_sample[sample] for parameter in trained.values()]
            torch.testing.assert_close(got, list(want))


@pytest.mark.parametrize("name", [name for name in NORMS if name != "layer_norm" and list(NORMS[name](8).parameters())])
def test_gradients_per_sample_that_torch_cannot_take_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="Expanded Weights encountered but cannot handle"):
        call_for_per_sample_grads(NORMS[name](8))(torch.randn(4, 3, 8))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(64, 8, generator=generator) + 5 for _ in range(5)]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_update_bn_takes_the_moments_of_all_batches(momentum: float | None) -> None:
    outputs = []
    for kind in (nn.BatchNorm1d, BatchNorm):
        mean = AveragedModel(nn.Sequential(kind(8, momentum=momentum)))
        mean(100 * torch.randn(16, 8))
        update_bn(batches(), mean)
        assert mean.module[0].momentum == momentum
        outputs.append(mean.eval()(torch.cat(batches())))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(outputs[1].mean(0), torch.zeros(8), rtol=0, atol=1e-4)


def test_running_moments_are_reset_and_parameters_stay() -> None:
    module = BatchNorm(8)
    nn.init.uniform_(module.weight)
    weight = module.weight.detach().clone()
    module(torch.randn(16, 8))
    module.reset_running_stats()
    assert (module.running_mean.tolist(), module.running_var.tolist()) == ([0.0] * 8, [1.0] * 8)
    assert module.num_batches_tracked == 0
    assert torch.equal(module.weight, weight)
    untracked = BatchNorm(8, track_running_stats=False)
    untracked.reset_running_stats()
    assert untracked.running_mean is None


@pytest.mark.parametrize("momentum", [0.1, None])
def test_moments_that_are_no_longer_tracked_stay_as_they_are_and_serve_in_evaluation(momentum: float | None) -> None:
    x = torch.randn(16, 8, dtype=torch.float64)
    outputs = []
    for kind in (nn.BatchNorm1d, BatchNorm):
        module = kind(8, momentum=momentum, dtype=torch.float64)
        module(x)
        module.track_running_stats = False
        module(3 * x + 1)
        assert module.num_batches_tracked == 1
        outputs.append((module.running_mean.clone(), module.running_var.clone(), module.eval()(x)))
    torch.testing.assert_close(outputs[1], outputs[0])


def test_functorch_takes_the_moments_away() -> None:
    twin = torch.func.replace_all_batch_norm_modules_(nn.Sequential(BatchNorm(8)))
    x = torch.randn(5, 4, 3, 8)
    assert twin[0].running_mean is None
    assert not twin[0].track_running_stats
    # Moments per sample of vmap, in another order of the sums.
    torch.testing.assert_close(torch.vmap(twin)(x), torch.stack([twin(one) for one in x]), rtol=1e-5, atol=1e-5)
    assert "track_running_stats=False" in repr(twin)


@pytest.mark.parametrize("wrapped", [False, True])
def test_conversions_that_put_the_features_on_axis_1_are_refused(wrapped: bool) -> None:
    module = ChannelsFirst(BatchNorm(8)) if wrapped else BatchNorm(8)
    for change in (
        nn.SyncBatchNorm.convert_sync_batchnorm,
        lambda model: fuse_linear_bn_eval(nn.Linear(8, 8).eval(), model[1].norm if wrapped else model[1]),
    ):
        model = nn.Sequential(nn.Linear(8, 8), module).eval()
        with pytest.raises(AttributeError, match=r"features on the last axis and no num_features.*SyncBatchNorm"):
            change(model)
    assert model[1] is module


def test_old_state_dicts_without_a_count_of_batches_are_loaded() -> None:
    module, saved = BatchNorm(8), io.BytesIO()
    torch.save(nn.BatchNorm1d(8).state_dict(), saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = 1
    module.load_state_dict(state)
    assert module.num_batches_tracked == 0


def test_copies_have_moments_of_their_own() -> None:
    module = BatchNorm(8)
    twin = copy.deepcopy(module)
    twin(torch.randn(16, 8))
    assert module.num_batches_tracked == 0
    assert isinstance(twin, nn.modules.batchnorm._BatchNorm)
