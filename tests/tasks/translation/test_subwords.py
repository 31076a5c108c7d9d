"""Subwords: determinism, what is lost in a round trip, the cache, and a byte-pair learner by hand as the judge."""

import builtins
import gzip
import io
import itertools
import pickle
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from normscope.data import store as files
from normscope.tasks.translation import subwords
from normscope.tasks.translation.subwords import BOS, EOS, PAD, UNK, Subwords, learn

sentencepiece = pytest.importorskip("sentencepiece")

TEXT = ["the cat sat on the mat", "Der Hund läuft über die Straße .", "the  dog\tran\u00a0fast", "東京 is far"] * 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(subwords, "cache_folder", lambda: tmp_path)
    return tmp_path / "vocabularies"


def captions(small_data: Path, lines: int) -> list[str]:
    texts = []
    for language in ("de", "en"):
        with gzip.open(small_data / "multi30k" / "raw" / f"train.{language}.gz", "rt", encoding="utf-8") as file:
            texts += itertools.islice(file, lines)
    return texts


def merges_by_hand(lines: list[str], merges: int) -> list[str]:
    """Learn byte pairs the plain way; needs text without ties."""
    words = Counter(word for line in lines for word in line.split())
    split = {word: ["▁", *word] for word in words}
    made = []
    for _ in range(merges):
        pairs = Counter()
        for word, symbols in split.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        (best, count), (_, second) = pairs.most_common(2)
        assert count > second, "a tie: choose other text"
        made.append("".join(best))
        for word, symbols in split.items():
            merged, index = [], 0
            while index < len(symbols):
                if tuple(symbols[index : index + 2]) == best:
                    merged.append("".join(best))
                    index += 2
                else:
                    merged.append(symbols[index])
                    index += 1
            split[word] = merged
    return made


def test_pieces_are_the_ones_that_plain_byte_pairs_give() -> None:
    draw = random.Random(1)
    words = ["".join(word) for word in itertools.product("abcd", repeat=4) if all(map(str.__ne__, word, word[1:]))]
    lines = [f"{word} " * draw.randrange(1, 200) for word in words]
    characters = len(set("".join(lines).replace(" ", ""))) + 1
    made = merges_by_hand(lines, 12)
    vocabulary = learn(["by hand"], lines, 4 + characters + len(made))
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    assert [processor.id_to_piece(4 + index) for index in range(len(made))] == made


def test_special_ids_stand_where_they_are_said_to() -> None:
    vocabulary = learn(["ids"], TEXT, 60)
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)
    assert (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id()) == (0, 1, 2, 3)
    assert vocabulary.size == processor.get_piece_size() == 60
    assert UNK in vocabulary.encode("☃")
    assert min(itertools.chain(*vocabulary.encode_many(TEXT))) > EOS
    ids = vocabulary.encode("the cat")
    assert vocabulary.decode([BOS, *ids, EOS, PAD, PAD]) == "the cat"


def test_white_space_is_all_that_a_round_trip_changes() -> None:
    vocabulary = learn(["round trip"], TEXT, 60)
    for text, ids in zip(TEXT, vocabulary.encode_many(TEXT), strict=True):
        assert ids == vocabulary.encode(text)
        assert vocabulary.decode(ids) == " ".join(text.split())
    assert vocabulary.encode("") == vocabulary.encode(" \t\u00a0") == []
    assert vocabulary.decode([]) == ""


def test_round_trip_of_sentences_is_exact(small_data: Path) -> None:
    lines = captions(small_data, 3000)
    vocabulary = learn(["multi30k"], lines, 4000)
    wrong = [line for line in lines if vocabulary.decode(vocabulary.encode(line)) != " ".join(line.split())]
    assert wrong == []
    shares = [len(vocabulary.encode(line)) / len(line.split()) for line in lines]
    # Between one piece a word and one a character, which is five times as many.
    assert 1.0 < sum(shares) / len(shares) < 2.0


def test_two_trainings_give_equal_bytes_whatever_the_order(cache: Path, small_data: Path) -> None:
    lines = captions(small_data, 2000)
    first, second = learn(["first"], lines, 3000), learn(["second"], reversed(lines), 3000)
    assert first.model == second.model
    assert first.sha256 == second.sha256
    assert len(list(cache.glob("*.model"))) == 2


