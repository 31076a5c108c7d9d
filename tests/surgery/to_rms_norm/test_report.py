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
    # Its dropouts are behind the embeddings and each of four branches.
    assert lines[3].startswith(
        "training: another function from the first step: a dropout, or something else that acts in"
    )
    assert "gives rows a mean, which 5 of 5 norms read: transformer.h.0.ln_1" in lines[3]
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
        unvaried=("pixels",),
        same_in_training=True,
        training="",
        lost=("a: 1 of _hooks, bound to the old module",),
        difference=0.0,
        own_difference=0.0,
        outputs=1,
        _undo=lambda: None,
    )
    _, _, unreached, unvaried, lost = str(report).splitlines()
    assert unreached.startswith("not reached by these inputs: experts.0.weight, ")
    assert "experts.5.weight and 2 more. If one writes into the stream, the function changes" in unreached
    assert unvaried.startswith("not varied: pixels, for the model does not accept random or permuted values")
    assert lost == "lost: a: 1 of _hooks, bound to the old module"
