"""What was added up in a norm's input, by the graph of its backward pass."""

import torch
from torch import Tensor, nn

from normscope.surgery.to_rms_norm.writers import Sources, sources, uses


def found(x: Tensor, width: int) -> Sources:
    parts = Sources()
    sources(x, width, parts, set())
    return parts


def test_writers_of_a_residual_stream_and_their_axes() -> None:
    embed, places, out = nn.Embedding(9, 4), nn.Parameter(torch.randn(1, 3, 4)), nn.Linear(6, 4)
    matrix = nn.Parameter(torch.randn(6, 4))
    h = torch.randn(2, 3, 6, requires_grad=True)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    stream = embed(ids) * 2.0 + places.expand(2, 3, 4)
    stream = stream + out(h).reshape(2, 3, 4) + (h.reshape(6, 6) @ matrix).view(2, 3, 4)
    parts = found(stream, 4)
    axes = {id(embed.weight): -1, id(places): -1, id(out.weight): 0, id(out.bias): -1, id(matrix): 1}
    assert {one: axis for one, (_, axis) in parts.writers.items()} == axes
    assert parts.doubts == []


def test_patches() -> None:
    patches = nn.Conv2d(3, 4, 2, 2)
    x = patches(torch.randn(2, 3, 4, 4)).flatten(2).transpose(1, 2)
    parts = found(x, 4)
    assert {id(patches.weight), id(patches.bias)} == set(parts.writers)


def test_doubts() -> None:
    width = 4
    norm, gate, group = nn.LayerNorm(width), nn.Parameter(torch.ones(width)), nn.Conv2d(4, 4, 1, groups=4)
    linear = nn.Linear(width, width)
    x = torch.randn(2, width)
    assert found(x, width).doubts == ["the model's own input, or a constant"]
    assert found(linear(x) + x, width).doubts == ["the model's own input, or a constant, is added"]
    assert "(Post-LN)" in found(norm(linear(x)), width).doubts[0]
    assert "a gate or a layer scale" in found(gate * linear(x), width).doubts[0]
    assert "a grouped convolution" in found(group(torch.randn(2, 4, 3, 3)), width).doubts[0]
    assert found(torch.relu(linear(x)), width).doubts == ["a nonlinearity"]
    assert found(torch.cos(linear(x)), width).doubts == ["the output of Cos"]
    made = nn.functional.linear(x, linear.weight * 2)
    assert "not a parameter itself" in found(made, width).doubts[0]


def test_uses_are_counted() -> None:
    embed = nn.Embedding(9, 4)
    y = embed(torch.tensor([1, 2])) @ embed.weight.t()
    assert uses([y]) == {id(embed.weight): 2}


def test_rows_that_are_moved_chosen_and_masked() -> None:
    embed, image = nn.Embedding(9, 4), nn.Linear(3, 4)
    x = embed(torch.tensor([[1, 2, 3, 4, 5, 6]]))
    rows = torch.tensor([[5, 4, 3, 2, 1, 0]])
    at = (torch.arange(6) < 2)[None, :, None]
    moved = [x.gather(1, rows[..., None].expand(1, 6, 4)), x.roll(1, 1), x.flip(1), x.masked_fill(at, 0.0)]
    moved += [x.split(3, 1)[0], x.split([2, 4], 1)[1], torch.stack(x.unbind(1), 1), torch.where(at, 0.0, x)]
    for each in moved:
        parts = found(each, 4)
        assert {*parts.writers} == {id(embed.weight)}
        assert parts.doubts == []
    joined = found(x.masked_scatter(at.expand(1, 6, 4), image(torch.randn(2, 3))), 4)
    assert {*joined.writers} == {id(embed.weight), id(image.weight), id(image.bias)}
    assert joined.doubts == []
