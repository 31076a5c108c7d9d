"""What acts at random on the stream is refused or reported, whatever it is called; the run itself decides."""

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normscope
from normscope.surgery.to_rms_norm.variations import FrequentDraws
from support.architectures import IDS

Operation = Callable[[Tensor], Tensor]


class Stream(nn.Module):
    """Two residual branches between an embedding and a head; an operation on the stream and one within branches."""

    def __init__(self, on_stream: Operation = lambda x: x, in_branch: Operation = lambda x: x, always: bool = False):
        super().__init__()
        self.on_stream, self.in_branch, self.always = on_stream, in_branch, always
        self.embed = nn.Embedding(99, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
        self.inner, self.outer = (nn.ModuleList(nn.Linear(32, 32) for _ in range(2)) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        on = self.training or self.always
        stream = self.embed(ids)
        for norm, inner, outer in zip(self.norms, self.inner, self.outer, strict=False):
            h = inner(norm(stream)).relu()
            z = outer(self.in_branch(h) if on else h)
            stream = stream + (self.on_stream(z) if on else z)
        return self.head(self.norms[2](stream))


def by_feature(dropout: nn.Module) -> Operation:
    return lambda x: dropout(x.transpose(1, 2)).transpose(1, 2)


def drop_path(x: Tensor, p: float = 0.3) -> Tensor:
    """Drop whole samples, as timm writes it."""
    keep = 1 - p
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * mask.div_(keep)


ADDS_A_MEAN: dict[str, Operation] = {
    "dropout": lambda x: F.dropout(x, 0.1, True),
    "dropout, rare": lambda x: F.dropout(x, 1e-5, True),
    "torch.dropout": lambda x: torch.dropout(x, 0.1, True),
    "alpha": lambda x: nn.AlphaDropout(0.1)(x),
    "alpha, rare": lambda x: F.alpha_dropout(x, 1e-5, True),
    "feature alpha": by_feature(nn.FeatureAlphaDropout(0.1)),
    # It gives dropped rows one value and moves all others.
    "feature alpha, tokens": lambda x: nn.FeatureAlphaDropout(0.1)(x),
    "1d": by_feature(nn.Dropout1d(0.1)),
    "2d": lambda x: nn.Dropout2d(0.1)(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2),
    "3d": lambda x: nn.Dropout3d(0.1)(x.transpose(1, 2)[..., None, None])[..., 0, 0].transpose(1, 2),
    "mask": lambda x: x * (torch.rand_like(x) > 0.1) / 0.9,
    "mask, rare": lambda x: x * (torch.rand(x.shape) >= 1e-4),
    "mask, uniform_": lambda x: x * (torch.empty_like(x).uniform_(-1, 1) > -0.99),
    "mask, bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.999)),
    "mask, bernoulli of a tensor": lambda x: x * torch.empty_like(x).bernoulli_(torch.full_like(x, 0.999)),
    "mask, of features": lambda x: x * torch.bernoulli(torch.full((32,), 0.9)).to(x),
    "where": lambda x: torch.where(torch.rand_like(x) < 0.1, 0.0, x),
    "masked_fill": lambda x: x.masked_fill(torch.rand_like(x) < 0.1, 0.0),
    "mask, distribution": lambda x: x * torch.distributions.Bernoulli(0.9).sample(x.shape),
    "mask, randint": lambda x: x * torch.randint(0, 2, x.shape),
    "mask, NumPy": lambda x: x * torch.from_numpy(np.random.rand(*x.shape) > 0.5),  # noqa: NPY002 as users write it
    "mask, Python": lambda x: x * torch.tensor([random.random() > 0.5 for _ in range(32)]),
    "noise": lambda x: x + 0.1 * torch.randn_like(x),
    "noise of rows": lambda x: x + 0.1 * torch.randn_like(x[..., :1]),
    "multiplied noise": lambda x: x * (1 + 0.1 * torch.randn_like(x)),
    "noise in place": lambda x: x + torch.empty_like(x).exponential_(),
}
"""They do not commute with centering."""
COMMUTES: dict[str, Operation] = {
    "nothing": lambda x: x,
    "dropout of zero": nn.Dropout(0.0),
    "mask of all": lambda x: x * torch.bernoulli(torch.ones_like(x)),
    "drop path": drop_path,
    "drop path, floor": lambda x: x * (0.7 + torch.rand(len(x), 1, 1)).floor() / 0.7,
    "1d, tokens": nn.Dropout1d(0.3),
    "tokens": lambda x: x * (torch.rand_like(x[..., :1]) > 0.3),
    "noise of rows, multiplied": lambda x: x * torch.rand_like(x[..., :1]),
    "features in another order": lambda x: x[..., torch.randperm(32)],
    "centered noise": lambda x: x + (noise := torch.randn_like(x)) - noise.mean(-1, keepdim=True),
    "layer drop, Python": lambda x: x if random.random() < 0.5 else 0 * x,
}
"""They commute with centering: they act on whole rows or keep their mean."""


def measured(model: nn.Module) -> Tensor:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 as users write it
    random.seed(1)
    with torch.no_grad():
        return copy.deepcopy(model).train()(IDS)


@pytest.mark.parametrize("name", [*ADDS_A_MEAN, *COMMUTES])
def test_training_is_the_same_function_or_the_report_says_that_it_is_not(name: str) -> None:
    model = Stream(ADDS_A_MEAN.get(name) or COMMUTES[name]).double().train(len(name) % 2 == 0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1)
    before = measured(model)
    report = normscope.to_rms_norm(model, IDS)
    assert report.difference < 1e-13
    assert report.same_in_training is (name in COMMUTES)
    # What the first norm reads is the embedding.
    assert ("gives rows a mean, which 2 of 3 norms read: norms.1, norms.2" in report.training) == (name in ADDS_A_MEAN)
    assert ("training: another" in str(report)) == (name in ADDS_A_MEAN)
    gap = float((measured(model) - before).abs().max() / before.abs().max())
    if "rare" not in name:
        assert gap < 1e-12 if name in COMMUTES else gap > 1e-5


def test_the_mode_of_the_model_does_not_matter() -> None:
    for training in (True, False):
        assert normscope.to_rms_norm(Stream(ADDS_A_MEAN["alpha"]).train(training), IDS).same_in_training is False
        assert normscope.to_rms_norm(Stream(drop_path).train(training), IDS).same_in_training is True


@pytest.mark.parametrize("name", [*ADDS_A_MEAN, *COMMUTES])
def test_what_acts_in_evaluation_too_is_refused_unless_it_commutes(name: str) -> None:
    model = Stream(ADDS_A_MEAN.get(name) or COMMUTES[name], always=True).double().train(len(name) % 2 == 0)
    if name in COMMUTES:
        assert normscope.to_rms_norm(model, IDS).same_in_training
        return
    with pytest.raises(ValueError, match=r"a mean that no weights can be centered to remove: norms\.1, norms\.2"):
        normscope.to_rms_norm(model, IDS)


@pytest.mark.parametrize("name", [*ADDS_A_MEAN, *COMMUTES])
def test_within_a_branch_anything_may_happen(name: str) -> None:
    model = Stream(in_branch=ADDS_A_MEAN.get(name) or COMMUTES[name], always=True).double()
    assert normscope.to_rms_norm(model, IDS).same_in_training


def test_random_numbers_in_evaluation_are_named() -> None:
    model = Stream(ADDS_A_MEAN["mask"], always=True)
    with pytest.raises(ValueError, match="random numbers that the model draws in evaluation, too"):
        normscope.to_rms_norm(model, IDS)


def test_a_generator_of_the_model_draws_the_same_before_and_after() -> None:
    model = Stream(always=True).double()
    model.generator = torch.Generator()
    model.in_branch = lambda x: x * (torch.rand(x.shape, generator=model.generator) > 0.5)
    # In a copy, too, for a closure is not copied: its draws go on.
    with pytest.raises(ValueError, match="random numbers that the model draws in evaluation, too"):
        normscope.to_rms_norm(model, IDS)
    assert normscope.to_rms_norm(OwnGenerator().double(), IDS).same_in_training


class OwnGenerator(Stream):
    def __init__(self) -> None:
        super().__init__(self.drops_rows, self.draws, always=True)
        self.generator = torch.Generator()

    def draws(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape, generator=self.generator) > 0.5)

    def drops_rows(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1, 1, generator=self.generator) > 0.5)


