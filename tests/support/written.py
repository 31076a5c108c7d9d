"""One function written in many ways: the same modules, called in the same order, held in different containers."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from normscope.models.attention import Context
from support.planted import Case, Convolutions, PixelModel

Parts = tuple[Sequence[nn.Module], Sequence[nn.Module], Sequence[nn.Module]]
"""What runs before the blocks, the blocks, and what runs after them."""


class Begin(nn.Module):
    """Embedding and positions."""

    def __init__(self, embedding: nn.Module, positions: nn.Parameter) -> None:
        super().__init__()
        self.embedding, self.positions = embedding, positions

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) + self.positions[: tokens.shape[1]]


class Block(nn.Module):
    """A block of a causal stream."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, Context(causal=True))


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def parts_of(case: Case) -> Parts:
    """Take the model of a planted case apart."""
    model = case.model
    if isinstance(model, Convolutions):
        return [], [*model.body], [Pool(), model.head]
    if isinstance(model, PixelModel):
        stack = model.stack
        begin = [Begin(model.embedding, model.positions), stack.get_submodule("stem_norm")]
        blocks = [Block(block) for block in stack.get_submodule("blocks").children()]
        return begin, blocks, [stack.get_submodule("final_norm"), model.head]
    embedding, encoder, head = model.children()
    norm = getattr(encoder, "norm", None)
    return [embedding], [*encoder.get_submodule("layers").children()], [*([norm] if norm else []), head]


def flat(parts: Parts) -> nn.Module:
    begin, blocks, end = parts
    return nn.Sequential(*begin, *blocks, *end)


def nested(parts: Parts) -> nn.Module:
    begin, blocks, end = parts
    return nn.Sequential(*begin, nn.Sequential(*blocks), nn.Sequential(*end))


def halves(parts: Parts) -> nn.Module:
    """Write two stages of a pipeline."""
    begin, blocks, end = parts
    middle = len(blocks) // 2
    return nn.Sequential(nn.Sequential(*begin, *blocks[:middle]), nn.Sequential(*blocks[middle:], *end))


class Written(nn.Module):
    """Runs its parts in order, wherever they are registered."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        begin, blocks, end = parts
        self.steps = [module.__call__ for part in (begin, blocks, end) for module in part]
        self.register(nn.ModuleList(begin), blocks, nn.ModuleList(end))

    def register(self, begin: nn.Module, blocks: Sequence[nn.Module], end: nn.Module) -> None:
        """Register the parts."""
        self.begin, self.blocks, self.end = begin, nn.ModuleList(blocks), end

    def forward(self, x: Tensor) -> Tensor:
        return reduce(lambda x, step: step(x), self.steps, x)


class InDictionary(Written):
    def register(self, begin: nn.Module, blocks: Sequence[nn.Module], end: nn.Module) -> None:
        self.blocks = nn.ModuleDict({str(place): block for place, block in enumerate(blocks)})
        self.begin, self.end = begin, end


class Backwards(Written):
    def register(self, begin: nn.Module, blocks: Sequence[nn.Module], end: nn.Module) -> None:
        self.end = end
        self.blocks = nn.ModuleDict({str(place): block for place, block in reversed([*enumerate(blocks)])})
        self.begin = begin


class AsAttributes(Written):
    def register(self, begin: nn.Module, blocks: Sequence[nn.Module], end: nn.Module) -> None:
        for place, block in enumerate(blocks):
            setattr(self, f"block_{place}", block)
            if place == 1:
                self.begin, self.end = begin, end


class Grouped(Written):
    """Groups of blocks in two lists and a sequence, registered in another order than they run."""

    def register(self, begin: nn.Module, blocks: Sequence[nn.Module], end: nn.Module) -> None:
        self.begin = begin
        self.late = nn.ModuleList([nn.ModuleList(blocks[2:])])
        self.end, self.early = end, nn.ModuleDict({"first": nn.Sequential(*blocks[:2])})


class Inside(nn.Module):
    """Holds the model that runs, as wrappers do."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), Written(parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


WAYS: dict[str, Callable[[Parts], nn.Module]] = {
    "flat": flat,
    "nested": nested,
    "halves": halves,
    "list": Written,
    "dictionary": InDictionary,
    "backwards": Backwards,
    "attributes": AsAttributes,
    "groups": Grouped,
    "inside": Inside,
}


class PreNormLayer(nn.Module):
    """A residual branch, with cross attention to a memory if there is one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        y = self.first(x)
        memory = y if memory is None else memory
        x = x + self.attention(y, memory, memory, need_weights=False)[0]
        return x + self.outer(self.inner(self.second(x)).relu())


class TwoStreams(nn.Module):
    """An encoder and a decoder, or two towers, of layers of one class.

    Args:
        ends: Whether each of the streams ends in a norm.
        way: How the layers are registered: in lists, dictionaries, attributes, or one list of all.
        towers: Whether the second stream reads its own input, and only the outputs are joined.
    """

    def __init__(self, ends: tuple[bool, bool], way: str, *, towers: bool = False, swapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        width = 16
        self.words, self.head = nn.Embedding(17, width), nn.Linear(width, 17)
        streams = [[PreNormLayer(width) for _ in range(count)] for count in (3, 4)]
        self.streams = [[layer.__call__ for layer in layers] for layers in streams]
        self.towers = towers
        order = [1, 0] if swapped else [0, 1]
        if way == "one list":
            self.layers = nn.ModuleList(layer for place in order for layer in streams[place])
        for place in order:
            if way == "lists":
                setattr(self, f"stream_{place}", nn.ModuleList(streams[place]))
            elif way == "dictionaries":
                setattr(self, f"stream_{place}", nn.ModuleDict({f"l{n}": one for n, one in enumerate(streams[place])}))
            elif way == "attributes":
                for number, layer in enumerate(streams[place]):
                    setattr(self, f"layer_{place}_{number}", layer)
        self.ends = nn.ModuleList(nn.LayerNorm(width) if end else nn.Identity() for end in ends)

    def forward(self, tokens: Tensor) -> Tensor:
        first = second = self.words(tokens)
        if self.towers:
            # As vision and text do: the layers of both run in turn.
            for place in range(4):
                first = self.streams[0][place](first) if place < 3 else first
                second = self.streams[1][place](second)
            return self.head(self.ends[0](first) + self.ends[1](second))
        for layer in self.streams[0]:
            first = layer(first)
        first = self.ends[0](first)
        for layer in self.streams[1]:
            second = layer(second, first)
        return self.head(self.ends[1](second))
