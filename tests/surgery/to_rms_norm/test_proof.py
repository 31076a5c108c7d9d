"""The proof alone: what is to be changed, and that nothing was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope.inspection.find import find_norms
from normscope.surgery.to_rms_norm.proof import Proof, prove


class Block(nn.Module):
    """Two layer norms, of which the second runs on long inputs alone; a spare projection."""

    def __init__(self, writer: nn.Module) -> None:
        super().__init__()
        self.writer, self.first, self.second = writer, nn.LayerNorm(6), nn.LayerNorm(6)
        self.head, self.spare, self.narrow = nn.Linear(6, 3), nn.Linear(3, 6), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.writer(x)
        norm = self.first if len(x) < 5 else self.second
        return self.head(norm(stream))


def positive_root(bias: Tensor) -> Tensor:
    return bias.sqrt().sum()


def proved(model: nn.Module, x: Tensor, where: str) -> Proof:
    found, _ = find_norms(model, for_replacement=True)
    return prove(model, [norm for norm in found if where in norm.name], [((x,), {})])


def test_what_is_to_be_changed_and_nothing_is() -> None:
    model: Any = Block(nn.Linear(4, 6))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    proof = proved(model, torch.randn(3, 4), "first")
    assert set(proof.writers) == {"writer.weight", "writer.bias"}
    weight, bias = model.writer.weight.detach().double(), model.writer.bias.detach().double()
    torch.testing.assert_close(proof.writers["writer.weight"], weight - weight.mean(0), rtol=0, atol=1e-15)
    torch.testing.assert_close(proof.writers["writer.bias"], bias - bias.mean(), rtol=0, atol=1e-15)
    # As wide as the stream: what does not run, but for the last, which is not as wide.
    assert list(proof.unreached) == ["second.weight", "second.bias", "spare.weight", "spare.bias"]
    assert (list(proof.untied), proof.same_in_training, proof.training) == ([], True, "")
    assert proof.difference < 1e-14
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert type(model.first) is nn.LayerNorm


def test_refusals() -> None:
    model: Any = Block(nn.Linear(4, 6))
    with pytest.raises(ValueError, match=r"These did not run: second\. Call to_rms_norm with inputs that reach them"):
        proved(model, torch.randn(3, 4), "second")
    proved(model, torch.randn(5, 4), "second")
    squashed = Block(nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    with pytest.raises(ValueError, match=r"a mean that no weights can be centered to remove: first\. In it: a nonlin"):
        proved(squashed, torch.randn(3, 4), "first")
    # What is not returned reads a mean, and nothing differs.
    apart = Block(nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    apart.head.register_forward_hook(lambda module, given, z: 0 * z)
    with pytest.raises(
        ValueError, match=r"^the layer norms cannot become RMS norms exactly\. What these read has a mean"
    ):
        proved(apart, torch.randn(3, 4), "first")
    positive = Block(nn.Linear(4, 6))
    positive.writer.register_forward_hook(lambda module, given, z: z * (1 + positive_root(module.bias)))
    nn.init.zeros_(positive.writer.bias)
    with pytest.raises(ValueError, match=r"nothing is proved for the model once it is trained: .* returns NaN"):
        proved(positive, torch.randn(3, 4), "first")
    # No output depends on the layer norm yet, and it is none the less refused.
    with torch.no_grad():
        squashed.head.weight.zero_()
    with pytest.raises(
        ValueError,
        match=r"outputs would differ by \S+ of their size once training has changed .*\. What these read has",
    ):
        proved(squashed, torch.randn(3, 4), "first")
