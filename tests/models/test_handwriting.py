"""The mixture, the window and the networks of handwriting, against other libraries and equations written out."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn.utils.rnn import pack_sequence

from normscope.models import HandwritingNetwork, PenMixture
from normscope.models.handwriting import CharacterWindow, clip_gradient
from normscope.norms import NORMS, LayerNorm
from normscope.training.randomness import initialize

NETWORK: dict[str, Any] = {"width": 6, "layers": 3, "mixtures": 3}
TEXTS = [[0, 1, 2, 1], [3, 0], [2, 2, 1]]


def network(norm: str, *, text: bool, **changes: Any) -> HandwritingNetwork:
    model = HandwritingNetwork(**NETWORK, norm=NORMS[norm], characters=4 if text else 0, windows=2, **changes)
    initialize(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Away from gains of one and biases of zero, which hide what is left out.
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double()


def characters() -> Tensor:
    text = torch.zeros(3, 5, 4, dtype=torch.float64)
    for row, places in zip(text, TEXTS, strict=True):
        row[range(len(places)), places] = 1
    return text


def drawings(*lengths: int) -> list[Tensor]:
    return [torch.cat([torch.randn(n, 2), torch.bernoulli(torch.full((n, 1), 0.3))], 1).double() for n in lengths]


def peer(outputs: Tensor) -> tuple[MixtureSameFamily, Bernoulli]:
    """Build the distribution of eqs. 18 to 25 from covariance matrices."""
    e, pi, mu_x, mu_y, s_x, s_y, r = outputs.split([1, *[(outputs.shape[-1] - 1) // 6] * 6], -1)
    x, y, rho = s_x.exp(), s_y.exp(), r.tanh()
    covariance = torch.stack([x * x, rho * x * y, rho * x * y, y * y], -1).unflatten(-1, (2, 2))
    gaussians = MultivariateNormal(torch.stack([mu_x, mu_y], -1), covariance)
    return MixtureSameFamily(Categorical(logits=pi), gaussians), Bernoulli(1 / (1 + e[..., 0].exp()))


def test_the_density_and_its_gradient_are_those_of_torchs_distributions() -> None:
    outputs = torch.randn(50, 6 * 4 + 1, dtype=torch.float64, requires_grad=True)
    points = drawings(50)[0]
    found = PenMixture.read(outputs).log_density(points)
    mixture, pen = peer(outputs)
    wanted = mixture.log_prob(points[:, :2]) + pen.log_prob(points[:, 2])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    upstream = torch.randn(50, dtype=torch.float64)
    gradients = [torch.autograd.grad((one * upstream).sum(), outputs)[0] for one in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_the_density_is_that_of_scipy_and_integrates_to_one() -> None:
    outputs = 0.5 * torch.randn(6 * 3 + 1, dtype=torch.float64)
    outputs[-1] = 1.2
    e, pi, mu_x, mu_y, s_x, s_y, r = np.split(outputs.numpy(), [1, 4, 7, 10, 13, 16])
    weights = np.exp(pi) / np.exp(pi).sum()
    sizes, rho = np.exp(np.stack([s_x, s_y])), np.tanh(r)
    grid = np.stack(np.meshgrid(*(np.linspace(-18, 18, 361),) * 2), -1)
    density = np.zeros(grid.shape[:2])
    for m, weight in enumerate(weights):
        cross = rho[m] * sizes[0, m] * sizes[1, m]
        covariance = [[sizes[0, m] ** 2, cross], [cross, sizes[1, m] ** 2]]
        gaussian: Any = scipy.stats.multivariate_normal
        density += weight * gaussian.pdf(grid, [mu_x[m], mu_y[m]], covariance)
    points = torch.from_numpy(grid)
    lifted = 1 / (1 + math.exp(e[0]))
    total = 0.0
    for pen, share in ((1.0, lifted), (0.0, 1 - lifted)):
        full = torch.cat([points, torch.full_like(points[..., :1], pen)], -1)
        found = PenMixture.read(outputs.expand(*full.shape[:2], -1)).log_density(full).exp()
        np.testing.assert_allclose(found, share * density, rtol=1e-9, atol=1e-300)
        total += float(found.sum()) * 0.1**2
    assert total == pytest.approx(1, abs=1e-5)


def test_a_density_by_hand() -> None:
    # One Gaussian at (1, 0) with deviations 1 and 2 and correlation 3/5; e = 1/4. The point is (2, 2) with the pen up:
    # a = b = 1, Z = 1 + 1 - 2 * 3/5 = 4/5, 1 - rho^2 = 16/25, Z / (2 (1 - rho^2)) = 5/8.
    outputs = torch.tensor([math.log(3), 0.0, 1.0, 0.0, 0.0, math.log(2), math.atanh(0.6)], dtype=torch.float64)
    found = PenMixture.read(outputs).log_density(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    assert float(found) == pytest.approx(math.log(1 / (2 * math.pi * 1 * 2 * 0.8)) - 5 / 8 + math.log(1 / 4), abs=1e-12)


def test_extreme_outputs_leave_density_and_gradient_finite() -> None:
    places = torch.tensor([0.0, 1e-3, 1.0, 30.0, 300.0])
    outputs = torch.cartesian_prod(*([torch.tensor([-300.0, 0.0, 300.0])] * 7))
    outputs = outputs.repeat(1, 2)[:, :13].requires_grad_()
    for x in places:
        points = torch.stack([x, -x, torch.tensor(1.0)]).expand(len(outputs), 3)
        density = PenMixture.read(outputs).log_density(points)
        assert density.isfinite().all()
        assert torch.autograd.grad(density @ torch.randn(len(outputs)), outputs)[0].isfinite().all()


def test_drawn_points_have_the_moments_of_the_mixture() -> None:
    outputs = torch.tensor([0.5, 0.0, 1.0, -2.0, 3.0, 1.0, 0.0, -0.5, 0.2, 0.3, -0.2, 1.0, -0.6], dtype=torch.float64)
    count = 200_000
    points = PenMixture.read(outputs.expand(count, -1)).draw(torch.Generator().manual_seed(3))
    mixture, pen = peer(outputs)
    # Six standard errors.
    error = 6 * (mixture.variance / count).sqrt()
    assert ((points[:, :2].mean(0) - mixture.mean).abs() < error).all()
    assert abs(float(points[:, 2].mean() - pen.mean)) < 6 * math.sqrt(0.25 / count)
    weights, parts = mixture.mixture_distribution.probs, mixture.component_distribution
    assert isinstance(parts, MultivariateNormal)
    centred = parts.mean - mixture.mean
    within = parts.covariance_matrix + centred[:, :, None] * centred[:, None]
    # Six standard errors of a variance of about 6.
    torch.testing.assert_close(points[:, :2].T.cov(), (weights[:, None, None] * within).sum(0), rtol=0, atol=0.12)


@torch.no_grad()
def test_the_window_by_hand_and_by_loops() -> None:
    window = CharacterWindow(3, 2).double()
    text = torch.zeros(1, 4, 2, dtype=torch.float64)
    text[0, [0, 1, 2], [0, 1, 0]] = 1
    with torch.no_grad():
        window.weight.zero_()
        # alpha = 1, 2; beta = 1, 3; steps of 2 and 1.
        window.bias.copy_(torch.tensor([1.0, 2, 1, 3, 2, 1], dtype=torch.float64).log())
    seen, position, phi = window(torch.zeros(1, 3).double(), text, torch.tensor([[0.0, 1.0]]).double())
    # Both Gaussians stand at character 2: phi(u) = exp(-(u - 2)^2) + 2 exp(-3 (u - 2)^2).
    side, far = math.exp(-1) + 2 * math.exp(-3), math.exp(-4) + 2 * math.exp(-12)
    assert position.tolist() == [[2, 2]]
    assert phi[0].tolist() == pytest.approx([side, 3, side, far], abs=1e-12)
    assert seen[0].tolist() == pytest.approx([2 * side, 3], abs=1e-12)
    window.reset_parameters()
    h, before = torch.randn(3, 3).double(), torch.rand(3, 2).double()
    seen, position, _ = window(h, characters(), before)
    a, b, k = (h @ window.weight.T + window.bias).exp().split(2, 1)
    assert k.mean() < 0.1
    for row, places in enumerate(TEXTS):
        wanted = torch.zeros(4, dtype=torch.float64)
        for u, kind in enumerate(places, 1):
            for m in range(2):
                centre = before[row, m] + k[row, m]
                assert float(position[row, m]) == pytest.approx(float(centre), abs=1e-12)
                wanted[kind] += a[row, m] * torch.exp(-b[row, m] * (centre - u) ** 2)
        torch.testing.assert_close(seen[row], wanted, rtol=1e-10, atol=1e-12)


def ba_lstm(layer: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a step of eqs. 17-19, or 20-22 where there are norms, with the layer's weights."""
    norms = layer.norms["l0"]

    def normed(place: str, z: Tensor) -> Tensor:
        if place not in norms:
            return z
        gain, bias = norms[place][0].weight, norms[place][0].bias
        centred = z - z.mean(-1, keepdim=True)
        return gain * centred / (centred.square().mean(-1, keepdim=True) + norms[place][0].eps).sqrt() + bias

    z = normed("hh", h @ layer.weight_hh_l0.T) + normed("ih", x @ layer.weight_ih_l0.T)
    i, f, g, o = (z + layer.bias_ih_l0 + layer.bias_hh_l0).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * normed("cell", c).tanh(), c


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_the_networks_are_graves_equations_point_by_point(norm: str, text: bool) -> None:
    model = network(norm, text=text)
    (points,) = drawings(7)
    given = characters()[:1] if text else None
    with torch.no_grad():
        found, _ = model(pack_sequence([points]), given)
        h = [torch.zeros(6).double()] * 3
        c = [torch.zeros(6).double()] * 3
        w, kappa = torch.zeros(4 if text else 0).double(), torch.zeros(2).double()
        for x, output in zip(points, found, strict=True):
            h[0], c[0] = ba_lstm(model.layers[0], torch.cat([x, w]), h[0], c[0])
            if model.window is not None:
                alpha, beta, step = F.linear(h[0], model.window.weight, model.window.bias).exp().split(2)
                kappa = kappa + step
                u = torch.arange(1, 6)
                phi = torch.stack([alpha[k] * torch.exp(-beta[k] * (kappa[k] - u) ** 2) for k in range(2)]).sum(0)
                w = phi @ characters()[0]
            for n in (1, 2):
                h[n], c[n] = ba_lstm(model.layers[n], torch.cat([x, w, h[n - 1]]), h[n], c[n])
            wanted = model.outputs.weight @ torch.cat(h) + model.outputs.bias
            torch.testing.assert_close(output, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("norm", ["none", "layer_norm", "rms_norm"])
def test_teacher_forcing_is_step_by_step_and_no_drawing_sees_another(norm: str, text: bool) -> None:
    model, given = network(norm, text=text), characters() if text else None
    lengths = (3, 7, 5)
    points = drawings(*lengths)
    whole, end = model(pack_sequence(points, enforce_sorted=False), given)
    owner = pack_sequence([torch.full((n,), row) for row, n in enumerate(lengths)], enforce_sorted=False).data
    for row, one in enumerate(points):
        state, alone = None, []
        for x in one:
            output, state = model(pack_sequence([x[None]]), None if given is None else given[row : row + 1], state)
            alone.append(output)
        torch.testing.assert_close(torch.cat(alone), whole[owner == row], rtol=1e-10, atol=1e-10)
        assert state is not None
        for ours, theirs in zip(state.layers, end.layers, strict=True):
            torch.testing.assert_close([one[:, 0] for one in ours], [one[:, row] for one in theirs])
        if state.window is not None and end.window is not None:
            torch.testing.assert_close([one[0] for one in state.window], [one[row] for one in end.window])


@pytest.mark.parametrize("text", [False, True])
def test_a_sample_is_drawn_from_what_teacher_forcing_predicts(text: bool) -> None:
    model, given = network("layer_norm", text=text).float(), characters().float() if text else None
    lengths = torch.tensor([4, 9, 6])
    sample = model.sample(lengths, torch.Generator().manual_seed(5), given)
    assert sample.shape == (3, 9, 3)
    assert torch.equal((~sample.isnan()).all(-1).sum(1), lengths)
    assert set(sample[..., 2][~sample[..., 2].isnan()].tolist()) <= {0.0, 1.0}
    (longest,) = (sample[1],)
    inputs = torch.cat([torch.zeros(1, 3), longest[:-1]])
    outputs, _ = model(pack_sequence([inputs]), None if given is None else given[1:2])
    # The same random numbers, from the distributions of all points of a drawing at once.
    generator = torch.Generator().manual_seed(5)
    for step, (output, point) in enumerate(zip(outputs, longest, strict=True)):
        drawn = PenMixture.read(output.expand(3, -1)).draw(generator)
        torch.testing.assert_close(drawn[1], point, rtol=1e-4, atol=1e-4, msg=f"point {step}")


def test_a_sample_ends_when_the_window_has_passed_the_text() -> None:
    model = network("layer_norm", text=True).float()
    assert model.window is not None
    with torch.no_grad():
        model.window.weight.zero_()
        model.window.bias.copy_(torch.tensor([1.0, 1, 2, 2, 0.75, 0.75]).log())
    ends = torch.tensor(list(map(len, TEXTS)))
    lengths = torch.tensor([50, 50, 2])
    sample = model.sample(lengths, torch.Generator().manual_seed(0), characters().float(), ends)
    # The window moves by 3/4, and is nearer to place U + 1 than to U beyond U + 1/2: after 7 and 4 points.
    assert (~sample.isnan()).all(-1).sum(1).tolist() == [7, 4, 2]


def test_sizes_are_those_of_the_paper() -> None:
    for characters_, wanted in ((57, 3_676_551), (0, 3_390_921)):
        model: Any = HandwritingNetwork(width=400, layers=3, mixtures=20, norm=LayerNorm, characters=characters_)
        assert sum(p.numel() for p in model.parameters()) == wanted
        assert model.outputs.out_features == 121
        first, *others = (layer.input_size for layer in model.layers)
        assert (first, others) == (3 + characters_, [403 + characters_] * 2)
        norms = [one for one in model.modules() if isinstance(one, LayerNorm)]
        assert [one.weight.shape[0] for one in norms] == [1600, 1600, 400] * 3


def test_gradients_are_clipped_entry_by_entry() -> None:
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([-3.0, -0.5, 0.25, 9.0], dtype=torch.float64)
    (clip_gradient(x, 2.0) * upstream).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-2, -0.5, 0.25, 2]
    assert torch.equal(clip_gradient(x, 2.0), x)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 0 kinds of characters, got text True"):
        network("none", text=False)(pack_sequence(drawings(3)), characters()[:1])
    with pytest.raises(ValueError, match="reads 4 kinds of characters, got text False"):
        network("none", text=True)(pack_sequence(drawings(3)))
    with pytest.raises(ValueError, match="batch norm has moments of every time step"):
        network("batch_norm", text=False)
    with pytest.raises(ValueError, match="places of LSTM are"):
        network("layer_norm", text=False, places="nowhere")


def test_it_learns_a_batch_by_heart(trains: Any) -> None:
    model = network("layer_norm", text=True).float()
    batch = [one.float() for one in drawings(6, 9, 4)]
    inputs = pack_sequence([F.pad(one, (0, 0, 1, -1)) for one in batch], enforce_sorted=False)
    targets = pack_sequence(batch, enforce_sorted=False).data

    def loss() -> Tensor:
        outputs, _ = model(inputs, characters().float())
        return 8 - PenMixture.read(outputs).log_density(targets).mean()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = loss().item()
    for _ in range(25):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < first - 1
    with torch.autocast("cpu", torch.bfloat16):
        half = loss()
    assert half.dtype == torch.float32
    half.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert isinstance(model.window, nn.Linear)
