"""Compiled and wrapped models are refused, with a way out."""

import pytest
import torch
from torch import nn

from normscope.surgery import swap
from normscope.surgery.guards import check_replaceable

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit."),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def module_named(name: str, module: str = "elsewhere") -> nn.Module:
    """Make a module as a library makes it that is not installed here; only its class is looked at."""
    return type(name, (nn.Module,), {"__module__": module})()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: torch.compile(nn.Sequential(nn.LayerNorm(4))), "compiled. Swap in the model that was given to"),
        (lambda: nn.DataParallel(nn.LayerNorm(4)), r"Swap in `model.module`, then wrap it again"),
        (lambda: nn.Sequential(nn.DataParallel(nn.LayerNorm(4))), "its part '0' cannot"),
        (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.LayerNorm(4))), "traced graph.* then torch.export it"),
        (lambda: torch.jit.script(nn.Sequential(nn.LayerNorm(4))), "then torch.export or torch.jit.trace it"),
        (lambda: nn.Sequential(nn.LazyLinear(4), nn.LayerNorm(4)), "its part '0' is lazy, .* run a batch first"),
        (lambda: module_named("FullyShardedDataParallel"), r"sharded \(FSDP\). Swap first"),
        (lambda: module_named("LoraLayer", "peft.tuners.lora"), "PEFT holds it. Swap in the base model"),
    ],
)
def test_refused(model, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_replaceable(model())


def test_a_module_that_compiled_itself() -> None:
    model = nn.Sequential(nn.LayerNorm(4))
    model.compile()
    with pytest.raises(ValueError, match="it is compiled"):
        check_replaceable(model)


def test_fully_sharded_and_data_parallel_for_real(tmp_path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        sharded = torch.distributed.fsdp.fully_shard(nn.Sequential(nn.LayerNorm(4)), mesh=mesh)
        with pytest.raises(ValueError, match="fully_shard"):
            check_replaceable(sharded)
        parallel = nn.parallel.DistributedDataParallel(nn.Sequential(nn.LayerNorm(4)))
        with pytest.raises(ValueError, match="before DistributedDataParallel is made"):
            check_replaceable(parallel)
    finally:
        torch.distributed.destroy_process_group()


def test_no_module() -> None:
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got dict"):
        check_replaceable({})  # pyright: ignore[reportArgumentType]


def test_a_plain_model_passes() -> None:
    check_replaceable(nn.Transformer(8, 2, 1, 1, 8, batch_first=True))


def test_a_lazy_norm_is_only_out_of_reach() -> None:
    report = swap(nn.Sequential(nn.LazyBatchNorm1d(), nn.LayerNorm(4)), "layer_norm", "rms_norm")
    assert [one.name for one in report.unreachable] == ["0"]
    assert any("has lazy parameters" in note for note in report.notes)
    assert (report.parameters_before, report.parameters_after) == (8, 4)


@pytest.mark.parametrize("to", ["layer_norm", "ada_norm", "dyt"])
def test_what_is_said_of_scripts_and_graphs_is_so(to: str) -> None:
    model, x = nn.Sequential(nn.LayerNorm(4)).eval(), torch.randn(3, 4)
    swap(model, "layer_norm", to)
    want = model(x)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), want)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), want)
    with pytest.raises((RuntimeError, torch.jit.frontend.NotSupportedError), match=r"(?s)."):
        torch.jit.script(model)
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(model)
