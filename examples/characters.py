"""A small GPT on tinyshakespeare, in the manner of nanoGPT: `normscope compare examples/characters.py:make`."""

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from normscope import Metric, Recipe, Trial
from normscope.data import load_bytes

STEPS = int(os.environ.get("EXAMPLE_STEPS", "500"))
WIDTH, HEADS, LAYERS, CONTEXT, BATCH = 64, 4, 3, 64, 16


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        query, key, value = self.project(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))


class GPT(nn.Module):
    """Embeddings, a residual stream that a placement builds, a tied head."""

    def __init__(self, norm, placement):
        super().__init__()
        self.words = nn.Embedding(256, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        branches = []
        for _ in range(LAYERS):
            feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            branches += [("attention", Attention()), ("feed_forward", feed)]
        self.stream = placement.stack(branches, WIDTH, norm)

    def forward(self, tokens):
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return F.linear(self.stream(x), self.words.weight)


def make(norm, placement, seed):
    """The next byte of Shakespeare by a GPT of three layers; norms and their placement can be compared."""
    text = load_bytes("text-small")
    parts = {"valid": text.valid[:20_000], "test": text.test[:20_000]}

    def windows(symbols, starts):
        rows = np.stack([symbols[start : start + CONTEXT + 1] for start in starts])
        return torch.from_numpy(rows.astype(np.int64))

    def batches(step):
        starts = np.random.default_rng([seed, step]).integers(len(text.train) - CONTEXT, size=BATCH)
        return windows(text.train, starts)

    def loss(model, batch):
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(model, part):
        """Bits of every window of the part, a byte each on average."""
        symbols = parts[part]
        scores = []
        for first in range(0, len(symbols) - CONTEXT, 32 * CONTEXT):
            starts = range(first, min(first + 32 * CONTEXT, len(symbols) - CONTEXT), CONTEXT)
            rows = windows(symbols, starts)
            nats = F.cross_entropy(model(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none")
            scores.append(nats.mean(1) / np.log(2))
        return torch.cat(scores)

    return Trial(
        model=GPT(norm, placement),
        loss=loss,
        batches=batches,
        evaluate=evaluate,
        metric=Metric(name="test bits per character", unit="bpc", higher_is_better=False),
        margin=0.02,
        recipe=Recipe(
            steps=STEPS,
            batch_size=BATCH,
            learning_rate=2e-3,
            warmup=min(50, STEPS // 10),
            clip=1.0,
            weight_decay=0.1,
        ),
        placements=("pre", "post", "peri"),
        regime="a GPT of three layers and width 64 on 1 MB of Shakespeare, AdamW",
    )
