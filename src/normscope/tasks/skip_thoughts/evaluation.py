"""Tests of vectors of sentences by scikit-learn: classes by logistic regression, and the relatedness of pairs."""

from typing import Any

import numpy as np

PENALTIES = tuple(2.0**power for power in range(9))
"""Values of C, the inverse of the penalty, of which the best is taken."""

FOLDS = 10

PAIR_PENALTIES = PENALTIES[::4]
"""The same for pairs, whose fits take longest."""

ITERATIONS = 1000
"""Most iterations of a fit; vectors of length one take about a hundred."""


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Return vectors ``[N, D]`` of length one, as the published code tests them; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def fit(x: np.ndarray, y: np.ndarray, penalty: float, weights: np.ndarray | None = None) -> Any:
    """Fit a logistic regression with scikit-learn: vectors ``[N, D]``, classes ``[N]`` int64, weights ``[N]``."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=penalty, max_iter=ITERATIONS).fit(x, y, weights)


def split_scores(
    train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Fit on the training part with the C that is best on the validation part, again with both, and test.

    Args:
        train: Vectors ``[N, D]`` and classes ``[N]``.
        valid: The same for the choice of C, the first of several best ones.
        test: The same for the test.

    Returns:
        Whether each test example is right, ``[E]`` bool.
    """
    best = max(PENALTIES, key=lambda penalty: fit(*train, penalty).score(*valid))
    both = [np.concatenate(pair) for pair in zip(train, valid, strict=True)]
    return fit(both[0], both[1], best).predict(test[0]) == test[1]


def nested_scores(x: np.ndarray, y: np.ndarray, *, folds: int = FOLDS) -> np.ndarray:
    """Test every example once by nested cross-validation: the inner folds choose C, the outer ones test.

    Args:
        x: Vectors ``[N, D]``, in random order.
        y: Classes ``[N]``.
        folds: Number of folds, of consecutive examples, inside and outside.

    Returns:
        Whether each is right, ``[N]`` bool.

    References:
        Kiros et al. (2015). Skip-thought vectors, section 3.4, and its code, ``eval_classification.py``.
    """
    from sklearn.model_selection import KFold

    right = np.zeros(len(y), dtype=bool)
    for train, test in KFold(folds).split(x):
        best = _best_by_folds(x[train], y[train], folds)
        right[test] = fit(x[train], y[train], best).predict(x[test]) == y[test]
    return right


def folded_scores(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, folds: int = FOLDS
) -> np.ndarray:
    """Choose C by cross-validation of the training part, and test: whether each test example is right, ``[E]`` bool.

    Args:
        train: Vectors ``[N, D]``, in random order, and classes ``[N]``.
        test: The same for the test.
        folds: Number of folds.

    References:
        Kiros et al. (2015), ``eval_trec.py``.
    """
    return fit(*train, _best_by_folds(*train, folds)).predict(test[0]) == test[1]


def _best_by_folds(x: np.ndarray, y: np.ndarray, folds: int) -> float:
    from sklearn.model_selection import KFold

    def score(penalty: float) -> float:
        parts = KFold(folds).split(x)
        return float(np.mean([fit(x[a], y[a], penalty).score(x[b], y[b]) for a, b in parts]))

    return max(PENALTIES, key=score)


def pair_features(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the features of pairs of vectors ``[N, D]``: ``|u - v|`` and ``u * v``, ``[N, 2 D]``."""
    return np.concatenate([np.abs(first - second), first * second], axis=1)


def relatedness(
    train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray], test: np.ndarray
) -> np.ndarray:
    r"""Predict scores from 1 to 5 as means over five classes.

    The target of a score y has :math:`p_{\lfloor y \rfloor} = \lfloor y \rfloor + 1 - y` and
    :math:`p_{\lfloor y \rfloor + 1} = y - \lfloor y \rfloor`; the prediction is :math:`\sum_k k\, p_k`. The cross
    entropy of such a target is that of both classes with these weights, which scikit-learn takes.

    Args:
        train: Features ``[N, D]`` and scores ``[N]``.
        valid: The same for the choice of C: the highest Pearson correlation.
        test: Features ``[E, D]``.

    Returns:
        Predictions ``[E]`` float64.

    References:
        Tai et al. (2015). Improved semantic representations from tree-structured LSTMs, section 4.2. Kiros et al.
            (2015), section 3.1, and its code, ``eval_sick.py``. Departs from it in: an L2 penalty whose C is chosen,
            instead of Adam that stops when the correlation falls.
    """
    features, scores = train
    below = np.floor(scores).astype(np.int64)
    share = scores - below
    parts = [(below, 1 - share), (below + 1, share)]
    rows = np.concatenate([np.flatnonzero(weight) for _, weight in parts])
    classes = np.concatenate([label[weight > 0] for label, weight in parts])
    weights = np.concatenate([weight[weight > 0] for _, weight in parts])

    def predict(penalty: float, x: np.ndarray) -> np.ndarray:
        fitted = fit(features[rows], classes, penalty, weights)
        return fitted.predict_proba(x) @ fitted.classes_

    best = max(PAIR_PENALTIES, key=lambda penalty: np.corrcoef(predict(penalty, valid[0]), valid[1])[0, 1])
    return predict(best, test)


def correlations(predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return Pearson's r, Spearman's rho and the mean squared error of predictions ``[E]``."""
    from scipy.stats import rankdata

    return {
        "r": float(np.corrcoef(predicted, scores)[0, 1]),
        "rho": float(np.corrcoef(rankdata(predicted), rankdata(scores))[0, 1]),
        "MSE": float(np.mean((predicted - scores) ** 2)),
    }


def shuffled_order(count: int, seed: int | None) -> np.ndarray:
    """Return the order of examples in cross-validation, ``[count]`` int64; without a seed the published one, 1234."""
    return np.random.default_rng(1234 if seed is None else seed).permutation(count)
