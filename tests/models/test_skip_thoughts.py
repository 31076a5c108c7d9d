"""Skip-thoughts: vectors do not depend on the batch, and decoders read what they may."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.models import SkipThoughts
from normscope.models.skip_thoughts import END
from normscope.norms import NORMS
from normscope.training.randomness import initialize

NAMES = ["none", "layer_norm", "rms_norm"]


def build(norm: str = "layer_norm", **more: Any) -> SkipThoughts:
    model = SkipThoughts(vocabulary=50, features=6, width=10, norm=NORMS[norm], **more)
    initialize(model, 3)
    return model.double()


def sentences(lengths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Draw sentences with their ends, padded with what must not matter."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 50, (len(lengths), max(lengths) + 3), generator=generator)
    for row, length in zip(words, lengths, strict=True):
        row[length - 1] = END
    return words, torch.tensor(lengths)


@pytest.mark.parametrize("norm", NAMES)
def test_a_vector_does_not_depend_on_its_batch(norm: str) -> None:
    model = build(norm).float()
    words, lengths = sentences([1, 7, 3, 12, 5], 0)
    together = model.encode(words, lengths)
    for row, length, vector in zip(words, lengths, together, strict=True):
        alone = model.encode(row[None, :length], length[None])[0]
        torch.testing.assert_close(alone, vector, rtol=1e-6, atol=1e-7)
        bag = model.word_means(words, lengths)
    assert torch.allclose(bag[3], model.embedding.weight[words[3, :12]].mean(0))
    assert torch.allclose(bag[0], model.embedding.weight[words[0, 0]])


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("norm", NAMES)
def test_teacher_forcing_equals_decoding_step_by_step(norm: str, conditioned: bool) -> None:
    model = build(norm, conditioned=conditioned)
    vectors = model.encode(*sentences([4, 6, 2], 1))
    words, lengths = sentences([5, 1, 9], 2)
    for side in ("before", "after"):
        nats, numbers = model.nats(vectors, side, words, lengths)
        assert numbers.bincount().tolist() == lengths.tolist()
        expected = [[] for _ in lengths]
        states, given = vectors, None
        for step in range(9):
            logits, states = model.next_words(vectors, side, given, states)
            given = words[:, step]
            for row, losses in enumerate(F.cross_entropy(logits, given, reduction="none")):
                if step < lengths[row]:
                    expected[row].append(losses)
        for row, losses in enumerate(expected):
            torch.testing.assert_close(nats[numbers == row], torch.stack(losses))
    before, after = (model.nats(vectors, side, words, lengths)[0] for side in ("before", "after"))
    assert not torch.allclose(before, after)


def test_a_decoder_starts_at_the_vector_and_with_a_zero_for_a_word() -> None:
    """One step by the paper's equations 23 to 25, in torch's order of gates: r, z, n."""
    model: Any = build("none")
    vectors = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits, states = model.next_words(vectors, "after", None, vectors)
    recurrent = vectors @ model.after.weight_hh_l0.T
    r, z = recurrent[:, :20].sigmoid().chunk(2, 1)
    expected = (1 - z) * (r * recurrent[:, 20:]).tanh() + z * vectors
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(logits, expected @ model.logits.weight.T)


def test_a_conditioned_decoder_reads_the_vector_at_every_step() -> None:
    vectors, other = torch.randn(2, 1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    word = torch.tensor([7])
    for conditioned in (False, True):
        model = build(conditioned=conditioned)
        one, two = (model.next_words(vector, "before", word, vectors)[0] for vector in (vectors, other))
        assert torch.equal(one, two) is not conditioned


def test_initial_weights_are_those_of_the_published_code() -> None:
    model: Any = SkipThoughts(vocabulary=300, features=20, width=40, norm=NORMS["layer_norm"])
    initialize(model, 0)
    for gru in (model.encoder, model.before, model.after):
        for gate in gru.weight_hh_l0.chunk(3):
            torch.testing.assert_close(gate @ gate.T, torch.eye(40), rtol=0, atol=1e-5)
        assert not gru.bias_ih_l0.any()
        assert not gru.bias_hh_l0.any()
        assert torch.equal(gru.norms["l0"]["hh"][0].weight, torch.ones(80))
    for weight in (model.embedding.weight, model.logits.weight, model.encoder.weight_ih_l0):
        assert 0.095 < weight.abs().max() <= 0.1
        assert weight.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    assert not model.logits.bias.any()
    assert not torch.equal(model.before.weight_ih_l0, model.after.weight_ih_l0)


def test_what_is_no_vector_of_a_sentence_is_refused() -> None:
    with pytest.raises(ValueError, match="would depend on the other sentences of its batch"):
        build("batch_norm")
    with pytest.raises(ValueError, match="side must be before or after, got 'behind'"):
        build().decoder("behind")
