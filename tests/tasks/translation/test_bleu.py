"""BLEU's statistics and signature against sacreBLEU's corpus score."""

import builtins
import random

import numpy as np
import pytest

from normscope.results.aggregates import AGGREGATES
from normscope.tasks.translation.bleu import TOKENIZERS, bleu_statistics

sacrebleu = pytest.importorskip("sacrebleu")

WORDS = ["A", "a", "Man", "man", "runs,", "fast.", "(slowly)", "and", "30,000", "x-y", "häuser", "東京"]


def text(seed: int, sentences: int, longest: int = 12) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(longest + 1))) for _ in range(sentences)]


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@pytest.mark.parametrize("lowercase", [False, True])
def test_the_sums_give_the_corpus_score(tokenize: str, lowercase: bool) -> None:
    hypotheses, references = text(1, 60), text(2, 60)
    metric = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
    want = metric.corpus_score(hypotheses, [references])
    statistics, signature = bleu_statistics(hypotheses, references, tokenize=tokenize, lowercase=lowercase)
    assert statistics.shape == (60, 10)
    assert statistics.dtype == np.float32
    assert statistics.sum(axis=0).tolist() == [want.sys_len, want.ref_len, *want.counts, *want.totals]
    assert AGGREGATES["bleu"].value(statistics) == pytest.approx(want.score, abs=1e-9)
    assert signature == str(metric.get_signature())


def test_statistics_of_a_hand_counted_sentence() -> None:
    # "the the cat" against "the cat sat": one "the" is clipped, "the cat" is the one bigram in both.
    statistics, signature = bleu_statistics(["the the cat", ""], ["the cat sat", "gone"], tokenize="none")
    assert statistics.tolist() == [[3, 3, 2, 1, 0, 0, 3, 2, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert signature == f"nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:{sacrebleu.__version__}"


def test_signatures_tell_settings_apart() -> None:
    pairs = (["a b c d"], ["a b c d"])
    signatures = {
        bleu_statistics(*pairs, tokenize=tokenize, lowercase=case)[1]
        for tokenize in TOKENIZERS
        for case in (False, True)
    }
    assert len(signatures) == 2 * len(TOKENIZERS)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        bleu_statistics(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        bleu_statistics([], [])
    with pytest.raises(ValueError, match="tokenize must be one of 13a, intl, none, char, zh, got 'spm'"):
        bleu_statistics(["a"], ["a"], tokenize="spm")


def test_without_sacrebleu_the_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object, **named: object) -> object:
        if name.startswith("sacrebleu"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest, **named)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install normscope\[text\]"):
        bleu_statistics(["a"], ["a"])
