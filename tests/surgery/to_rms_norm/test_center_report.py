"""The proof in words."""

import re

from normscope.surgery.to_rms_norm.convert import ConversionReport, to_rms_norm
from support.architectures import ARCHITECTURES, IDS


def test_words() -> None:
    lines = str(to_rms_norm(ARCHITECTURES["gpt2"].build(), input_ids=IDS)).splitlines()
    assert lines[0] == "GPT2LMHeadModel: 5 LayerNorm -> RMSNorm; 10 tensors centered"
    assert re.fullmatch(
        r"proof: [\d,]+ outputs differ by at most \d\.\de-1[56] of their size in float64, by \d\.\de-0[5678] in the "
        r"dtype of the model",
        lines[1],
    )
    assert lines[2] == "untied: transformer.wte.weight"
    # Behind the embeddings and each of four branches.
    assert lines[3].startswith("5 dropouts on the stream: the function is the same in evaluation; in training")
    assert len(lines) == 4


def test_what_was_not_reached() -> None:
    names = tuple(f"experts.{n}.weight" for n in range(8))
    report = ConversionReport(
        model="M",
        norms=("a",),
        biased=(),
        centered=("b",),
        untied=(),
        unreached=names,
        dropouts=0,
        lost=("a: 1 of _hooks, bound to the old module",),
        difference=0.0,
        own_difference=0.0,
        outputs=1,
        _undo=lambda: None,
    )
    _, _, unreached, lost = str(report).splitlines()
    assert unreached.startswith("not reached by these inputs: experts.0.weight, ")
    assert "experts.5.weight and 2 more. If one writes into the stream, the function changes" in unreached
    assert lost == "lost: a: 1 of _hooks, bound to the old module"
