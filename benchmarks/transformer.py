"""Training speed of our transformer beside torch's, and the share of it that norms take: ``./run bench transformer``.

Every figure is the median of turns taken in one process, A B C A B C: one thread, by the time that it computes, or a
GPU by the clock. ``nn.Transformer`` has the same embeddings, tied softmax, placement and dropout. The share of a norm
is one minus the time of the same step without norms over its time with them: kernels, saved tensors and all.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope.cli.bench import turns
from normscope.files import write_atomically
from normscope.models import Seq2Seq
from normscope.models.layers import Embedding, sinusoids
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.training.outcome import device_name, versions

VOCABULARY, LENGTH = 8000, 24
DROPOUT = 0.1
SIZES = {"3+3 layers, width 256": (256, 4, 1024, 3, 64), "6+6 layers, width 512": (512, 4, 1024, 6, 32)}
"""Width, heads, feed-forward width, layers of each side, sentences a batch on a CPU; on a GPU eight times as many."""


def seq2seq(norm: Callable[[int], nn.Module], width: int, heads: int, hidden: int, layers: int) -> nn.Module:
    """Build our encoder-decoder, Pre-LN."""
    stack = partial(PLACEMENTS["pre"].stack, norm=norm)
    return Seq2Seq(
        vocabulary=VOCABULARY,
        width=width,
        heads=heads,
        feed_forward=hidden,
        encoder_layers=layers,
        decoder_layers=layers,
        dropout=DROPOUT,
        encoder_stack=stack,
        decoder_stack=stack,
    )


class Peer(nn.Module):
    """``nn.Transformer`` with the same embeddings and softmax, and the masks that it needs for them."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = Embedding(VOCABULARY, width, padding=0)
        self.transformer = nn.Transformer(
            width, heads, layers, layers, hidden, DROPOUT, batch_first=True, norm_first=True
        )
        for module in self.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                module.dropout.p = 0.0
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(torch.arange(LENGTH), width))
        causal = nn.Transformer.generate_square_subsequent_mask(LENGTH).isinf()
        self.causal: Tensor
        self.register_buffer("causal", causal)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map sources and the words before each target word to logits."""
        pads = source == 0
        x, y = (self.dropout(self.embedding(tokens, self.positions)) for tokens in (source, target))
        features = self.transformer(
            x,
            y,
            tgt_mask=self.causal,
            tgt_is_causal=True,
            src_key_padding_mask=pads,
            memory_key_padding_mask=pads,
        )
        return F.linear(features, self.embedding.weight)


def update(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], precision: torch.dtype) -> Callable[[], object]:
    """Give a function that makes one update."""
    source, target, wanted = batch
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(source.device.type, dtype=precision, enabled=precision != torch.float32):
            logits = model(source, target)
        F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=0).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if source.is_cuda:
            torch.cuda.synchronize()

    return step


def measure(name: str, device: torch.device, precision: torch.dtype, seconds: float, compiled: bool) -> dict:
    """Time every model of one size in turns."""
    width, heads, hidden, layers, sentences = SIZES[name]
    sentences *= 8 if device.type == "cuda" else 1
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (sentences, 1), generator=generator)
    lengths[0] = LENGTH
    keep = torch.arange(LENGTH) < lengths
    batch = tuple(
        (torch.randint(1, VOCABULARY, (sentences, LENGTH), generator=generator) * keep).to(device) for _ in range(3)
    )
    fast = "triton" if device.type == "cuda" else "cpu"
    norms = {
        "ours, nn.LayerNorm": nn.LayerNorm,
        f"ours, layer_norm ({fast})": partial(NORMS["layer_norm"], backend=fast),
        "ours, ada_norm (definition)": partial(NORMS["ada_norm"], backend="eager"),
        f"ours, ada_norm ({fast})": partial(NORMS["ada_norm"], backend=fast),
        "ours, none": NORMS["none"],
    }
    built: dict[str, nn.Module] = {"nn.Transformer": Peer(width, heads, hidden, layers)}
    built |= {label: seq2seq(norm, width, heads, hidden, layers) for label, norm in norms.items()}
    steps = {}
    for label, model in built.items():
        moved = model.to(device)
        steps[label] = update(torch.compile(moved, dynamic=False) if compiled else moved, batch, precision)
    threads = 1 if device.type == "cpu" else 0
    taken, waited = turns(steps, threads=threads, seconds=seconds)
    middle = {label: statistics.median(times) for label, times in taken.items()}
    tokens = int(2 * keep.sum())
    return {
        "size": name,
        "precision": str(precision).removeprefix("torch."),
        "compiled": compiled,
        "tokens": tokens,
        "turns": len(taken["nn.Transformer"]),
        "waited": round(waited, 3),
        "milliseconds": {label: round(time * 1e3, 2) for label, time in middle.items()},
        "tokens_a_second": {label: round(tokens / time) for label, time in middle.items()},
        "peer_over_ours": round(
            statistics.median(a / b for a, b in zip(taken["nn.Transformer"], taken["ours, nn.LayerNorm"], strict=True)),
            3,
        ),
        "share_of_norms": {
            label: round(1 - middle["ours, none"] / time, 3)
            for label, time in middle.items()
            if label not in ("nn.Transformer", "ours, none")
        },
    }


def page(rows: list[dict], where: str, command: str) -> str:
    """Write the table."""
    lines = [
        "# Training speed of the transformer",
        "",
        f"`{command}`, {date.today().isoformat()}, {where}.",
        "Source and target tokens a second without pads, one update with Adam; "
        "the share of norms is that of the step without them.",
        "",
        "| size | precision | model | ms a step | tokens a second | share of norms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for label, time in row["milliseconds"].items():
            share = row["share_of_norms"].get(label)
            told = "" if share is None else f"{share:.1%}"
            kind = row["precision"] + (", compiled" if row["compiled"] else "")
            speed = f"{row['tokens_a_second'][label]:,}"
            lines.append(f"| {row['size']} | {kind} | {label} | {time:,.1f} | {speed} | {told} |")
    lines += ["", "Time of `nn.Transformer` over that of ours with the same norm, median of the turns:", ""]
    lines += [
        f"- {row['size']}, {row['precision']}{', compiled' if row['compiled'] else ''}: {row['peer_over_ours']} "
        f"({row['turns']} turns)"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=60, help="for each row of the table")
    parser.add_argument("--compile", action="store_true", help="compile every model")
    parser.add_argument("--out", type=Path, help="folder for transformer_DEVICE.md and .json")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    precisions = [torch.bfloat16] if device.type == "cuda" else [torch.float32, torch.bfloat16]
    rows = []
    for name in SIZES:
        for precision in precisions:
            rows.append(measure(name, device, precision, options.seconds, options.compile))
            print(json.dumps(rows[-1]), flush=True)
    where = f"{device_name(device)}, one thread" if device.type == "cpu" else device_name(device)
    where += ", " + ", ".join(f"{name} {number}" for name, number in versions().items())
    text = page(rows, where, " ".join(["./run bench transformer", *sys.argv[1:]]))
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out / f"transformer_{device.type}.md", text.encode())
        write_atomically(options.out / f"transformer_{device.type}.json", (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
