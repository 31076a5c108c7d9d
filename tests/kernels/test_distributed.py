"""Two processes: gradients as in one, however the model, its parameters or its rows are shared out.

Every check runs in both processes, all of them in one pair, for starting a pair takes seconds.
"""

import contextlib
import copy
import multiprocessing
import os
import queue
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from normscope.norms import AdaNorm, DetachNorm, LayerNorm, LayerNormSimple, RMSNorm, ScaleNorm

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this PyTorch is built without gloo")

PROCESSES = 2
WIDTH = 8
# Float64 sums of a few terms of order ten, in either order.
SAME = {"rtol": 0, "atol": 1e-11}

NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer_norm": LayerNorm,
    "layer_norm_simple": LayerNormSimple,
    "rms_norm": RMSNorm,
    "scale_norm": ScaleNorm,
    "ada_norm": AdaNorm,
    "detach_norm": DetachNorm,
}


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name: str) -> nn.Module:
    module = NORMS[name](WIDTH, dtype=torch.float64)
    with torch.no_grad():
        for at, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * sample(*parameter.shape, seed=10 + at))
    return module


class Model(nn.Module):
    """A residual block and an output, each behind the norm."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.out = (nn.Linear(WIDTH, WIDTH, dtype=torch.float64) for _ in range(2))
        self.first, self.second = make(name), make(name)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z, total = self.second(self.inside(y), x)
        return self.out(z) + total


def alone(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the reference for all rows in one process."""
    model, x = Model(name), sample(6, WIDTH)
    out = model(x)
    (out * sample(6, WIDTH, seed=1)).sum().backward()
    return out.detach(), {key: one.grad for key, one in model.named_parameters()}


def mine(rows: Tensor) -> Tensor:
    return rows.chunk(PROCESSES)[dist.get_rank()]


def score(out: Tensor) -> Tensor:
    """Return this process's part of the sum; wrappers average over processes."""
    return (out * mine(sample(6, WIDTH, seed=1))).sum() * PROCESSES


def check_ddp(name: str) -> None:
    model = DistributedDataParallel(Model(name))
    want, gradients = alone(name)
    for _ in range(2):
        model.zero_grad()
        out = model(mine(sample(6, WIDTH)))
        torch.testing.assert_close(out, mine(want), **SAME)
        score(out).backward()
        for key, one in model.module.named_parameters():
            torch.testing.assert_close(one.grad, gradients[key], **SAME)


def check_fsdp2(name: str, compiled: bool = False) -> None:
    model = Model(name)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for part in (model.first, model.second, model.inside):
        if list(part.parameters()):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if compiled:
        model.compile(backend="aot_eager")
    want, gradients = alone(name)
    out = model(mine(sample(6, WIDTH)))
    torch.testing.assert_close(out, mine(want), **SAME)
    score(out).backward()
    for key, one in model.named_parameters():
        assert isinstance(one.grad, DTensor)
        torch.testing.assert_close(
            one.grad.full_tensor(), gradients[key], msg=lambda words, key=key: f"{key}: {words}", **SAME
        )


def check_fsdp2_compiled(name: str) -> None:
    check_fsdp2(name, compiled=True)


def check_fsdp2_in_low_precision(name: str) -> None:
    model = Model(name).float()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=init_device_mesh("cpu", (PROCESSES,)), mp_policy=policy)
    out = model(mine(sample(6, WIDTH)).bfloat16())
    assert out.dtype == torch.bfloat16
    (out * mine(sample(6, WIDTH, seed=1)).bfloat16()).sum().backward()
    assert all(
        one.grad.dtype == torch.float32 and one.grad.full_tensor().isfinite().all() for one in model.parameters()
    )


def check_rows_of_a_dtensor(name: str, axis: int = 0, compiled: bool = False) -> None:
    mesh = init_device_mesh("cpu", (PROCESSES,))
    plain = make(name)
    module = distribute_module(copy.deepcopy(plain), mesh)
    call = torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module
    x, residual, up = (sample(6, 4, WIDTH, seed=seed) for seed in range(3))
    leaves = [one.clone().requires_grad_() for one in (x, residual)]
    z, total = plain(*leaves)
    want = torch.autograd.grad((z, total), [*leaves, *plain.parameters()], (up, up))
    shards = [distribute_tensor(one, mesh, [Shard(axis)]) for one in (x, residual, up)]
    inputs = [one.detach().requires_grad_() for one in shards[:2]]
    out = call(*inputs)
    got = torch.autograd.grad(out, [*inputs, *module.parameters()], (shards[2], shards[2]))
    for one, other in zip([*out, *got], [z, total, *want], strict=True):
        assert isinstance(one, DTensor)
        torch.testing.assert_close(one.full_tensor(), other, **SAME)
    if axis < 2:
        assert out[0].placements == (Shard(axis),)


def check_a_sequence_of_a_dtensor(name: str) -> None:
    check_rows_of_a_dtensor(name, axis=1)


def check_entries_of_a_dtensor(name: str) -> None:
    check_rows_of_a_dtensor(name, axis=2)


def check_compiled_rows_of_a_dtensor(name: str) -> None:
    check_rows_of_a_dtensor(name, compiled=True)


def check_a_replicated_dtensor_beside_plain_parameters_is_refused_by_torch(name: str) -> None:
    module = make(name)
    x = distribute_tensor(sample(6, WIDTH), init_device_mesh("cpu", (PROCESSES,)), [Replicate()])
    if name in ("layer_norm", "rms_norm"):
        with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
            module(x)
    else:
        # Torch takes a tensor of one entry for a replicated one.
        torch.testing.assert_close(module(x).full_tensor(), module(sample(6, WIDTH)), **SAME)


CHECKS = [
    (check, name)
    for check in list(globals())
    if check.startswith("check_")
    for name in NORMS
    # Seconds each.
    if check != "check_fsdp2_compiled" or name in ("layer_norm", "detach_norm")
]


def process(rank: int, folder: str, answers: Any) -> None:
    """Run every check, and send the failures."""
    torch.set_num_threads(1)
    # Torch says that it takes a tensor of one entry for a replicated one.
    warnings.filterwarnings("ignore", "Found a non-scalar tensor", UserWarning)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    for check, name in CHECKS:
        words = ""
        try:
            globals()[check](name)
        except (Exception, pytest.fail.Exception):
            words = traceback.format_exc()
        torch.compiler.reset()
        answers.put((check, name, rank, words))
        dist.barrier()
    answers.put(None)
    dist.destroy_process_group()


def words_of_a_pair(folder: Path) -> dict[tuple[str, str], str]:
    """Give what the processes said of each check of each norm; nothing is good."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pair = [
        context.Process(target=process, args=(rank, str(folder), answers), daemon=True) for rank in range(PROCESSES)
    ]
    try:
        for one in pair:
            one.start()
        said: dict[tuple[str, str], str] = {}
        left = PROCESSES
        while left:
            assert all(one.is_alive() or one.exitcode == 0 for one in pair), "a process died"
            try:
                got = answers.get(timeout=5)
            except queue.Empty:
                continue
            if got is None:
                left -= 1
                continue
            check, name, rank, trace = got
            said[check, name] = said.get((check, name), "") + (f"process {rank}:\n{trace}" if trace else "")
        return said
    finally:
        for one in pair:
            one.join(10)
            with contextlib.suppress(AttributeError):
                one.kill()
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    words = words_of_a_pair(tmp_path)
    assert set(words) == set(CHECKS)
    failed = [f"{check.removeprefix('check_')} of {name}\n{said}" for (check, name), said in words.items() if said]
    assert not failed, "\n".join(failed)
