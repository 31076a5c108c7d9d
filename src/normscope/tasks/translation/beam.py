"""Beam search over any model that returns the next token's logits; greedy decoding is a beam of one."""

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
"""Length penalties: divisor of a hypothesis' log-probability, from its length, end included, and alpha."""


class BeamState(Protocol):
    """State of a decoder, one row per hypothesis."""

    def repeat(self, beam: int) -> Self:
        """Return the state with every row repeated ``beam`` times, copies adjacent."""
        ...

    def reorder(self, indices: Tensor) -> Self:
        """Return the state of the rows ``indices``, ``[R]`` int64, with omissions and repetitions."""
        ...


S = TypeVar("S", bound=BeamState)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A finished sentence."""

    tokens: list[int]
    """Ids without beginning and end."""
    log_probability: float
    """Sum over the tokens and the end, in nats."""
    score: float
    """Log-probability divided by the length penalty."""


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
    """Return the best hypothesis of each sentence; see :func:`finished_hypotheses` for the algorithm and the arguments.

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
    r"""Search for the hypotheses with the highest scores.

    .. math::
        score(y) = \frac{\sum_t \log p(y_t \mid y_{<t})}{penalty(|y|)}, \quad
        penalty(n) = n^\alpha \;\text{ or }\; \left(\frac{5 + n}{6}\right)^\alpha

    where :math:`|y|` includes the end. In each step, all continuations of a sentence's open hypotheses (initially a
    single one) are scored. Among the ``beam`` most probable continuations, those that end are finished; the ``beam``
    most probable ones that do not end stay open. At ``max_length`` tokens every open hypothesis must end.

    A sentence is done when ``beam`` hypotheses are finished, when no hypothesis is open, or when no open hypothesis can
    still win: when the most probable one, without further loss and with the penalty of the maximum length, would score
    no more than the best finished one. The last rule never changes the best hypothesis. Sentences that are done leave
    the batch.

    Args:
        start_state: Initial decoder state, one row for each of ``B`` sentences.
        step: Function of the state of ``R`` hypotheses and the last token of each, ``[R]`` int64; returns the logits
            ``[R, V]`` of the next token and the new state.
        beam: Number of open hypotheses per sentence.
        max_length: Maximum number of tokens of each sentence before its end, ``[B]`` int64, on the state's device.
        bos: First token of every hypothesis.
        eos: Token that ends a hypothesis.
        alpha: Strength of the length penalty; 0 disables it.
        penalty: Kind of length penalty, a key of :data:`PENALTIES`.
        never: Tokens that are never generated, such as padding; the other probabilities are not renormalized.

    Returns:
        The distinct finished hypotheses of each sentence, best first; from 1 to ``2 beam - 1``.

    Raises:
        ValueError: If the logits are not finite, not ``[R, V]``, or so far apart that no hypothesis can end; if an
            argument is out of range, ``penalty`` is unknown, or ``never`` contains ``eos``.

    References:
        Wu et al. (2016). Google's neural machine translation system, equation 14, ``"gnmt"``, without coverage.
        Ott et al. (2019). fairseq, for ``"length"``.
    """
    _check(beam=beam, max_length=max_length, eos=eos, alpha=alpha, penalty=penalty, never=never)
    device = max_length.device
    limits: list[int] = max_length.tolist()
    # Indexed by the number of tokens before the end.
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
            # Initially all copies of a sentence are equal: only the first is open.
            sums = logarithms.new_full((rows, beam), -torch.inf)
            sums[:, 0] = 0
        must_end = torch.tensor([limits[sentence] <= length for sentence in open_sentences], device=device)
        ends = torch.arange(vocabulary, device=device) == eos
        logarithms.masked_fill_(must_end[:, None, None] & ~ends, -torch.inf)

        # At most one continuation of each hypothesis ends, so the top 2 * beam contain beam others.
        best, places = (sums[..., None] + logarithms).flatten(1).topk(2 * beam, dim=1)
        origins, tokens = places // vocabulary, places % vocabulary
        ending = (tokens == eos) & (best > -torch.inf)
        ending[:, beam:] = False
        said = history[(torch.arange(rows, device=device)[:, None] * beam + origins)[ending]].tolist()
        for row, words, total in zip(ending.nonzero()[:, 0].tolist(), said, best[ending].tolist(), strict=True):
            hypothesis = Hypothesis(tokens=words, log_probability=total, score=total / divisor[length])
            finished[open_sentences[row]].append(hypothesis)

        # Stable partition: continuations that do not end come first.
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
    """Return whether a sentence is done, if no open hypothesis can score more than ``bound``."""
    return len(finished) >= beam or (bool(finished) and max(each.score for each in finished) >= bound)


def _log_probabilities(logits: Tensor, rows: int) -> Tensor:
    """Return log-probabilities, in at least float32.

    Raises:
        ValueError: If the logits are not finite or not ``[rows, V]``.
    """
    if logits.ndim != 2 or logits.shape[0] != rows or logits.shape[1] < 2:
        raise ValueError(f"expected logits [{rows}, V] with V >= 2, got {list(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("logits must be finite, got NaN or infinity; has the run diverged?")
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _check(*, beam: int, max_length: Tensor, eos: int, alpha: float, penalty: str, never: Sequence[int]) -> None:
    """Check the arguments of a search.

    Raises:
        ValueError: If an argument is out of range, ``penalty`` is unknown, or ``never`` contains ``eos``.
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
        raise ValueError(f"never must not contain eos, {eos}: no sentence could end; got {list(never)}")
