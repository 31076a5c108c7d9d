"""Beam search over any model that gives the next token's logits; greedy decoding is a beam of one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

PENALTIES: dict[str, Callable[[float, float], float]] = {
    "length": lambda length, alpha: length**alpha,
    "gnmt": lambda length, alpha: ((5 + length) / 6) ** alpha,
}
"""What a hypothesis' log-probability is divided by, from its length, the end counted, and alpha."""


class BeamState(Protocol):
    """What a decoder remembers, one row a hypothesis."""

    def repeat(self, beam: int) -> Self:
        """Give every row ``beam`` times, copies side by side."""
        ...

    def reorder(self, indices: Tensor) -> Self:
        """Give the rows of ``indices``, ``[R]`` int64; rows may be missing or occur several times."""
        ...


S = TypeVar("S", bound=BeamState)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A finished sentence."""

    tokens: list[int]
    """Its ids, without beginning and end."""
    log_probability: float
    """Sum over its tokens and its end, in nats."""
    score: float
    """The same over the length penalty."""


def beam_search(
    start_state: S,
    step: Callable[[S, Tensor], tuple[Tensor, S]],
    *,
    beam: int,
    max_length: Tensor,
    bos: int,
    eos: int,
    alpha: float = 1.0,
    penalty: Literal["length", "gnmt"] = "length",
    never: Sequence[int] = (),
) -> list[list[int]]:
    """Find the best sentence of each row; :func:`finished_hypotheses` says how, and what the arguments are.

    Returns:
        ``B`` lists of ids, without beginning and end.
    """
    found = finished_hypotheses(
        start_state,
        step,
        beam=beam,
        max_length=max_length,
        bos=bos,
        eos=eos,
        alpha=alpha,
        penalty=penalty,
        never=never,
    )
    return [hypotheses[0].tokens for hypotheses in found]


@torch.no_grad()
def finished_hypotheses(
    start_state: S,
    step: Callable[[S, Tensor], tuple[Tensor, S]],
    *,
    beam: int,
    max_length: Tensor,
    bos: int,
    eos: int,
    alpha: float = 1.0,
    penalty: Literal["length", "gnmt"] = "length",
    never: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    r"""Search for the sentences of highest score.

    .. math::
        score(y) = \frac{\sum_t \log p(y_t \mid y_{<t})}{penalty(|y|)}, \quad
        penalty(n) = n^\alpha \;\text{ or }\; \left(\frac{5 + n}{6}\right)^\alpha

    where :math:`|y|` counts the end. In each step the open hypotheses of a sentence, at first one, give all their
    continuations. Of the ``beam`` most probable ones those that end are finished; the ``beam`` most probable ones that
    do not end are the next open ones. At ``max_length`` tokens every open hypothesis must end.

    A sentence is done when ``beam`` hypotheses are finished, when none is open, or when no open one could still win:
    when the most probable open one, with no further loss and the penalty of the greatest length, would score no more
    than the best finished one. The last rule never changes the best hypothesis. What is done leaves the batch.

    Args:
        start_state: What the decoder knows at the beginning, one row for each of ``B`` sentences.
        step: Gives logits ``[R, V]`` of the next token and the new state, from the state of ``R`` hypotheses and the
            last token of each, ``[R]`` int64.
        beam: Open hypotheses a sentence.
        max_length: Most tokens of each sentence before its end, ``[B]`` int64, on the device of the state.
        bos: First token of every hypothesis.
        eos: Token that ends one.
        alpha: Strength of the length penalty; 0 is none.
        penalty: Which one, of :data:`PENALTIES`.
        never: Tokens that are never said, such as padding and the beginning; the others are not renormalized.

    Returns:
        For each sentence its finished hypotheses, no two alike, best first; at least one and at most ``2 beam - 1``.

    Raises:
        ValueError: If a logit is not finite, their shape is not ``[R, V]``, they are so far apart that nothing can end,
            a number is out of its range, ``penalty`` is unknown, or ``never`` forbids the end.

    References:
        Wu et al. (2016). Google's neural machine translation system, equation 14, for ``"gnmt"``, with no coverage.
        Ott et al. (2019). fairseq, whose generator divides by the power of the length.
    """
    _check(beam=beam, max_length=max_length, eos=eos, alpha=alpha, penalty=penalty, never=never)
    device = max_length.device
    limits: list[int] = max_length.tolist()
    # By the number of tokens before the end.
    divisor = [PENALTIES[penalty](length + 1, alpha) for length in range(max(limits, default=0) + 1)]
    finished: list[list[Hypothesis]] = [[] for _ in limits]
    open_sentences = list(range(len(limits)))
    state = start_state.repeat(beam)
    history = torch.empty(len(limits) * beam, 0, dtype=torch.int64, device=device)
    last = torch.full((len(limits) * beam,), bos, dtype=torch.int64, device=device)
    sums: Tensor | None = None

    while open_sentences:
        rows, length = len(open_sentences), history.shape[1]
        logits, state = step(state, last)
        logarithms = _log_probabilities(logits, rows * beam).view(rows, beam, -1)
        logarithms[..., list(never)] = -torch.inf
        vocabulary = logarithms.shape[-1]
        if sums is None:
            # At first all copies of a sentence are alike: only one is open.
            sums = logarithms.new_full((rows, beam), -torch.inf)
            sums[:, 0] = 0
        must_end = torch.tensor([limits[sentence] <= length for sentence in open_sentences], device=device)
        ends = torch.arange(vocabulary, device=device) == eos
        logarithms.masked_fill_(must_end[:, None, None] & ~ends, -torch.inf)

        # At most one continuation of each hypothesis ends, so twice the beam has a beam of others.
        best, places = (sums[..., None] + logarithms).flatten(1).topk(2 * beam, dim=1)
        origins, tokens = places // vocabulary, places % vocabulary
        ending = (tokens == eos) & (best > -torch.inf)
        ending[:, beam:] = False
        said = history[(torch.arange(rows, device=device)[:, None] * beam + origins)[ending]].tolist()
        for row, words, total in zip(ending.nonzero()[:, 0].tolist(), said, best[ending].tolist(), strict=True):
            hypothesis = Hypothesis(tokens=words, log_probability=total, score=total / divisor[length])
            finished[open_sentences[row]].append(hypothesis)

        # Those that do not end come first, each kind in its order.
        kept = (tokens == eos).to(torch.int8).sort(dim=1, stable=True).indices[:, :beam]
        sums, origins, tokens = best.gather(1, kept), origins.gather(1, kept), tokens.gather(1, kept)
        going = []
        for row, (sentence, highest) in enumerate(zip(open_sentences, sums[:, 0].tolist(), strict=True)):
            if highest == -math.inf and not finished[sentence]:
                raise ValueError(f"sentence {sentence} cannot end: its logits are too far apart for {sums.dtype}")
            if not _done(finished[sentence], highest / divisor[limits[sentence]], beam):
                going.append(row)
        open_sentences = [open_sentences[row] for row in going]
        places = torch.tensor(going, dtype=torch.int64, device=device)
        sums, last = sums[places], tokens[places].reshape(-1)
        sources = (places[:, None] * beam + origins[places]).reshape(-1)
        if going:
            state = state.reorder(sources)
        history = torch.cat([history[sources], last[:, None]], dim=1)
    return [sorted(hypotheses, key=lambda each: -each.score) for hypotheses in finished]


def _done(finished: Sequence[Hypothesis], bound: float, beam: int) -> bool:
    """Say whether a sentence is, if none of its open hypotheses can score more than ``bound``."""
    return len(finished) >= beam or (bool(finished) and max(each.score for each in finished) >= bound)


def _log_probabilities(logits: Tensor, rows: int) -> Tensor:
    """Normalize logits, in float32 at least.

    Raises:
        ValueError: If they are not finite ``[rows, V]``.
    """
    if logits.ndim != 2 or logits.shape[0] != rows or logits.shape[1] < 2:
        raise ValueError(f"expected logits [{rows}, V] of two tokens or more, got {list(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("logits must be finite, got NaN or infinity; has the run diverged?")
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _check(*, beam: int, max_length: Tensor, eos: int, alpha: float, penalty: str, never: Sequence[int]) -> None:
    """Refuse what cannot be searched with.

    Raises:
        ValueError: If a number is out of its range, ``penalty`` is unknown, or ``never`` forbids the end.
    """
    if beam < 1:
        raise ValueError(f"beam must be 1 or more, got {beam}")
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be 0 or more and finite, got {alpha}")
    if penalty not in PENALTIES:
        raise ValueError(f"penalty must be one of {', '.join(PENALTIES)}, got {penalty!r}")
    if max_length.ndim != 1 or max_length.dtype != torch.int64:
        raise ValueError(f"expected max_length [B] int64, got {list(max_length.shape)} {max_length.dtype}")
    if len(max_length) and int(max_length.min()) < 1:
        raise ValueError(f"max_length must be 1 or more for each sentence, got {int(max_length.min())}")
    if eos in never:
        raise ValueError(f"never must not hold the end, {eos}: no sentence could finish; got {list(never)}")
