"""Muon on the hidden matrices alone, with updates of AdamW's size, and one state that resumes to the bit."""

import copy
import io

import pytest
import torch
from torch import nn

from normscope.models import FeatureMLP, TransformerXL
from normscope.norms import LayerNorm, apply_weight_norm
from normscope.studies import make_study
from normscope.studies.plan import plan
from normscope.tasks import Recipe

RECIPE = Recipe(steps=9, batch_size=1, learning_rate=0.01, optimizer="muon", weight_decay=0.1)


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), LayerNorm(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def hidden(model: nn.Module) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(one)] for one in RECIPE.make_optimizer(model).param_groups[0]["params"]]


class Tied(nn.Module):
    """A language model whose output layer is its table, either as torch's users write it or by a second name."""

    def __init__(self, *, as_layer: bool, tied: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 4)
        if as_layer:
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.table.weight if tied else self.head.weight
        else:
            self.softmax = self.table


def test_input_output_kernels_gains_and_biases_are_adamws() -> None:
    assert hidden(perceptron()) == ["3.weight"]
    convolutions = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Conv1d(2, 2, 3), nn.Linear(4, 4), nn.Linear(4, 2))
    assert hidden(convolutions) == ["2.weight"]


def test_a_table_that_is_the_output_leaves_the_last_matrix_hidden() -> None:
    assert hidden(Tied(as_layer=True)) == hidden(Tied(as_layer=False)) == ["inner.weight", "outer.weight"]
    assert hidden(Tied(as_layer=True, tied=False)) == ["inner.weight", "outer.weight"]


def test_the_hidden_matrices_of_our_models() -> None:
    def stack(branches, width: int) -> nn.Module:
        return nn.ModuleList(branch for _, branch in branches)

    sizes = {"heads": 2, "feed_forward": 8, "layers": 1, "batch": 2, "memory_length": 3, "dropout": 0.0}
    assert hidden(TransformerXL(vocabulary=9, width=4, **sizes, stack=stack)) == [
        *(f"decoder.0.{part}.weight" for part in ("project", "project_keys", "project_distances", "output")),
        "decoder.1.inner.weight",
        "decoder.1.outer.weight",
    ]
    parser = FeatureMLP(words=5, tags=5, labels=5, transitions=4, width=2, hidden=3, norm=LayerNorm, dropout=0.0)
    assert hidden(parser) == ["hidden.0.weight", "hidden.1.weight"]
    (digits,) = plan(make_study("digits", norms=["none"], seeds=1))
    assert len(hidden(digits.build())) == 8


def test_the_direction_of_a_weight_normalized_matrix_is_hidden() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3))
    apply_weight_norm(model)
    assert hidden(model) == ["1.parametrizations.weight.original1"]


def test_a_network_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(
        ValueError, match="muon is for the matrices of hidden layers, and Sequential has none: of 2 wei"
    ):
        RECIPE.make_optimizer(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (32, 32)])
def test_an_update_has_the_direction_of_the_orthogonal_factor_and_the_size_of_adamws(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(shape[1], shape[0], bias=False), nn.Linear(2, 2))
    matrix = model.get_parameter("1.weight")
    recipe = Recipe(steps=9, batch_size=1, learning_rate=0.01, optimizer="muon")
    matrix.grad, before = torch.randn(shape, generator=generator), matrix.detach().clone()
    recipe.make_optimizer(model).step()
    update = (before - matrix.detach()) / 0.01
    u, _, v = torch.linalg.svd(matrix.grad, full_matrices=False)
    # Five steps bring the singular values to 0.7 to 1.2, not to one: Jordan et al. (2024).
    cosine = float((update * (u @ v)).sum() / (update.norm() * (u @ v).norm()))
    assert cosine > 0.95
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


def trained(steps: int, *, saved_after: int | None = None) -> dict[str, torch.Tensor]:
    model = perceptron()
    optimizer = RECIPE.make_optimizer(model)
    for step in range(steps):
        if step == saved_after:
            file = io.BytesIO()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
            model = perceptron()
            optimizer = RECIPE.make_optimizer(model)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.learning_rate_at(step)
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(7, 5, generator=generator)).square().sum().backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


def test_one_state_resumes_to_the_bit() -> None:
    straight, resumed = trained(6), trained(6, saved_after=3)
    for key, want in straight.items():
        assert torch.equal(resumed[key], want), key
    # A state that is lost shows in the momentum of both parts.
    assert not torch.equal(trained(3)["3.weight"], straight["3.weight"])


def test_a_closure_is_called_once() -> None:
    model, calls = perceptron(), []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        loss = model(torch.ones(2, 5)).square().sum()
        loss.backward()
        return loss

    assert RECIPE.make_optimizer(model).step(closure) is not None
    assert calls == [True]
