"""A plain transformer of GPT-2's smallest size, and one run of it in a process of its own: python gpt2_size.py WHAT."""

import json
import resource
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, WIDTH, HEADS, VOCABULARY, CONTEXT = 12, 768, 12, 50257, 1024


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attention(self.ln_1(x)).unflatten(-1, (3, HEADS, -1)).transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                scale = (2 * LAYERS) ** -0.5 if name.endswith(("projection.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


def loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(what: str) -> None:
    torch.manual_seed(0)
    if what == "diagnose":
        # Imported before the clock and the memory are looked at: a program that diagnoses has it already.
        from normscope.diagnostics.diagnosis import diagnose
    model, tokens = GPT2(), torch.randint(VOCABULARY, (2, 257))
    start, began = peak(), time.perf_counter()
    told = {}
    if what == "step":
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4)
        loss(model, tokens).backward()
        optimizer.step()
    else:
        diagnosis = diagnose(model, tokens, loss, learning_rate=6e-4, warmup=2000)  # pyright: ignore
        told = {
            "findings": [finding.name for finding in diagnosis.findings],
            "layers": len(diagnosis.stacks[0].layers),
        }
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "start": start, "peak": peak(), **told}))


if __name__ == "__main__":
    main(sys.argv[1])