class NeedsTargets(Stream):
    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        if self.training and targets is None:
            raise ValueError("targets are needed")
        return super().forward(ids)


class ReadsTheMeanInTraining(Stream):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + (self.embed(ids).mean() if self.training else 0)


def test_training_that_was_not_compared_and_training_that_reads_the_mean() -> None:
    report = normscope.to_rms_norm(NeedsTargets(), IDS)
    assert report.same_in_training is None
    assert report.training == (
        "not compared, as the model does not run in training mode with these arguments: ValueError: targets are needed"
    )
    report = normscope.to_rms_norm(ReadsTheMeanInTraining(), IDS)
    assert report.same_in_training is False
    assert "of their size, as something else reads the mean of the stream" in report.training


def test_modules_that_stay_in_evaluation_are_compared_as_they_are() -> None:
    model = Stream()
    model.drop = nn.Dropout(0.5)
    model.on_stream = model.drop
    assert normscope.to_rms_norm(model, IDS).same_in_training is False
    model = Stream()
    model.drop = nn.Dropout(0.5).eval()
    model.on_stream = model.drop
    assert normscope.to_rms_norm(model, IDS).same_in_training is True


def test_frequent_draws() -> None:
    torch.manual_seed(0)
    ones = torch.ones(1000)
    with FrequentDraws():
        dropped = F.dropout(ones, 0.999)
        always, never = torch.bernoulli(ones), F.dropout(ones, 1.0)
        uniform, normal = torch.empty(1000).uniform_(2, to=6), torch.randn(1000)
        drawn, (fused, _) = torch.rand(1000), torch.native_dropout(ones, 0.001, True)
    assert 0.4 < float((dropped == 0).double().mean()) < 0.6
    assert 0.4 < float((fused == 0).double().mean()) < 0.6
    assert bool((always == 1).all() and (never == 0).all())
    assert set(drawn.mul(1e6).round().tolist()) == {1.0, 999999.0}
    assert 0.4 < float(drawn.mean()) < 0.6
    assert (float(uniform.min()), float(uniform.max())) == (pytest.approx(2, abs=1e-5), pytest.approx(6, abs=1e-5))
    assert len(normal.unique()) > 900
