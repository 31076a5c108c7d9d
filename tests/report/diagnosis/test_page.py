"""The page of a diagnosis of real models: whole, self-contained, with a reading under every picture."""

import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normscope.diagnostics.diagnosis import diagnose
from normscope.report.diagnosis.page import render, write_diagnosis
from normscope.report.diagnosis.text import UPDATE

HOSTILE = "<script>alert(1)</script>\"'&"


class Names(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.identities: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.identities += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("href", "src") and value]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.Sequential(
        nn.Linear(4, 16),
        nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(16), enable_nested_tensor=False),
        nn.Linear(16, 2),
    )
    told = diagnose(model, torch.randn(5, 6, 4), lambda m, b: m(b).square().mean(), learning_rate=1e-3, warmup=10)
    return told.to_json()


def names_in(page: str) -> Names:
    parser = Names()
    parser.feed(page)
    return parser


def test_the_cause_comes_first_with_its_evidence(content: dict[str, Any]) -> None:
    (finding,) = content["findings"]
    page = unescape(render(content))
    assert finding["title"] in page
    assert page.index(finding["title"]) < page.index(finding["evidence"]) < page.index(finding["remedy"])
    assert page.index(finding["remedy"]) < page.index("Re-centering and re-scaling</h2>")
    assert "1 known cause of trouble was found" in page


def test_every_picture_stands_over_its_reading(content: dict[str, Any]) -> None:
    page = render(content)
    for identity, key in (("gradients", "gradients"), ("depth", "depth"), ("range", "range")):
        part = page[page.index(f'<section id="{identity}"') :]
        part = part[: part.index("</section>")]
        assert "<svg" in part
        first_words = re.sub(r"[^A-Za-z ].*", "", content["readings"][key])[:20]
        assert part.index("<svg") < part.rindex(first_words)


def test_it_fetches_nothing_and_runs_nothing(content: dict[str, Any]) -> None:
    page = render(content)
    seen = names_in(page)
    assert "script" not in seen.tags
    assert all(link.startswith(("#", "data:")) for link in seen.links)
    assert len(seen.identities) == len(set(seen.identities))
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.identities)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page
    assert len(page) < 1_000_000


def test_a_name_from_outside_stays_a_name(content: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(content))
    changed["model"] = HOSTILE
    changed["gradients"][0]["name"] = changed["ranges"][0]["name"] = changed["findings"][0]["where"] = HOSTILE
    changed["unreached"] = [{"name": HOSTILE, "what": HOSTILE, "why": HOSTILE}]
    assert "<script" not in render(changed)


def test_a_healthy_model_is_told_so_with_care(content: dict[str, Any]) -> None:
    page = render({**content, "findings": []})
    assert "No known cause of trouble was found." in page
    assert "does not prove that the model is healthy" in page


def test_page_and_json_are_written(content: dict[str, Any], tmp_path: Path) -> None:
    path = write_diagnosis(content, tmp_path / "a" / "told.html")
    assert path.read_text(encoding="utf-8") == render(content)
    assert json.loads((tmp_path / "a" / "told.json").read_text()) == content
    with pytest.raises(ValueError, match=r"ends with \.html"):
        write_diagnosis(content, tmp_path / "told.json")


def test_training_is_one_more_picture(content: dict[str, Any]) -> None:
    history = [{"step": step, "norms": content["gradients"]} for step in (0, 20, 40)]
    assert "Through training" in render(content, training=history)
    assert "Through training" not in render(content)


def test_another_schema_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema 3 cannot be drawn; this normscope reads schema 2"):
        render({**content, "schema": 3})


def test_a_model_without_anything_has_a_page() -> None:
    told = diagnose(nn.Linear(3, 1), torch.randn(4, 3), lambda m, b: m(b).square().mean())
    page = render(told.to_json())
    assert "No norm that is recognized was called" in page
    assert "Every norm" not in page


def test_every_picture_has_a_sentence_of_its_own(content: dict[str, Any]) -> None:
    figures = re.findall(r"<figure>.*?</figure>", render(content, training=HISTORY), flags=re.DOTALL)
    assert len(figures) == 6
    captions = [re.findall(r"<figcaption>(.+?)</figcaption>", figure)[0] for figure in figures]
    assert all(caption.endswith(".") for caption in captions)
    assert len(set(captions)) == 6


HISTORY = [{"step": 0, "norms": [{"name": "a", "recentering": math.nan, "rescaling": 0.1}]}] * 2


def test_history_that_is_not_finite_is_written_as_nothing(content: dict[str, Any], tmp_path: Path) -> None:
    path = write_diagnosis({**content, "history": HISTORY}, tmp_path / "told.html")
    written = json.loads((tmp_path / "told.json").read_text())
    assert written["history"][0]["norms"] == [{"name": "a", "recentering": None, "rescaling": 0.1}]
    assert "re-centering is not known" in path.read_text(encoding="utf-8")
    assert "re-centering is not known" in render(content, training=HISTORY)


def test_a_page_that_cannot_be_written_leaves_no_json(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "told.html").mkdir()
    with pytest.raises(OSError, match=r"told\.html"):
        write_diagnosis(content, tmp_path / "told.html")
    assert not (tmp_path / "told.json").exists()


def test_a_loss_that_is_not_finite_is_said_and_comes_first() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = math.nan
    told = diagnose(model, torch.randn(4, 3), lambda m, b: m(b).square().mean(), learning_rate=1e-3)
    page = render(told.to_json())
    assert told.to_json()["findings"][0]["title"] in page
    assert '<dd class="long">not finite</dd>' in page
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>|href=\"data[^\"]*\"", "", page, flags=re.DOTALL))
    assert "inf%" not in text
    assert "nan" not in re.sub(r"[Tt]he loss is nan", "", text).split()


def test_norms_have_numbers_and_what_they_remove(content: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(content))
    changed["gradients"][0]["removes"] = ["along_x"]
    changed["gradients"][1]["removes"] = []
    page = render(changed)
    for words in ("<td>along x</td>", "<td>neither</td>", "<td>both</td>", '<td class="n">7</td>'):
        assert words in page
    assert "1 more norm was called" in render({**content, "gradients": content["gradients"][:-1]})


def test_the_first_update_has_names_and_units(content: dict[str, Any]) -> None:
    page = render(content)
    assert "<dt>Update of the typical matrix, of its size</dt>" in page
    assert re.search(r"<dt>Same at all positions after</dt><dd>[\d.]+ %</dd>", page)
    assert not re.search(r"<dt>(post|common after|update ratio)</dt>", page)
    unknown = {**content["first_update"], "output_change": None}
    assert "Change of the last layer" not in render({**content, "first_update": unknown})


def test_every_number_of_a_first_update_has_a_name(content: dict[str, Any]) -> None:
    assert set(content["first_update"]) == set(UPDATE)


def test_names_break_at_their_dots(content: dict[str, Any]) -> None:
    assert '<span class="name">1.<wbr>layers.<wbr>0.<wbr>norm1</span>' in render(content)
