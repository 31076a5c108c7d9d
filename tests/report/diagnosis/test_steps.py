"""The steps of recurrent layers on the page and in the terminal: pictures with captions, and nothing where none are."""

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.diagnostics.readings import READINGS
from normscope.report.diagnosis import steps
from normscope.report.diagnosis.page import render
from normscope.report.diagnosis.text import TITLES


class Reader(nn.Module):
    """An LSTM with norms in two directions, and a GRU of torch on top."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.lstm = normscope.LSTM(4, 8, num_layers=layers, bidirectional=True)
        self.gru = nn.GRU(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[0][-1]


def diagnosed(model: nn.Module, length: int = 12) -> dict[str, Any]:
    x = torch.randn(length, 3, 4, generator=torch.Generator().manual_seed(0))
    return normscope.diagnose(model, x, lambda m, x: m(x).square().mean()).to_json()


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    torch.manual_seed(0)
    return diagnosed(Reader())


def words_of(svg: str) -> str:
    return " ".join(ET.fromstring(svg).itertext())


def test_every_reading_has_a_heading_in_the_terminal_and_on_the_page() -> None:
    assert list(TITLES) == list(READINGS)


def test_every_layer_and_direction_is_drawn(content: dict[str, Any]) -> None:
    pictures = steps.of_layers(content["recurrent"])
    captions = [picture["caption"].partition(", first")[0] for picture in pictures]
    subjects = ["size of the state", "size of the gradient", "saturated entries, %"]
    norms = "deviation of the rows that a norm reads"
    assert captions == [
        *(f"lstm.l0, {subject}" for subject in [*subjects, norms]),
        *(f"lstm.l0_reverse, {subject}" for subject in [*subjects, norms]),
        *(f"gru.l0, {subject}" for subject in subjects[:2]),
    ]
    for picture in pictures:
        assert picture["caption"] in words_of(picture["broad"])
    assert "forget gate, closed" in words_of(pictures[2]["broad"])
    assert "W_h h" in words_of(pictures[3]["broad"])


def test_a_caption_has_the_numbers_of_the_ends(content: dict[str, Any]) -> None:
    layer = content["recurrent"][0]
    (_, words, lines, _), *_ = steps.figures_of(layer)
    caption = steps.caption_by_step(layer["name"], words, lines)
    for size in (layer["h"][0], layer["h"][-1], layer["c"][0], layer["c"][-1]):
        assert f"{size:#.4g}" in caption


def test_a_line_is_called_by_what_its_norm_reads() -> None:
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    wanted = {
        normscope.RNN: ["W_h h + W_x x"],
        normscope.LSTM: ["W_x x", "W_h h", "c"],
        normscope.GRU: ["W_x x, 1", "W_x x, 2", "W_h h, 1", "W_h h, 2"],
    }
    for kind, labels in wanted.items():
        content = normscope.diagnose(kind(4, 8), x, lambda m, x: m(x)[0].square().mean()).to_json()
        assert list(steps.figures_of(content["recurrent"][0])[3][2]) == labels


def test_the_page_has_a_section_of_them(content: dict[str, Any]) -> None:
    page = render(json.loads(json.dumps(content)))
    section = page.partition('<section id="recurrent"')[2].partition("</section>")[0]
    assert section.count("<figure>") == 10
    assert "lstm.l0_reverse: LSTM, 12 steps, 3 sequences, from the last step to the first" in section
    assert page.index('id="depth"') < page.index('id="recurrent"') < page.index('id="first-update"')


def test_a_page_without_recurrent_layers_has_none() -> None:
    plain = diagnosed(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)))
    assert plain["recurrent"] == []
    assert 'id="recurrent"' not in render(plain)
    del plain["recurrent"]
    assert 'id="recurrent"' not in render(plain)


def test_at_most_eight_are_drawn_and_the_page_says_so() -> None:
    torch.manual_seed(0)
    page = render(diagnosed(Reader(layers=5), length=3))
    assert "Drawn are the first 8 of 11 layers and directions." in page
    assert "lstm.l3_reverse, size of the state" in page
    assert "lstm.l4, size of the state" not in page


def test_unknown_numbers_and_zeros_are_drawn_where_others_are_known() -> None:
    lines = {"a": [None, 0.0, 1e-40, 2.0], "b": [None] * 4}
    svg = steps.by_step("rnn.l0", "size", lines, name="one", logarithmic=True)
    assert "a: 0 to 2.000" in words_of(svg)
    assert list(steps.known_lines(lines)) == ["a"]
    assert steps.known_lines({"a": [0.0, None]}) == {}


def test_a_long_sequence_is_thinned_out() -> None:
    line: list[float | None] = [float(step % 7) for step in range(5000)]
    long = steps.by_step("rnn.l0", "size", {"h": line}, name="one", logarithmic=False)
    assert len(long) < 2 * len(steps.by_step("rnn.l0", "size", {"h": line[:200]}, name="one", logarithmic=False))
