"""DRAW against its equations, written again in loops, and against torch.distributions; a small case enumerated."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from normscope.models import DRAW
from normscope.models.draw import ReadOutLSTM, Start, place_window, read_window, write_window
from normscope.norms import BatchNorm, LayerNorm, NoNorm, apply_weight_norm
from normscope.recurrent import LSTMCell


def draws(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=torch.float64)


def filters(numbers: list[float], size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute F_X and F_Y of eqs. 19-26 in loops that count from 1, as the paper does."""
    centre_x, centre_y, log_variance, log_stride, _ = numbers
    made = []
    for centre in (centre_x, centre_y):
        bank = np.zeros((size, side))
        for i in range(1, size + 1):
            middle = (side + 1) / 2 * (centre + 1)
            stride = (side - 1) / (size - 1) * math.exp(log_stride)
            mu = middle + (i - size / 2 - 0.5) * stride
            for a in range(1, side + 1):
                bank[i - 1, a - 1] = math.exp(-((a - mu) ** 2) / (2 * math.exp(log_variance)))
            bank[i - 1] /= bank[i - 1].sum()
        made.append(bank)
    return made[0], made[1]


def test_filters_reading_and_writing_are_those_of_the_equations() -> None:
    numbers, images, patches = 0.4 * draws(4, 5), draws(4, 2, 7, 7), draws(4, 3, 3)
    window = place_window(numbers, size=3, side=7)
    read, written = read_window(images, window), write_window(patches, window)
    for row in range(4):
        along_x, along_y = filters(numbers[row].tolist(), 3, 7)
        gamma = math.exp(float(numbers[row, 4]))
        np.testing.assert_allclose(window.filters[row], [along_x, along_y], rtol=1e-12)
        for image in range(2):
            # y is the first axis of an image.
            wanted = gamma * along_y @ images[row, image].numpy() @ along_x.T
            np.testing.assert_allclose(read[row, 9 * image : 9 * image + 9], wanted.ravel(), rtol=1e-12)
        wanted = along_y.T @ patches[row].numpy() @ along_x / gamma
        np.testing.assert_allclose(written[row], wanted, rtol=1e-12)


def test_a_window_done_by_hand() -> None:
    # Two filters on three pixels: the centre is pixel 2, the stride 2, so the filters sit on pixels 1 and 3.
    window = place_window(torch.zeros(1, 5, dtype=torch.float64), size=2, side=3)
    assert window.centres.tolist() == [[[1.0, 3.0], [1.0, 3.0]]]
    weights = torch.tensor([1.0, math.exp(-0.5), math.exp(-2.0)], dtype=torch.float64)
    weights /= weights.sum()
    torch.testing.assert_close(window.filters[0, 0], torch.stack([weights, weights.flip(0)]))
    # A point of ink at the right of the upper row is read by the right upper filter most, and by both banks.
    image = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    image[0, 0, 0, 2] = 1
    a, _, c = weights.tolist()
    torch.testing.assert_close(read_window(image, window)[0], torch.tensor([a * c, a * a, c * c, a * c]).double())


