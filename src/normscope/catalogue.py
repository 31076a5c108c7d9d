"""The names: what a string on the command line stands for. Everything below this file takes objects.

The order of a dictionary is the order of every table.
"""

import dataclasses
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from torch import nn

from normscope import data, norms, placement, probes
from normscope.tasks import ImageClassification, Published, Task
from normscope.tasks.image_classification import convnet, plain_mlp, residual_mlp

NORMS: dict[str, Callable[..., nn.Module]] = {
    "none": norms.NoNorm,
    "layer_norm": norms.LayerNorm,
    "layer_norm_simple": norms.LayerNormSimple,
    "detach_norm": norms.DetachNorm,
    "ada_norm": norms.AdaNorm,
    "rms_norm": norms.RMSNorm,
    "scale_norm": norms.ScaleNorm,
    "dyt": norms.DyT,
    "derf": norms.Derf,
    "batch_norm": norms.BatchNorm,
    "frn": norms.FRN,
}
"""Layers that map ``[..., D]`` to ``[..., D]``, made from a width and keyword arguments."""

PARAMETRIZATIONS: dict[str, Callable[[nn.Module], int]] = {"weight_norm": norms.apply_weight_norm}
"""Arms that act on the weights of a network built with ``none``; each returns how many weights it took."""

PLACEMENTS: dict[str, placement.Placement] = {
    "preactivation": placement.Placement(equation="h = relu(N(W x))", block=None),
    "post": placement.Placement(equation="x <- N(x + f(x))", block=placement.PostNorm),
    "pre": placement.Placement(
        equation="x <- x + f(N(x)); N at the end", block=placement.PreNorm, normalize_final=True
    ),
    "output": placement.Placement(
        equation="x <- x + N(f(x)); N at the end", block=placement.OutputNorm, normalize_final=True
    ),
    "peri": placement.Placement(
        equation="x <- x + N(f(N(x))); N after the stem and at the end",
        block=placement.PeriNorm,
        normalize_stem=True,
        normalize_final=True,
    ),
}
"""Where norms stand around a residual branch; ``preactivation`` for networks without branches."""

_MNIST_MLP = ImageClassification(
    name="mnist_mlp",
    description="permutation-invariant MNIST, 784-1000-1000-10, batch 128 (Ba et al. 2016, 6.6)",
    dataset="mnist",
    read=data.load_mnist,
    shape=(784,),
    build=plain_mlp(784, 1000, 1000, 10),
    placements=("preactivation",),
    steps=2150,
    full_steps=8600,
    batch_size=128,
    learning_rate=1e-3,
    accuracy=False,
    margin=0.1,
    regime="a two-hidden-layer MLP of width 1000 on MNIST, Adam with linear decay, no regularization",
    published=(
        Published(
            source="Ba, Kiros, Hinton (2016), Figure 6, batch 128",
            rows={"none": 1.5, "layer_norm": 1.3, "batch_norm": 1.35},
            note="read off a plot, about +-0.1; 65 epochs, rate and seeds not printed; batch norm on the logits, too",
        ),
    ),
)

TASKS: dict[str, Task] = {
    "digits": ImageClassification(
        name="digits",
        description="8 x 8 handwritten digits (UCI, in scikit-learn), residual MLP of four blocks; nothing to download",
        dataset="digits",
        read=data.load_digits,
        shape=(64,),
        build=residual_mlp(inputs=64, width=64, depth=4, classes=10),
        placements=("pre", "post", "output", "peri"),
        steps=1000,
        full_steps=4000,
        batch_size=32,
        learning_rate=2e-3,
        accuracy=False,
        margin=0.5,
        regime="a four-block residual MLP of width 64 on 1,029 images of 8 x 8, Adam with linear decay",
    ),
    "mnist_mlp": _MNIST_MLP,
    "mnist_mlp_batch4": dataclasses.replace(
        _MNIST_MLP,
        name="mnist_mlp_batch4",
        description="the same at batch 4, where batch statistics are poor (Ba et al. 2016, 6.6)",
        steps=13_750,
        full_steps=137_500,
        batch_size=4,
        learning_rate=2e-4,
        margin=0.2,
        published=(
            Published(
                source="Ba, Kiros, Hinton (2016), Figure 6, batch 4",
                rows={"none": 1.55, "layer_norm": 1.45, "batch_norm(unbiased=True)": 2.0},
                note="read off a plot, about +-0.1; batch norm 'at or above' its figure",
            ),
        ),
    ),
    "mnist_cnn": ImageClassification(
        name="mnist_cnn",
        description="MNIST, three convolutions of 16, 32 and 64 channels (Xu et al. 2019 name a 3-layer CNN)",
        dataset="mnist",
        read=data.load_mnist,
        shape=(1, 28, 28),
        build=convnet(1, 16, 32, 64, size=28, classes=10),
        placements=("preactivation",),
        steps=1720,
        full_steps=4300,
        batch_size=128,
        learning_rate=2e-3,
        accuracy=True,
        margin=0.1,
        regime="a three-convolution network (16, 32, 64 channels) on MNIST, Adam with linear decay",
        published=(
            Published(
                source="Xu et al. (2019), Tables 1 to 3, MNIST",
                rows={
                    "none": 99.14,
                    "layer_norm": 99.13,
                    "layer_norm_simple": 99.09,
                    "detach_norm": 99.10,
                    "ada_norm": 99.35,
                },
                note="no seeds and no spread printed; channels, optimizer, epochs and AdaNorm's C not printed",
            ),
        ),
    ),
}
"""Data sets with their network, loss, metric and recipe."""

PROBES: dict[str, Any] = {"gradient_shares": probes.gradient_shares}
"""What is measured on a running model; every run of a study reads these at its evaluations."""

Entry = TypeVar("Entry")


def look_up(kind: str, entries: Mapping[str, Entry], name: str) -> Entry:
    """Find an entry by its name.

    Args:
        kind: What it is, for the message, such as ``"norm"``.
        entries: One of the dictionaries above.
        name: Its key.

    Raises:
        LookupError: If there is none; the message suggests the nearest name and lists them all.
    """
    if name in entries:
        return entries[name]
    near = get_close_matches(name, entries, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise LookupError(f"there is no {kind} {name!r}: {hint}There are {', '.join(entries)}")
