"""Products against full matrices, built from Jacobians and Hessians that torch computes in another way."""

import copy
import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from normscope import norms
from normscope.analysis.curvature import GaussNewton
from normscope.norms import NORMS
from support.made_norms import MIXES_POSITIONS


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(norm: Callable[[int], nn.Module] = norms.LayerNorm, outputs: int = 3) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), norm(5), nn.Tanh(), nn.Linear(5, outputs)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=seed))
    return model


def in_full(model: nn.Module, x: torch.Tensor, loss: str) -> torch.Tensor:
    """J^T H J, with J computed row by row in reverse mode, and H the second derivative of torch's loss."""
    parameters = list(model.parameters())
    outputs = model(x)
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(entry, parameters, retain_graph=True)])
        for entry in outputs.reshape(-1)
    ]
    jacobian = torch.stack(rows)
    k = outputs.shape[-1]
    if loss == "mse":
        of = lambda s: F.mse_loss(s.reshape(-1, k), drawn(len(s) // k, k, seed=9))  # noqa: E731
    else:
        of = lambda s: F.cross_entropy(s.reshape(-1, k), torch.arange(len(s) // k) % k)  # noqa: E731
    hessian = torch.autograd.functional.hessian(of, outputs.detach().reshape(-1))
    assert isinstance(hessian, torch.Tensor)
    return jacobian.T @ hessian @ jacobian


def by_products(matrix: GaussNewton) -> torch.Tensor:
    return torch.stack([matrix.product(column) for column in torch.eye(matrix.size, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("name", NORMS)
def test_every_norm_against_the_matrix_in_full(name: str, loss) -> None:
    # Some norms need positions beside the channels.
    x = drawn(6, 2, 4) if name in MIXES_POSITIONS else drawn(6, 4)
    model = network(NORMS[name])
    told = by_products(GaussNewton(model, x, loss=loss))
    want = in_full(model, x, loss)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(told, want, rtol=1e-9, atol=1e-11)


def test_over_a_linear_model_it_is_the_hessian() -> None:
    model, x, y = nn.Linear(4, 3).double(), drawn(7, 4), torch.arange(7) % 3

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(x, flat[:12].reshape(3, 4), flat[12:]), y)

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    want = torch.autograd.functional.hessian(loss, flat)
    torch.testing.assert_close(by_products(GaussNewton(model, x, loss="cross_entropy")), want)


def test_fisher_is_the_definition() -> None:
    model, x = network(), drawn(5, 4)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    want = torch.zeros(0)
    for case in range(5):
        for y in range(3):

            def log_likelihood(parameters: dict, case: int = case, y: int = y) -> torch.Tensor:
                return functional_call(model, parameters, (x[case : case + 1],)).log_softmax(-1)[0, y]

            score = torch.cat([g.reshape(-1) for g in torch.func.grad(log_likelihood)(parameters).values()])
            part = log_likelihood(parameters).exp() * torch.outer(score, score) / 5
            want = want + part if len(want) else part
    told = by_products(GaussNewton(model, x, loss="cross_entropy", kind="fisher"))
    torch.testing.assert_close(told, want.detach())
    ggn = by_products(GaussNewton(model, x, loss="mse"))
    torch.testing.assert_close(by_products(GaussNewton(model, x, loss="mse", kind="fisher")), 1.5 * ggn)


def test_a_block_is_a_block() -> None:
    model, x = network(), drawn(6, 4)
    names = [name for name, _ in model.named_parameters()]
    whole = by_products(GaussNewton(model, x, loss="mse"))
    sizes = [p.numel() for p in model.parameters()]
    at = names.index("1.weight")
    begin = sum(sizes[:at])
    block = by_products(GaussNewton(model, x, loss="mse", only=["1.weight"]))
    torch.testing.assert_close(block, whole[begin : begin + 5, begin : begin + 5])
    model[0].requires_grad_(False)
    assert GaussNewton(model, x, loss="mse").size == sum(sizes[2:])


class Words(nn.Module):
    """A transformer encoder over tokens, with attention and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(words), src_mask=mask))


def test_a_transformer_with_two_inputs() -> None:
    torch.manual_seed(0)
    model = Words().double().eval()
    words = torch.tensor([[1, 2, 3, 4], [4, 0, 6, 2]])
    mask = torch.ones(4, 4).triu(1).bool()
    matrix = GaussNewton(model, (words, mask), loss="cross_entropy")
    assert (matrix.cases, matrix.units) == (8, 7)
    v = drawn(matrix.size)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(step: float) -> torch.Tensor:
        parts = (step * v).split([p.numel() for p in parameters.values()])
        moved = {n: p + part.reshape(p.shape) for part, (n, p) in zip(parts, parameters.items(), strict=True)}
        return functional_call(model, moved, (words, mask)).detach()

    change = (outputs(1e-6) - outputs(-1e-6)) / 2e-6
    p = outputs(0.0).softmax(-1)
    want = ((p * change.square()).sum() - (p * change).sum(-1).square().sum()) / 8
    # Central differences of 1e-6: nine digits.
    assert float(v @ matrix.product(v)) == pytest.approx(float(want), rel=1e-6)


def test_nothing_is_changed() -> None:
    model, x = network(norms.BatchNorm), drawn(6, 4)
    twin = copy.deepcopy(model)
    matrix = GaussNewton(model, x, loss="mse")
    matrix.product(drawn(matrix.size))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[key])
    assert all(p.grad is None for p in model.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


def test_float32_agrees_to_its_rounding() -> None:
    model, x = network(), drawn(6, 4)
    v = drawn(GaussNewton(model, x, loss="mse").size)
    want = GaussNewton(model, x, loss="mse").product(v)
    told = GaussNewton(copy.deepcopy(model).float(), x.float(), loss="mse").product(v)
    assert (told - want).norm() < 1e-5 * want.norm()


@pytest.mark.skipif(importlib.util.find_spec("curvlinops") is None, reason="curvlinops is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_against_curvlinops() -> None:
    from curvlinops import GGNLinearOperator

    model, x = network(), drawn(6, 4)
    data = [(x, torch.arange(6) % 3)]
    peer = GGNLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), data)
    v = drawn(GaussNewton(model, x, loss="cross_entropy").size)
    torch.testing.assert_close(GaussNewton(model, x, loss="cross_entropy").product(v), (peer @ v).detach())


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"loss": "hinge"}, ValueError, "got 'hinge'"),
        ({"kind": "hessian"}, ValueError, "'hessian'"),
        ({"only": ["1.gain"]}, ValueError, r"no trainable parameter is named \['1.gain'\]; trainable: \['0.weight'"),
        ({"model": nn.Tanh()}, ValueError, "must have trainable parameters"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Dropout()).double()}, ValueError, "turn off dropout"),
        ({"model": nn.LSTM(4, 3).double()}, TypeError, "must return one tensor, got tuple"),
        ({"inputs": torch.full((2, 4), torch.nan, dtype=torch.float64)}, ValueError, "must be finite"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(changed: dict, error: type[Exception], words: str) -> None:
    settings = {"model": network(), "inputs": drawn(6, 4), "loss": "mse", **changed}
    with pytest.raises(error, match=words):
        GaussNewton(settings.pop("model"), settings.pop("inputs"), **settings)


def test_a_vector_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[53\], got \[2\]"):
        GaussNewton(network(), drawn(6, 4), loss="mse").product(drawn(2))
