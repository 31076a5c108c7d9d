"""BLEU by sacreBLEU: the counts of every sentence, and the signature of the scorer."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

TOKENIZERS = ("13a", "intl", "none", "char", "zh")
"""sacreBLEU's tokenizers that need no further package and no download."""


def bleu_signature(*, tokenize: str, lowercase: bool) -> str:
    """Return sacreBLEU's signature for a single reference and default settings; ``version:none`` if not installed."""
    try:
        number = version("sacrebleu")
    except PackageNotFoundError:
        number = "none"
    return f"nrefs:1|case:{'lc' if lowercase else 'mixed'}|eff:no|tok:{tokenize}|smooth:exp|version:{number}"


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> tuple[np.ndarray, str]:
    """Compute the n-gram counts of every sentence for corpus BLEU.

    The aggregate ``bleu`` of the counts equals sacreBLEU's corpus score.

    Args:
        hypotheses: ``E`` translations, possibly empty.
        references: A reference per hypothesis.
        tokenize: One of :data:`TOKENIZERS`; ``"none"`` for tokenized text.
        lowercase: Whether case is ignored.

    Returns:
        Counts ``[E, 10]`` float32: lengths of hypothesis and reference in tokens, matched 1- to 4-grams, and 1- to
        4-grams of the hypothesis; and sacreBLEU's signature. Scores with different signatures must not be compared.

    Raises:
        ValueError: If there are no sentences, the numbers of sentences differ, or ``tokenize`` is not in
            :data:`TOKENIZERS`.
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
        raise ImportError("BLEU needs sacrebleu, which is not installed: run `pip install normscope[text]`") from error

    corpus = BLEU(tokenize=tokenize, lowercase=lowercase)
    # The signature contains the number of references, which is known only after scoring.
    corpus.corpus_score(hypotheses, [references])
    # The effective order affects a sentence's score, not its counts; without it, sacreBLEU warns per sentence.
    sentence = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    scores = (sentence.sentence_score(*pair) for pair in zip(hypotheses, ([text] for text in references), strict=True))
    rows = [(score.sys_len, score.ref_len, *score.counts, *score.totals) for score in scores]
    return np.array(rows, dtype=np.float32), str(corpus.get_signature())
