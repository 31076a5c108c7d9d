"""An ensemble of small networks by ``torch.func``: kernels, definition, and a loop over the members.

``./run bench ensembles``. Ratios of processor times in one session, interleaved, medians over rounds; one thread.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from normscope.norms import LayerNorm, RMSNorm


class Residual(nn.Module):
    """Four Pre-LN blocks of width 64, as in the task digits."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(norm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(4)
        )
        self.out = nn.Sequential(norm(64), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, 64]`` to ``[B, 10]``."""
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)


def ways(norm: Callable[..., nn.Module], members: int, rows: int) -> dict[str, Callable[[], object]]:
    """Return the gradients of all members, in several ways."""
    models = [Residual(norm) for _ in range(members)]
    weights, _ = stack_module_state(models)
    x, upstream = torch.randn(members, rows, 64), torch.randn(members, rows, 10)
    eager = copy.deepcopy(models[0])
    for module in eager.modules():
        if isinstance(module, LayerNorm | RMSNorm):
            module.backend = "eager"

    def loss(model: nn.Module) -> Callable[..., Tensor]:
        return lambda weights, x, upstream: (functional_call(model, weights, (x,)) * upstream).sum()

    def loop() -> None:
        for member, model in enumerate(models):
            (model(x[member]) * upstream[member]).sum().backward()

    return {
        "loop over members": loop,
        "vmap, definition": lambda: vmap(loss(eager))(weights, x, upstream).sum().backward(),
        "vmap, kernels": lambda: vmap(loss(models[0]))(weights, x, upstream).sum().backward(),
        "vmap of grad, definition": lambda: vmap(grad(loss(eager)))(weights, x, upstream),
        "vmap of grad, kernels": lambda: vmap(grad(loss(models[0])))(weights, x, upstream),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, norm in (("layer_norm", LayerNorm), ("rms_norm", RMSNorm)):
        for rows in (32, 256):
            functions = ways(norm, options.members, rows)
            times: dict[str, list[float]] = {each: [] for each in functions}
            for turn in range(options.rounds + 3):
                for each, function in functions.items():
                    begin = time.process_time()
                    function()
                    if turn >= 3:
                        times[each].append(time.process_time() - begin)
            middle = {each: statistics.median(all_of) for each, all_of in times.items()}
            print(f"{name}, {options.members} members of {rows} rows, forward and backward; time over the loop's")
            for each, seconds in middle.items():
                print(f"  {each:26} {seconds / middle['loop over members']:.2f}  ({seconds * 1e3:.2f} ms)")


if __name__ == "__main__":
    main()
