"""The proof in words."""

import re

from architectures import ARCHITECTURES, IDS

from normscope.swapping import to_rms_norm


def test_words() -> None:
    lines = str(to_rms_norm(ARCHITECTURES["gpt2"].build(), input_ids=IDS)).splitlines()
    assert lines[0] == "GPT2LMHeadModel: 5 LayerNorm -> RMSNorm; 10 tensors centered"
    assert re.fullmatch(
        r"proof: [\d,]+ outputs differ by at most \d\.\de-1[56] of the largest in float64, by \d\.\de-0[678] in the "
        r"model's own dtype",
        lines[1],
    )
    assert lines[2] == "untied: transformer.wte.weight"
