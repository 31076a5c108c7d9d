"""Seven faults and their healthy twins: the same model, data and settings, without the fault."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.models.attention import Attention, Context
from normscope.models.layers import FeedForward
from normscope.placement import PLACEMENTS, Placement, PreNorm

LEVELS = 17
"""Number of grey levels of a digit, the vocabulary."""

IMAGES = torch.from_numpy(load_digits().images).long()
"""``[1797, 8, 8]``: scans of written digits, read here as texts of 64 grey levels."""

PRE_WITHOUT_END = Placement(equation="x <- x + f(N(x))", block=PreNorm)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with a batch and a loss, and further arguments of ``diagnose``."""

    model: nn.Module
    batch: Any
    loss: Callable[[nn.Module, Any], Tensor]
    settings: Mapping[str, Any]


class PixelModel(nn.Module):
    """A causal transformer over the grey levels of an image, one after another."""

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        placement: Placement,
        norm: Callable[[int], nn.Module],
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LEVELS + 1, width, padding_idx=padding)
        self.positions = nn.Parameter(torch.randn(64, width) * (padding is None))
        branches: list[tuple[str, nn.Module]] = []
        for _ in range(layers):
            branches += [("attention", Attention(width, 4)), ("feed_forward", FeedForward(width, 4 * width))]
        self.stack = placement.stack(branches, width, norm)
        self.head = nn.Linear(width, LEVELS + 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embedding(pixels) + self.positions[: pixels.shape[1]]
        return self.head(self.stack(x, Context(causal=True)))


class Convolutions(nn.Module):
    """Three convolutions with batch norms, a pooled head."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        sizes = (1, channels, channels, channels)
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), norm(b), nn.ReLU(inplace=True)) for a, b in pairwise(sizes))
        )
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def next_pixel(model: nn.Module, pixels: Tensor) -> Tensor:
    return F.cross_entropy(model(pixels[:, :-1]).flatten(0, 1).float(), pixels[:, 1:].flatten())


def which_digit(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def pixels(seed: int, rows: int = 8, length: int = 32) -> Tensor:
    chosen = torch.randint(len(IMAGES), (rows,), generator=torch.Generator().manual_seed(seed))
    # Level 0 stays free for padding.
    return IMAGES[chosen].flatten(1)[:, 8 : 8 + length] + 1


def images(seed: int, rows: int = 32) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(IMAGES), (rows,), generator=torch.Generator().manual_seed(seed))
    return IMAGES[chosen][:, None].float() / 16, torch.from_numpy(load_digits().target)[chosen].long()


def text(
    seed: int,
    placement: str | Placement,
    *,
    layers: int = 4,
    width: int = 32,
    norm: Callable[[int], nn.Module] = nn.LayerNorm,
    settings: Mapping[str, Any] | None = None,
) -> Case:
    torch.manual_seed(seed)
    placement = PLACEMENTS[placement] if isinstance(placement, str) else placement
    model = PixelModel(width=width, layers=layers, placement=placement, norm=norm)
    return Case(model=model, batch=pixels(seed), loss=next_pixel, settings=dict(settings or {}))


def post_norm(seed: int, *, warmup: int) -> Case:
    settings = {"learning_rate": 1e-3, "warmup": warmup}
    return text(seed, "post", layers=12, width=64, settings=settings)


def half(seed: int, *, eps: float) -> Case:
    """Sentences with pads, whose embedding is zero: the first norm sees constant rows."""
    torch.manual_seed(seed)
    model = PixelModel(width=32, layers=3, placement=PLACEMENTS["pre"], norm=partial(nn.LayerNorm, eps=eps), padding=0)
    batch = pixels(seed)
    batch[: len(batch) // 2, -12:] = 0
    return Case(model=model, batch=batch, loss=next_pixel, settings={"precision": "float16"})


def final_norm(seed: int, *, there: bool) -> Case:
    return text(seed, "pre" if there else PRE_WITHOUT_END, layers=6)


def batch_norm(seed: int, *, evaluates: bool) -> Case:
    torch.manual_seed(seed)
    model = Convolutions(16)
    if evaluates:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    return Case(model=model, batch=images(seed), loss=which_digit, settings={})


def decayed_weights(seed: int, *, decayed: bool) -> Case:
    """Weights after 4,000 steps of decay at 1e-3, which reduces them by the factor e^-8."""
    case = text(seed, "pre")
    norms = [module for module in case.model.modules() if isinstance(module, nn.LayerNorm)]
    chosen = [p for norm in norms for p in norm.parameters()] if decayed else []
    with torch.no_grad():
        for norm in norms:
            norm.weight.mul_(1 + 0.1 * torch.randn_like(norm.weight))
            if decayed:
                norm.weight.mul_((1 - 1e-3 * 2.0) ** 4000)
    known = {id(p) for p in chosen}
    rest = [p for p in case.model.parameters() if id(p) not in known]
    groups: Sequence[dict[str, Any]] = [{"params": rest, "weight_decay": 0.0}]
    groups = [*groups, {"params": chosen, "weight_decay": 2.0}] if chosen else groups
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    return Case(model=case.model, batch=case.batch, loss=case.loss, settings={"optimizer": optimizer})


def encoder(seed: int, *, double: bool) -> Case:
    """torch's encoder with norms on the residual stream, with or without a final norm."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    model = nn.Sequential(
        nn.Embedding(LEVELS + 1, 32),
        nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(32) if double else None, enable_nested_tensor=False),
        nn.Linear(32, LEVELS + 1),
    )
    return Case(model=model, batch=pixels(seed), loss=next_pixel, settings={})


def residual(seed: int, *, scaled: bool) -> Case:
    """A residual stream without norms, 24 layers of two branches; the twin's branches begin at 1 / sqrt(48)."""
    case = text(seed, "none", layers=24)
    if scaled:
        with torch.no_grad():
            for name, parameter in case.model.named_parameters():
                if name.endswith(("output.weight", "outer.weight")):
                    parameter.mul_(48**-0.5)
    return case


CASES: dict[str, tuple[Callable[[int], Case], Callable[[int], Case]]] = {
    "post_norm_without_warm_up": (partial(post_norm, warmup=0), partial(post_norm, warmup=1000)),
    "eps_too_small_for_half": (partial(half, eps=1e-12), partial(half, eps=1e-5)),
    "missing_final_norm": (partial(final_norm, there=False), partial(final_norm, there=True)),
    "batch_norm_in_eval": (partial(batch_norm, evaluates=True), partial(batch_norm, evaluates=False)),
    "weights_near_zero": (partial(decayed_weights, decayed=True), partial(decayed_weights, decayed=False)),
    "double_norm": (partial(encoder, double=True), partial(encoder, double=False)),
    "unscaled_residual": (partial(residual, scaled=False), partial(residual, scaled=True)),
}
"""Functions of a seed that build a model with a fault and its healthy twin, by the name of the cause."""
