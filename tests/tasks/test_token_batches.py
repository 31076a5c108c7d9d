"""Batches by tokens: every example once a pass, never over the budget, little padding, any step at any time."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from normscope.tasks.batching import TokenBatches


def generator_of_pass(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + number)


def lengths(examples: int, seed: int = 0) -> np.ndarray:
    return 1 + np.random.default_rng(seed).geometric(1 / 20, examples).clip(max=99)


def passes(batches: TokenBatches, number: int) -> list[list[list[int]]]:
    step, got = 0, []
    for each in range(number):
        got.append([batches.batch(step + place).tolist() for place in range(batches.count(each))])
        step += batches.count(each)
    return got


@pytest.mark.parametrize(("examples", "tokens"), [(1, 100), (7, 100), (5000, 100), (5000, 1000), (300, 10**9)])
def test_every_example_once_a_pass_and_no_batch_over_the_budget(examples: int, tokens: int) -> None:
    sizes = lengths(examples)
    for batches in passes(TokenBatches(sizes, tokens, generator_of_pass), 3):
        assert sorted(index for batch in batches for index in batch) == list(range(examples))
        assert all(batch for batch in batches)
        assert max(len(batch) * sizes[batch].max() for batch in batches) <= tokens


def test_batches_are_as_large_as_the_budget_allows() -> None:
    sizes = np.full(1000, 7)
    [batches] = passes(TokenBatches(sizes, 100, generator_of_pass), 1)
    # 14 times 7 is 98; 1000 = 71 * 14 + 6.
    assert sorted(map(len, batches)) == [6] + [14] * 71


@pytest.mark.parametrize("tokens", [1024, 4096])
def test_padding_of_sentences_is_small(tokens: int, small_data: Path) -> None:
    sides = []
    for language in ("de", "en"):
        with gzip.open(small_data / "multi30k" / "raw" / f"train.{language}.gz", "rt", encoding="utf-8") as file:
            sides.append([len(line.split()) + 1 for line in file])
    sizes = np.max(sides, axis=0)
    [batches] = passes(TokenBatches(sizes, tokens, generator_of_pass), 1)
    padded = sum(len(batch) * sizes[batch].max() for batch in batches)
    share = 1 - sizes.sum() / padded
    in_random_order = sum(
        len(part) * part.max() for part in np.array_split(np.random.default_rng(0).permutation(sizes), len(batches))
    )
    print(f"padding {share:.2%}, in random order {1 - sizes.sum() / in_random_order:.2%}")
    assert share < 0.1
    assert 1 - sizes.sum() / in_random_order > 0.3


@pytest.mark.parametrize("order", ["backwards", "mixed"])
def test_any_step_can_be_asked_for_at_any_time(order: str) -> None:
    sizes = lengths(2000)
    whole = TokenBatches(sizes, 500, generator_of_pass)
    want = [whole.batch(step) for step in range(300)]
    assert len({whole.count(number) for number in range(4)}) > 1
    again = TokenBatches(sizes, 500, generator_of_pass)
    steps = list(range(300))[::-1] if order == "backwards" else torch.randperm(300).tolist()
    for step in steps:
        assert torch.equal(again.batch(step), want[step])
    for step in (0, 99, 100, 299):
        assert torch.equal(TokenBatches(sizes, 500, generator_of_pass).batch(step), want[step])


def test_batches_differ_between_passes_and_seeds() -> None:
    sizes = lengths(2000)
    first, second = passes(TokenBatches(sizes, 500, generator_of_pass), 2)
    [other] = passes(TokenBatches(sizes, 500, lambda number: torch.Generator().manual_seed(7)), 1)
    sets = [{frozenset(batch) for batch in batches} for batches in (first, second, other)]
    # Only the few longest sentences can be alone, or meet again.
    assert len(sets[0] & sets[1]) < 0.05 * len(sets[0])
    assert len(sets[0] & sets[2]) < 0.05 * len(sets[0])


def test_the_order_of_batches_says_nothing_of_length() -> None:
    sizes = lengths(20_000)
    [batches] = passes(TokenBatches(sizes, 500, generator_of_pass), 1)
    means = np.array([sizes[batch].mean() for batch in batches])
    # Correlation of neighbours: a standard error of one over the root of some 850 batches; five of them.
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 5 / len(batches) ** 0.5
    # Yet each batch has examples of one kind.
    assert np.mean([sizes[batch].std() for batch in batches]) < 0.2 * sizes.std()


def test_a_late_step_costs_one_order_for_each_pass_before_it() -> None:
    drawn = []

    def counted(number: int) -> torch.Generator:
        drawn.append(number)
        return generator_of_pass(number)

    batches = TokenBatches(lengths(20_000), 4096, counted)
    step = sum(batches.count(number) for number in range(6))
    drawn.clear()
    again = TokenBatches(lengths(20_000), 4096, counted)
    assert len(again.batch(step)) >= 1
    # One order for every pass that is skipped and one for the pass of the step, not one for every step.
    assert sorted(set(drawn)) == list(range(7))
    assert len(drawn) <= 2 * 7


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="example 2 has 101 tokens, more than the 100 that a batch may have"):
        TokenBatches(np.array([5, 100, 101]), 100, generator_of_pass)
    with pytest.raises(ValueError, match="lengths must be 1 or more, example 1 has 0"):
        TokenBatches(np.array([5, 0, 3]), 100, generator_of_pass)
    with pytest.raises(ValueError, match=r"at least one, got \[0\] int64"):
        TokenBatches(np.zeros(0, dtype=np.int64), 100, generator_of_pass)
    with pytest.raises(ValueError, match=r"integer lengths \[N\], at least one, got \[3\] float64"):
        TokenBatches(np.ones(3), 100, generator_of_pass)
    with pytest.raises(ValueError, match="step must be 0 or more, got -1"):
        TokenBatches(np.ones(3, dtype=np.int64), 100, generator_of_pass).batch(-1)
