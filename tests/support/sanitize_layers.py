"""Random recurrent layers under the sanitizers: the C kernels and their driver beside the steps written out."""

import os
import random
from typing import Any
from unittest import mock


def call_layers(seed: int, calls: int) -> int:
    """Run layers on every instruction set of this machine; in float64 they must give what the loop gives."""
    import torch

    from normscope.kernels.backends import build, cpu, scan

    supported = [isa for isa in build._variants() if cpu.load().functions.normscope_use(isa.encode())]
    counts: dict[str, int] = {}
    for number in range(calls):
        isa = supported[number % len(supported)]
        os.environ["NORMSCOPE_CPU_ISA"] = isa
        cpu.load.cache_clear()
        scan._functions.cache_clear()
        rng = random.Random(f"{seed} {number}")
        torch.manual_seed(rng.randrange(2**31))
        words: list[str] = [isa]
        try:
            name = one_call(rng, words)
        except Exception:
            print(f"sanitize: seed {seed} layer {number}: {', '.join(words)}", flush=True)
            raise
        counts[f"{name} {isa}"] = counts.get(f"{name} {isa}", 0) + 1
    print(f"{calls} calls of layers: {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}")
    return 0


def one_call(rng: random.Random, words: list[str]) -> str:
    """Run a random layer on random sequences."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    from normscope.recurrent import GRU, LSTM, PLACES, RNN, fused

    kind = rng.choice([LSTM, GRU, RNN])
    dtype = rng.choice([torch.float32, torch.float64, torch.float64, torch.bfloat16])
    width, size = rng.randint(1, 50), rng.choice([rng.randint(5, 40), rng.randint(5, 130), 48])
    batch, steps = rng.choice([rng.randint(1, 5), rng.randint(1, 20)]), rng.randint(0, 6)
    places = rng.choice([name for name in PLACES[kind.__name__] if name != "reset before"])
    options: dict[str, Any] = {
        "norm": rng.choice(["layer_norm", "layer_norm_simple", "rms_norm", "ada_norm", "detach_norm"]),
        "places": places,
        "bias": rng.random() < 0.7,
        "bidirectional": rng.random() < 0.3,
        "num_layers": rng.choice([1, 1, 2]),
        "zoneout": rng.choice([0.0, 0.3]),
        "recurrent_dropout": rng.choice([0.0, 0.3]),
        "learned_initial_state": rng.random() < 0.3,
        **({"nonlinearity": rng.choice(["tanh", "relu"])} if kind is RNN else {}),
    }
    layer = kind(width, size, **options).to(dtype).train(rng.random() < 0.7)
    words += [f"{kind.__name__}({width}, {size}, {options})", str(dtype), f"B {batch} T {steps} {layer.training}"]
    x = torch.randn(batch, steps, width, dtype=dtype).transpose(0, 1).requires_grad_(rng.random() < 0.8)
    inputs = [one for one in (x, *layer.parameters()) if one.requires_grad]
    resets = torch.rand(steps, batch) > 0.7 if rng.random() < 0.4 else None
    lengths = [rng.randint(1, steps) for _ in range(batch)] if steps and rng.random() < 0.5 else None
    words.append(f"lengths {lengths}, resets {resets is not None}")
    retains, mask_seed = rng.random() < 0.3, rng.randrange(2**31)

    def packed(data: Any) -> Any:
        return data if lengths is None or data is None else pack_padded_sequence(data, lengths, enforce_sorted=False)

    def results() -> list[Any]:
        torch.manual_seed(mask_seed)
        output, state = layer(packed(x), reset=packed(resets))
        ends = [output if lengths is None else output.data, *(state if isinstance(state, tuple) else (state,))]
        if not steps:  # the loop's outputs are constants
            return [one.detach() for one in ends]
        sent = [torch.linspace(-1, 1, one.numel(), dtype=dtype).view(one.shape) for one in ends]
        gradients = torch.autograd.grad(ends, inputs, sent, retain_graph=retains, allow_unused=True)
        return [*(one.detach() for one in ends), *gradients]

    torch.set_num_threads(rng.randint(1, 4))
    got = results()
    if layer.computed_by != "cpu":
        raise AssertionError(f"computed by {layer.computed_by}")
    torch.set_num_threads(rng.randint(1, 4))
    for one, other in zip(got, results(), strict=True):
        if one is not None and not torch.equal(one, other):
            raise AssertionError("a result depends on the threads")
    with mock.patch.object(fused, "reason_against", return_value="asked for"):
        wanted = results()
    for one, other in zip(got, wanted, strict=True):
        if one is None or not one.numel():
            continue
        if not one.isfinite().all():
            raise AssertionError("a result is not finite")
        reach = 1e-6 * max(1.0, float(other.abs().max()))
        if dtype == torch.float64 and float((one - other).abs().max()) > reach:
            raise AssertionError(f"off by {float((one - other).abs().max()):.3g}, {reach:.3g} allowed")
    return kind.__name__
