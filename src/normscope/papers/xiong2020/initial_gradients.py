r"""Gradient norms of feed-forward matrices at initialization, by depth and by layer (Xiong et al. 2020, Figure 3).

Their Theorem 1: with probability near one, the gradient of the last layer's second feed-forward matrix is

.. math::
    \|\partial L / \partial W^{2, L}\|_F \le O(d \sqrt{\ln d}) \text{ in Post-LN},
    \quad O(d \sqrt{\ln d / L}) \text{ in Pre-LN},

so that Post-LN is flat in the number of layers L and Pre-LN falls as :math:`1 / \sqrt L`. Dropout is off: the theorem
has none, and the figure does not state it. Otherwise the networks are those of the paper: widths, heads, Xavier uniform
initialization, norm weights of one, label smoothing 0.1. The batch is a real batch of the task: a different one for
every seed, the same for both placements and all sizes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from normscope.models import Seq2Seq
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.registry import look_up
from normscope.results.store import SCHEMA, parse_json
from normscope.tasks import TASKS
from normscope.tasks.translation.task import TransformerSize, Translation
from normscope.training.randomness import initialize

PLACED = ("post", "pre")
_PRESET = "reproduction"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Networks and batches that are measured; seeds are not part of it, so that more can be added."""

    task: str = "multi30k_de_en"
    """Translation task: its data, and the vocabulary of its full preset, joint subwords as in the paper."""
    layers: tuple[int, ...] = (6, 8, 10, 12, 14)
    """Numbers of layers of the encoder, and of the decoder; the first size is also measured layer by layer."""
    width: int = 512
    """Width d; feed-forward branches are twice as wide, as in the paper."""
    heads: int = 4
    """Number of heads of every attention branch."""
    tokens: int = 2048
    """Number of padded tokens of the batch, on the longer side."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if len(self.layers) < 2 or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1:
            raise ValueError(f"layers must be two or more growing numbers from 1 up, got {list(self.layers)}")
        if self.width < 2 or self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of {2 * self.heads}, got {self.width}")
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if not isinstance(look_up("task", TASKS, self.task), Translation):
            raise ValueError(f"the figure is of an encoder and a decoder: expected a translation task, got {self.task}")

    @property
    def id(self) -> str:
        """Hash of everything but the sizes that determines the numbers of a row; rows with another hash are ignored."""
        content = {key: value for key, value in asdict(self).items() if key != "layers"}
        content |= {"first": self.layers[0], "revision": TASKS[self.task].revision}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def plan(setting: Setting, seeds: Sequence[int]) -> list[tuple[int, str, int]]:
    """List (layers, placement, seed) of every network, seed by seed."""
    return [(layers, placement, seed) for seed in seeds for layers in setting.layers for placement in PLACED]


def measure(setting: Setting, layers: int, placement: str, seed: int) -> dict[str, Any]:
    """Build a network, and compute the Frobenius norms of its gradients on one batch.

    Returns:
        ``last``: norm for the second feed-forward matrix of the last decoder layer; ``by_layer``: norms for both
        matrices of every layer, for the first size only; ``loss`` in nats; ``target_tokens`` of the batch.
    """
    task = _task(setting, layers)
    data = task.load(torch.device("cpu"), "study", _PRESET)
    batch = data.batch(data.order(setting.tokens, lambda of: torch.Generator().manual_seed(seed + 1000 * of)).batch(0))
    model = task.network(NORMS["layer_norm"], PLACEMENTS[placement], _PRESET)
    initialize(model, seed)
    matrices = feed_forward_matrices(model)
    if layers != setting.layers[0]:
        matrices = {"decoder": {"W2": matrices["decoder"]["W2"][-1:]}}
    asked = [weight for part in matrices.values() for weights in part.values() for weight in weights]
    # Other gradients are not computed: for the larger sizes this saves the time of a forward pass.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in asked:
        weight.requires_grad_(True)
    loss = task.loss(model, batch)
    norms = iter([float(gradient.double().norm()) for gradient in torch.autograd.grad(loss, asked)])
    by_layer = {
        part: {name: [next(norms) for _ in weights] for name, weights in named.items()}
        for part, named in matrices.items()
    }
    return {
        "schema": SCHEMA,
        "setting": setting.id,
        "layers": layers,
        "placement": placement,
        "seed": seed,
        "last": by_layer["decoder"]["W2"][-1],
        "by_layer": by_layer if layers == setting.layers[0] else None,
        "loss": float(loss.detach()),
        "target_tokens": int((batch.target[:, 1:] != 0).sum()),
    }


def feed_forward_matrices(model: Seq2Seq) -> dict[str, dict[str, list[torch.nn.Parameter]]]:
    """Return W1 ``[F, D]`` and W2 ``[D, F]`` of every layer of the encoder and of the decoder, first layer first."""
    found = {}
    for part in ("encoder", "decoder"):
        parameters = list(getattr(model, part).named_parameters())
        found[part] = {
            name: [weight for key, weight in parameters if key.endswith(f"{end}.weight")]
            for name, end in (("W1", "inner"), ("W2", "outer"))
        }
    return found


def run(
    setting: Setting, seeds: Sequence[int], path: Path, callback: Callable[[int, int, str], None] | None = None
) -> list[dict[str, Any]]:
    """Measure every network that the file lacks, one line of JSON each.

    The same call resumes after an interruption; an incomplete line is written again.

    Args:
        setting: Networks and batches to measure.
        seeds: Seeds of the initial weights and of the batches.
        path: File of the rows.
        callback: Called with the number of measured networks, their total number, and the name of the last.

    Returns:
        All rows of the setting and seeds.

    Raises:
        ValueError: If the file was not written by this function.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {(row["layers"], row["placement"], row["seed"]): row for row in read(path) if row["setting"] == setting.id}
    wanted = plan(setting, seeds)
    with path.open("ab") as file:
        # An interrupted call may have left a part of a line.
        file.truncate(path.read_bytes().rfind(b"\n") + 1)
        for number, network in enumerate(wanted):
            if network not in held:
                held[network] = measure(setting, *network)
                file.write((json.dumps(held[network], allow_nan=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
            if callback is not None:
                layers, placement, seed = network
                callback(number + 1, len(wanted), f"{layers}-{layers} {placement} seed {seed}")
    return [held[network] for network in wanted]


def whole(setting: Setting, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a setting for seeds with all sizes; empty if there is no file.

    Raises:
        ValueError: If the file was not written by :func:`run`.
    """
    rows = [row for row in read(path) if row["setting"] == setting.id and row["layers"] in setting.layers]
    held = {(row["layers"], row["placement"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    return [held[network] for seed in seeds if set(each := plan(setting, [seed])) <= held.keys() for network in each]


def read(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file, but for an incomplete last line.

    Raises:
        ValueError: If a line is not a row; the message has its number.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        row = parse_json(line, f"line {number} of {path}")
        fields = ("setting", "layers", "placement", "seed", "last")
        if not isinstance(row, dict) or row.get("schema") != SCHEMA or not all(name in row for name in fields):
            raise ValueError(f"line {number} of {path} is not a row of gradient norms: move the file away")
        rows.append(row)
    return rows


def _task(setting: Setting, layers: int) -> Translation:
    entry = TASKS[setting.task]
    if not isinstance(entry, Translation):
        raise TypeError(f"expected a translation task, got {setting.task}")
    size = TransformerSize(
        vocabulary=entry.sizes["full"].vocabulary,
        width=setting.width,
        heads=setting.heads,
        feed_forward=2 * setting.width,
        layers=layers,
        dropout=0.0,
    )
    return replace(entry, sizes={_PRESET: size})
