"""Tests of vectors against plain scripts of scikit-learn and scipy, on given vectors."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict

from normscope.tasks.skip_thoughts.evaluation import (
    PENALTIES,
    correlations,
    folded_scores,
    nested_scores,
    normalized,
    pair_features,
    relatedness,
    split_scores,
)

RNG = np.random.default_rng(0)


def examples(count: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw vectors of length one whose classes overlap."""
    x = normalized(RNG.normal(size=(count, 5)))
    scores = x[:, :classes] + 0.3 * RNG.normal(size=(count, classes))
    return x, scores.argmax(1)


def test_nested_cross_validation_is_scikit_learns() -> None:
    x, y = examples(120)
    folds = KFold(4)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [2**power for power in range(9)]}, cv=folds)
    expected = np.asarray(cross_val_predict(search, x, y, cv=folds)) == y
    assert np.array_equal(nested_scores(x, y, folds=4), expected)
    assert 0.6 < expected.mean() < 1


def test_a_test_part_of_its_own_is_scikit_learns() -> None:
    (x, y), test = examples(120, 3), examples(40, 3)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": PENALTIES}, cv=KFold(4)).fit(x, y)
    assert np.array_equal(folded_scores((x, y), test, folds=4), search.predict(test[0]) == test[1])


def test_the_first_best_c_of_the_validation_part_is_fitted_again_with_both() -> None:
    train, valid, test = examples(60), examples(30), examples(50)
    scores = [LogisticRegression(C=c, max_iter=1000).fit(*train).score(*valid) for c in PENALTIES]
    assert len(set(scores)) > 1
    best = PENALTIES[int(np.argmax(scores))]
    model = LogisticRegression(C=best, max_iter=1000).fit(
        np.concatenate([train[0], valid[0]]), np.concatenate([train[1], valid[1]])
    )
    assert np.array_equal(split_scores(train, valid, test), model.predict(test[0]) == test[1])


def test_relatedness_minimizes_the_cross_entropy_of_soft_targets() -> None:
    """Beside a minimization by scipy of the objective that Tai et al. state, with an L2 penalty."""
    x, validation, test = (RNG.normal(size=(count, 3)) for count in (60, 40, 20))
    truth = RNG.normal(size=3)

    def score(features: np.ndarray) -> np.ndarray:
        return np.round(np.clip(3 + features @ truth, 1, 5), 1)

    found = relatedness((x, score(x)), (validation, score(validation)), test)

    def predictions(penalty: float, features: np.ndarray) -> np.ndarray:
        y = score(x)
        below = np.floor(y).astype(int)
        targets = np.zeros((len(y), 6))
        targets[np.arange(len(y)), below - 1] = below + 1 - y
        targets[np.arange(len(y)), below] += y - below
        targets = targets[:, :5]

        def objective(parameters: np.ndarray) -> float:
            weights, bias = parameters[:15].reshape(3, 5), parameters[15:]
            loss = -(targets * log_softmax(x @ weights + bias, 1)).sum()
            return penalty * loss + 0.5 * (weights**2).sum()

        best = minimize(objective, np.zeros(20), options={"gtol": 1e-6}).x
        return softmax(features @ best[:15].reshape(3, 5) + best[15:], 1) @ np.arange(1, 6)

    by_penalty = {
        penalty: np.corrcoef(predictions(penalty, validation), score(validation))[0, 1]
        for penalty in (1.0, 16.0, 256.0)
    }
    best = max(by_penalty, key=by_penalty.__getitem__)
    np.testing.assert_allclose(found, predictions(best, test), atol=0.02)
    assert 1 <= found.min() <= found.max() <= 5


def test_measures_of_pairs_by_hand() -> None:
    features = pair_features(np.array([[1.0, 2.0]]), np.array([[3.0, -1.0]]))
    assert features.tolist() == [[2.0, 3.0, 3.0, -2.0]]
    found = correlations(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0]))
    scores = np.round(RNG.normal(size=40), 1)
    predicted = np.round(scores + RNG.normal(size=40), 1)
    theirs: Any = spearmanr(predicted, scores)
    assert correlations(predicted, scores)["rho"] == pytest.approx(theirs[0])
    assert found == {"r": pytest.approx(0.3273, abs=1e-4), "rho": pytest.approx(0.5), "MSE": pytest.approx(5 / 3)}


def test_vectors_have_length_one_and_zeros_stay() -> None:
    assert normalized(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]