def test_counted_words_give_the_pieces_that_lines_give(small_data: Path) -> None:
    lines = [" ".join(line.split()) for line in captions(small_data, 2000)]
    stream = io.BytesIO()
    options = {**subwords.OPTIONS, "input_format": "text"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=stream, vocab_size=3000, **options
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=stream.getvalue())
    ours = sentencepiece.SentencePieceProcessor(model_proto=learn(["counted"], lines, 3000).model)
    assert [theirs.id_to_piece(i) for i in range(3000)] == [ours.id_to_piece(i) for i in range(3000)]


def test_the_cache_is_used_and_a_damaged_model_learned_again(cache: Path) -> None:
    def never() -> Iterator[str]:
        raise AssertionError("the text was read")
        yield

    first = learn(["a", "b"], TEXT, 60)
    assert learn(["a", "b"], never(), 60).model == first.model
    [path] = cache.glob("*.model")
    for damaged in (first.model[:-1], b"", first.model.replace(b"the", b"eht")):
        assert damaged != first.model
        path.write_bytes(damaged)
        assert learn(["a", "b"], TEXT, 60).model == first.model
        assert path.read_bytes() == first.model
    path.with_suffix(".sha256").unlink()
    with pytest.raises(AssertionError, match="the text was read"):
        learn(["a", "b"], never(), 60)
    path.unlink()
    assert learn(["a", "b"], TEXT, 60).model == first.model
    assert not list(cache.glob(".*.tmp"))


def test_whatever_changes_the_model_changes_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {subwords._name(["a", "b"], 60), subwords._name(["a\nb"], 60), subwords._name(["ab"], 60)}
    names |= {subwords._name(["a", "b"], 61), subwords._name(["b", "a"], 60)}
    monkeypatch.setitem(subwords.OPTIONS, "character_coverage", 0.99)
    names.add(subwords._name(["a", "b"], 60))
    monkeypatch.setattr(sentencepiece, "__version__", "99")
    names.add(subwords._name(["a", "b"], 60))
    assert len(names) == 7


def test_the_largest_possible_number_is_told_and_possible(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"9999 pieces are too many: this text gives at most \d+") as caught:
        learn(["largest"], TEXT, 9999)
    most = int(str(caught.value).rsplit(" ", 1)[1])
    assert learn(["largest"], TEXT, most).size == most
    with pytest.raises(ValueError, match=f"at most {most}"):
        learn(["largest"], TEXT, most + 1)
    assert len(list(cache.glob("*.model"))) == 1


def test_the_smallest_possible_number_is_told_and_possible() -> None:
    with pytest.raises(ValueError, match=r"5 pieces are too few: .* are \d+") as caught:
        learn(["smallest"], TEXT, 5)
    least = int(str(caught.value).rsplit(" ", 1)[1])
    assert learn(["smallest"], TEXT, least).size == least


def test_very_long_words_are_not_left_out() -> None:
    vocabulary = learn(["long"], ["a b", "x" * 3000 + "ÿ" * 5000], 12)
    assert UNK not in vocabulary.encode("aÿbx")


def test_memory_grows_with_the_words_and_not_with_the_lines() -> None:
    def counted(lines: int) -> int:
        tracemalloc.start()
        subwords._count_words(f"w{i % 1000} x{i % 77}" for i in range(lines))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # A list of the lines would take more than a megabyte.
    assert counted(20_000) < counted(2_000) + 500_000


def test_a_vocabulary_goes_to_another_process() -> None:
    vocabulary = learn(["pickle"], TEXT, 60)
    ids = vocabulary.encode("the cat")
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again == vocabulary
    assert again.encode("the cat") == ids


def test_bad_text_and_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="got no words"):
        learn(["none"], ["", " \t"], 60)
    with pytest.raises(ValueError, match="line 2 contains NUL or U\\+2585"):
        learn(["nul"], ["a b", "a\0b"], 60)
    vocabulary = learn(["ids"], TEXT, 60)
    with pytest.raises(ValueError, match=r"ids must be 0 to 59, got \[60, -1\]"):
        vocabulary.decode([5, 60, -1])
    assert isinstance(vocabulary, Subwords)


def test_without_sentencepiece_the_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object, **named: object) -> object:
        if name == "sentencepiece":
            raise ModuleNotFoundError("No module named 'sentencepiece'")
        return real(name, *rest, **named)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install normscope\[text\]"):
        learn(["absent"], TEXT, 60)
