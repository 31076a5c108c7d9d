"""Measure what a claim over splits of one pool says of new data: ``./run bench splits`` prints the guide's table.

A pool of 1,000 examples is split 80/10/10 anew for every seed. Both arms classify by the projection on the mean of the
training examples, each on 20 features of its own that are equally good in the population, so the arms differ by nothing
there, and by the luck of its features in a pool. The noise of training is Gaussian noise on the projection. The test
over seeds is the sign-flip test with 4,095 random vectors; the corrected one is the resampled t test of Nadeau and
Bengio (2003), "Inference for the generalization error", section 5: its variance is ``(1/S + n_test/n_train) s^2``.
"""

import argparse
import time

import numpy as np
from scipy import special

EXAMPLES, FEATURES, TESTED, TRAINED = 1000, 20, 100, 800
SEEDS = (6, 10, 20, 30)
ALPHA, DRAWS = 0.05, 4095

SIGNAL = 0.25
"""Mean of every feature in one class, and of its negative in the other."""

NOISES = {"none": 0.0, "as much as the splits": 0.215}
"""Standard deviation of the noise on the weights of a projection, which are near :data:`SIGNAL`."""


def accuracies(x: np.ndarray, train: np.ndarray, test: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Train and test one arm for every seed.

    Args:
        x: Features times the label, ``[E, F]``, so that an example is right if its projection is positive.
        train: Training examples of every seed, ``[S, E]`` bool.
        test: Test examples.
        noise: Noise of the weights, ``[S, F]``.

    Returns:
        Accuracy in percent, ``[S]``.
    """
    weights = train @ x / TRAINED + noise
    right = (weights @ x.T) > 0
    return 100.0 * (right & test).sum(axis=1) / TESTED


def differences(rng: np.random.Generator, seeds: int, noise: float, *, alike: bool) -> np.ndarray:
    """Draw a pool and return the difference of the arms for every seed.

    Args:
        rng: Random generator.
        seeds: Number of seeds.
        noise: Standard deviation of the noise of training.
        alike: Whether both arms see the same features, so that they differ by nothing in the pool, either.
    """
    pools = [rng.normal(SIGNAL, 1.0, size=(EXAMPLES, FEATURES)) for _ in range(2)]
    order = rng.random((seeds, EXAMPLES)).argsort(axis=1)
    train, test = order < TRAINED, order >= EXAMPLES - TESTED
    sides = [
        accuracies(pools[0 if alike else arm], train, test, noise * rng.normal(size=(seeds, FEATURES)))
        for arm in range(2)
    ]
    return sides[0] - sides[1]


def sign_flip(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compute the two-sided p-values of many studies, ``[N, S]`` to ``[N]``."""
    signs = rng.choice([-1.0, 1.0], size=(DRAWS, values.shape[1]))
    sums = np.abs(values @ signs.T)
    return (1 + (sums >= np.abs(values.sum(axis=1, keepdims=True)) - 1e-9).sum(axis=1)) / (1 + DRAWS)


def corrected_t(values: np.ndarray) -> np.ndarray:
    """Compute the two-sided p-values of the resampled t test with Nadeau and Bengio's variance."""
    seeds = values.shape[1]
    error = np.sqrt((1 / seeds + TESTED / TRAINED) * values.var(axis=1, ddof=1))
    return 2 * special.stdtr(seeds - 1, -np.abs(values.mean(axis=1)) / error)


def measure(studies: int) -> list[str]:
    """Return the rows of the table."""
    rows = []
    for place, (noise, size) in enumerate(NOISES.items()):
        for alike in (False, True):
            if alike and not size:
                # Equal features and no noise: the arms are equal.
                continue
            rng = np.random.default_rng([20031001, place, alike])
            values = np.stack([differences(rng, max(SEEDS), size, alike=alike) for _ in range(studies)])
            # A true difference of one standard deviation of the pool's paired differences.
            effects = values.std(axis=1, ddof=1, keepdims=True)
            for seeds in SEEDS:
                some = values[:, :seeds]
                tests = [(sign_flip(each, rng), corrected_t(each)) for each in (some, some + effects)]
                cells = [f"{100 * (p < ALPHA).mean():.1f} %" for both in tests for p in both]
                where = "in this pool and in the population" if alike else "in the population"
                rows.append(f"| {where} | {noise} | {seeds} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    begin = time.perf_counter()
    print("\n".join(measure(options.studies)))
    print(f"{options.studies} pools a row, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
