"""BLEU by sacreBLEU: the counts of every sentence, and the signature that says which BLEU it is."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

TOKENIZERS = ("13a", "intl", "none", "char", "zh")
"""sacreBLEU's tokenizers that need neither another package nor the network."""


def bleu_signature(*, tokenize: str, lowercase: bool) -> str:
    """Give the signature that sacreBLEU prints for one reference and its own defaults; ``version:none`` without it."""
    try:
        number = version("sacrebleu")
    except PackageNotFoundError:
        number = "none"
    return f"nrefs:1|case:{'lc' if lowercase else 'mixed'}|eff:no|tok:{tokenize}|smooth:exp|version:{number}"


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> tuple[np.ndarray, str]:
    """Count for every sentence what corpus BLEU is computed from.

    The sums over sentences give sacreBLEU's corpus score by the aggregate ``bleu``.

    Args:
        hypotheses: ``E`` translations; an empty one is counted as such.
        references: One reference each.
        tokenize: One of :data:`TOKENIZERS`; ``"none"`` for text that is tokenized already.
        lowercase: Whether case is ignored.

    Returns:
        ``[E, 10]`` float32, every number a whole one: lengths of hypothesis and reference in tokens, then matched
        1- to 4-grams, then 1- to 4-grams of the hypothesis; and the signature, as sacreBLEU prints it, with its
        version. Scores of different signatures must not be compared.

    Raises:
        ValueError: If there are no sentences, the two sides differ in number, or the tokenizer is not one of ours.
        ImportError: If sacreBLEU is not installed.

    References:
        Post (2018). A call for clarity in reporting BLEU scores.
    """
    if tokenize not in TOKENIZERS:
        raise ValueError(f"tokenize must be one of {', '.join(TOKENIZERS)}, got {tokenize!r}")
    if len(hypotheses) != len(references) or not len(references):
        raise ValueError(
            f"expected as many hypotheses as references, at least one, got {len(hypotheses)} and {len(references)}"
        )
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError("BLEU needs sacrebleu, which is not here: `pip install normscope[text]` brings it") from error

    corpus = BLEU(tokenize=tokenize, lowercase=lowercase)
    # The signature is complete only once a corpus was scored: it holds the number of references.
    corpus.corpus_score(hypotheses, [references])
    # The effective order changes a sentence's score and none of its counts; without it every sentence would warn.
    sentence = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    scores = (sentence.sentence_score(*pair) for pair in zip(hypotheses, ([text] for text in references), strict=True))
    rows = [(score.sys_len, score.ref_len, *score.counts, *score.totals) for score in scores]
    return np.array(rows, dtype=np.float32), str(corpus.get_signature())
