"""Word vectors from counts of neighbours: positive pointwise mutual information and a truncated SVD, by numpy."""

import numpy as np


def word_vectors(
    text: np.ndarray, vocabulary: int, width: int, rng: np.random.Generator, *, first: int = 1, near: int = 2
) -> np.ndarray:
    r"""Compute vectors of words from their neighbours.

    .. math::
        M_{wc} = \max\Big(0, \log \frac{n_{wc}}{n_w\, p_c}\Big), \quad p_c \propto n_c^{3/4}, \quad
        M \approx U S V^\top, \quad X = U S^{1/2}

    with :math:`n_{wc}` the number of places where c stands within ``near`` words of w. The rows of X are divided by
    their length. The SVD is that of a random subspace, after four iterations.

    Args:
        text: Symbols in order, ``[N]`` integers from 0 to ``vocabulary`` - 1.
        vocabulary: V, the number of symbols. Memory grows with its square.
        width: D, at most V - 16.
        rng: Random generator of the subspace.
        first: The first symbol that is a word; those before it, such as the ends of sentences, count nowhere.
        near: Words to either side that are neighbours.

    Returns:
        ``[V, D]`` float32, with zeros for symbols without neighbours.

    References:
        Levy, Goldberg, Dagan (2015). Improving distributional similarity with lessons learned from word embeddings.
            TACL 3, sections 3.1 and 3.3. Halko, Martinsson, Tropp (2011), arXiv:0909.4061, algorithm 4.4.
        Departs from it in: nothing.
    """
    counts = np.zeros((vocabulary, vocabulary), dtype=np.float32)
    for shift in range(1, near + 1):
        pairs, times = np.unique(text[:-shift].astype(np.int64) * vocabulary + text[shift:], return_counts=True)
        counts.ravel()[pairs] += times
    counts += counts.T.copy()
    counts[:first] = counts[:, :first] = 0
    totals = counts.sum(1, dtype=np.float64)
    shares = totals**0.75 / max((totals**0.75).sum(), 1.0)
    rows, columns = counts.nonzero()
    information = np.log(counts[rows, columns] / (totals[rows] * shares[columns]))
    counts[rows, columns] = np.maximum(information, 0.0)
    space = rng.standard_normal((vocabulary, width + 16), dtype=np.float32)
    for _ in range(4):
        space = np.linalg.qr(counts @ space)[0]
    left, sizes, _ = np.linalg.svd(space.T @ counts, full_matrices=False)
    vectors = (space @ left)[:, :width] * np.sqrt(sizes[:width])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