def test_corners_far_windows_and_zoom() -> None:
    numbers = torch.tensor([[-1.0, 1.0, 0, 0, 0], [50.0, 0, -6, 0, 0], [0, 0, 0, -math.log(27), 0]])
    window = place_window(numbers.double(), size=2, side=28)
    # At -1 and 1 the centre lies half a pixel outside of either edge: 0 and 29.
    assert window.centres[0].mean(-1).tolist() == pytest.approx([0, 29])
    assert window.centres[2].tolist() == [pytest.approx([14, 15])] * 2
    # A window outside sees the last pixels, not 0 / 0.
    torch.testing.assert_close(window.filters[1, 0, :, -1], torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(window.filters.sum(-1), torch.ones(3, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize("norm", [LayerNorm, NoNorm])
def test_the_cell_is_that_of_the_recurrent_layers(norm: type[nn.Module]) -> None:
    ours, theirs = ReadOutLSTM(3, 4, norm).double(), LSTMCell(3, 4, norm=norm, places="read-out").double()
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.gates.weight[:, :3])
        theirs.weight_hh.copy_(ours.gates.weight[:, 3:])
        theirs.bias_ih.copy_(ours.gates.bias)
        theirs.bias_hh.zero_()
        for one, other in zip(ours.norm.parameters(), theirs.norms.parameters(), strict=True):
            one.copy_(torch.randn_like(one))
            other.copy_(one)
    x, h, c = draws(5, 3), draws(5, 4), draws(5, 4)
    found = ours((x[:, :1], x[:, 1:]), h, c)
    torch.testing.assert_close(found, theirs(x, (h, c)), rtol=1e-10, atol=1e-12)


def model(norm: type[nn.Module] = LayerNorm, *, glimpses: int = 3, side: int = 6, latent: int = 2) -> DRAW:
    start = Start(canvas=-0.5, variance=0.4, intensity=0.7)
    made = DRAW(
        side=side, width=5, latent=latent, glimpses=glimpses, read=2, write=3, norm=norm, start=start
    ).double()  # fmt: skip
    with torch.no_grad():
        made.states.normal_()
    return made


def reference(net: DRAW, x: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute the bound of one image, and its canvases, from eqs. 3-12, one glimpse after the other."""
    h_enc, c_enc, h_dec, c_dec = net.states
    canvas, bound, canvases = net.canvas, torch.zeros((), dtype=torch.float64), []
    for eps in noise:
        numbers = net.windows(h_dec)
        looks = numbers[5:10] + torch.tensor([0, 0, net.start.variance, 0, 0])
        along_x, along_y = (torch.tensor(bank) for bank in filters(looks.tolist(), 2, net.side))
        error = x - torch.sigmoid(canvas)
        read = torch.cat([(looks[4].exp() * along_y @ image @ along_x.T).flatten() for image in (x, error)])
        h_enc, c_enc = cell(net.encoder, torch.cat([read, h_dec]), h_enc, c_enc)
        mean, log = net.posterior(h_enc).chunk(2)
        posterior = Normal(mean, log.exp())
        bound = bound + kl_divergence(posterior, Normal(torch.zeros(2), torch.ones(2))).sum()
        h_dec, c_dec = cell(net.decoder, mean + log.exp() * eps, h_dec, c_dec)
        numbers = net.windows(h_dec)
        paints = numbers[:5] + torch.tensor([0, 0, net.start.variance, 0, -net.start.intensity])
        along_x, along_y = (torch.tensor(bank) for bank in filters(paints.tolist(), 3, net.side))
        canvas = canvas + along_y.T @ numbers[10:].reshape(3, 3) @ along_x / paints[4].exp()
        canvases.append(canvas)
    return bound - Independent(Bernoulli(logits=canvas), 2).log_prob(x), canvases


def cell(lstm: ReadOutLSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = lstm.gates(torch.cat([x, h])).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * torch.tanh((c - c.mean()) / (c.var(correction=0) + 1e-5).sqrt()), c


def test_the_bound_and_the_canvases_are_those_of_the_equations() -> None:
    net, x, noise = model(), torch.randint(2, (4, 6, 6)).double(), draws(3, 4, 2)
    found, bounds = net.look(x, noise), net(x, noise)
    assert (len(found.canvases), len(found.reads), len(found.writes)) == (3, 3, 3)
    for row in range(4):
        wanted, canvases = reference(net, x[row], noise[:, row])
        # The bound is taken in float32, whatever the network computes in.
        torch.testing.assert_close(bounds[row].double(), wanted, rtol=1e-5, atol=0)
        for one, other in zip(found.canvases, canvases, strict=True):
            torch.testing.assert_close(one[row], other, rtol=1e-9, atol=1e-10)


def test_generated_images_have_the_latent_vectors_of_the_posterior() -> None:
    net, x, noise = model(), torch.randint(2, (2, 6, 6)).double(), draws(3, 2, 2)
    seen = net.look(x, noise)
    made = net.generate(seen.means + seen.log_deviations.exp() * noise)
    torch.testing.assert_close(made.canvases[-1], seen.canvases[-1])
    assert not made.reads
    assert not len(made.means)


def test_the_bound_is_above_the_likelihood_of_every_image() -> None:
    """All 16 images of 2 x 2 pixels, with one glimpse and one latent number, integrated by Gauss and Hermite."""
    net = model(glimpses=1, side=2, latent=1)
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).view(16, 2, 2)
    at, weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    weight = weight / weight.sum()
    canvases = net.generate(at[None, :, None]).canvases[-1]
    log_p = Bernoulli(logits=canvases).log_prob(images[:, None]).sum((2, 3))
    likelihood = (log_p + weight.log()).logsumexp(1)
    assert float(likelihood.exp().sum().detach()) == pytest.approx(1)
    bounds = torch.stack([net(images, z.expand(1, 16, 1)) for z in at]).double()
    mean = (weight[:, None] * bounds).sum(0)
    gaps = mean + likelihood
    assert gaps.min() > 0
    # The gap is the divergence between the approximate and the true posterior.
    seen = net.look(images, torch.zeros(1, 16, 1, dtype=torch.float64))
    posterior = Normal(seen.means[0], seen.log_deviations[0].exp())
    z = posterior.mean + posterior.stddev * at
    joint = Bernoulli(logits=torch.stack([net.generate(one[None, :, None]).canvases[-1] for one in z]))
    log_joint = joint.log_prob(images[:, None]).sum((2, 3)) + Normal(0, 1).log_prob(z)
    divergence = (weight * (posterior.log_prob(z) - log_joint + likelihood[:, None])).sum(1)
    torch.testing.assert_close(gaps, divergence, rtol=1e-4, atol=1e-5)


def test_weight_norm_changes_every_layer_and_no_function() -> None:
    net, x, noise = model(NoNorm), torch.randint(2, (2, 6, 6)).double(), draws(3, 2, 2)
    before = net(x, noise)
    assert apply_weight_norm(net) == 4
    torch.testing.assert_close(net(x, noise), before, rtol=1e-5, atol=0)
    net(x, noise).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_norms_over_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm shares its statistics over batch, and the glimpses of DRAW"):
        model(BatchNorm)


def test_starts_are_set_again_with_the_parameters() -> None:
    net = model()
    with torch.no_grad():
        net.canvas.fill_(7)
    net.reset_parameters()
    assert not net.states.any()
    assert net.canvas.unique().tolist() == [-0.5]
    assert "offsets" not in net.state_dict()
