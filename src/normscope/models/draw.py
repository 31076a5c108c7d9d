"""DRAW: an encoder that looks at parts of an image, and a decoder that paints it, glimpse by glimpse."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

WINDOW = 5
"""Numbers that place a window: centre (x, y), log of the variance, log of the stride, log of the intensity."""


class Window(NamedTuple):
    """A square grid of Gaussian filters on an image of A x A pixels, whose centres are 1 to A."""

    filters: Tensor
    """``[B, 2, N, A]``: weights of the pixels along x and along y, each row summing to 1."""
    intensity: Tensor
    """``[B, 1]``, positive."""
    centres: Tensor
    """``[B, 2, N]``: centres of the filters along x and along y, in pixels."""


def place_window(numbers: Tensor, *, size: int, side: int) -> Window:
    r"""Compute a grid of ``size`` x ``size`` Gaussian filters from five numbers for each image.

    .. math::
        g_X &= \tfrac{A+1}{2} (\tilde g_X + 1), \quad \delta = \tfrac{A-1}{N-1} \tilde\delta, \quad
        \mu_X^i = g_X + (i - N/2 - 0.5)\, \delta \\
        F_X[i, a] &= \tfrac{1}{Z_X} \exp\Big(-\frac{(a - \mu_X^i)^2}{2 \sigma^2}\Big), \quad \sum_a F_X[i, a] = 1

    and the same along y; the numbers are :math:`(\tilde g_X, \tilde g_Y, \log \sigma^2, \log \tilde\delta,
    \log \gamma)`.

    Args:
        numbers: ``[B, 5]``.
        size: N, at least 2.
        side: A.

    References:
        Gregor et al. (2015). DRAW. arXiv:1502.04623, eqs. 19-26.
        Departs from it in: nothing. (The code jbornschein/draw counts filters from 0 in eq. 19, which moves the window
        by one stride, and adds 1e-4 to Z.)
    """
    offsets = torch.arange(1, size + 1, device=numbers.device, dtype=numbers.dtype) - size / 2 - 0.5
    pixels = torch.arange(1, side + 1, device=numbers.device, dtype=numbers.dtype)
    variance, stride, intensity = numbers[:, 2:].exp().split(1, -1)
    centre = (side + 1) / 2 * (numbers[:, :2] + 1)
    centres = centre[..., None] + (side - 1) / (size - 1) * stride[..., None] * offsets
    distances = (pixels - centres[..., None]).square()
    return Window(torch.softmax(distances * (-0.5 / variance)[..., None, None], -1), intensity, centres)


def read_window(images: Tensor, window: Window) -> Tensor:
    r"""Read images ``[B, K, A, A]`` through a window: :math:`\gamma F_Y\, x\, F_X^T`, ``[B, K N N]`` (eq. 27)."""
    along_x, along_y = window.filters.unbind(1)
    narrow = images.flatten(1, 2) @ along_x.mT
    patches = along_y[:, None] @ narrow.unflatten(1, images.shape[1:3])
    return patches.flatten(1) * window.intensity


def write_window(patches: Tensor, window: Window) -> Tensor:
    r"""Write patches ``[B, N, N]`` through a window: :math:`F_Y^T\, w\, F_X / \gamma`, ``[B, A, A]`` (eq. 29)."""
    along_x, along_y = window.filters.unbind(1)
    return along_y.mT @ (patches / window.intensity[..., None]) @ along_x


class ReadOutLSTM(nn.Module):
    r"""One step of an LSTM with plain gates and a norm where the cell is read, :math:`\sigma(o) \odot \tanh(LN(c))`.

    It is :class:`normscope.LSTMCell` with the places ``read-out``, with all gates as one linear layer of the joined
    input and state, which weight normalization can change.

    Args:
        inputs: Features of the input.
        width: Number of units.
        norm: Factory of the norm, from the width.

    Raises:
        ValueError: If the statistics of the norm are not those of a row.

    References:
        Ba et al. (2016). Layer normalization. arXiv:1607.06450, eqs. 29-31.
        Departs from it in: nothing.
    """

    def __init__(self, inputs: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + width, 4 * width)
        self.norm = norm(width)
        statistics = getattr(getattr(self.norm, "traits", None), "statistics", None)
        if statistics not in ("features", None):
            raise ValueError(
                f"{type(self.norm).__name__} shares its statistics over {statistics}, and the glimpses of DRAW, unlike "
                "the steps of a sequence, change in meaning with training: use norms of rows, such as layer_norm"
            )

    def forward(self, x: tuple[Tensor, ...], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs ``[B, ...]``, to be joined, and the states ``[B, H]`` to the next h and c."""
        i, f, g, o = self.gates(torch.cat([*x, h], -1)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm(c)), c


class Start(NamedTuple):
    """Initial values that are added to those of the layers, so that windows see and paint from the first update on.

    At zero, a grid of five filters sees 5 % of an image and paints a peak of 0.16 of what its patch says, and a canvas
    of 0 needs hundreds of updates to become as black as most pixels are.
    """

    canvas: float = 0.0
    """Logit of all pixels."""
    variance: float = 0.0
    """Log of the variance of all filters, in pixels squared."""
    intensity: float = 0.0
    """Log of the factor by which a written patch is multiplied."""


NO_START = Start()
"""Nothing is added."""


class Glimpses(NamedTuple):
    """Everything that a pass over the glimpses leaves; T is their number."""

    canvases: list[Tensor]
    """T times ``[B, A, A]``: logits of the pixels after each glimpse."""
    means: Tensor
    """``[T, B, Z]``: means of the approximate posterior; of no glimpse if the images were generated."""
    log_deviations: Tensor
    """``[T, B, Z]``."""
    reads: list[Window]
    """Windows through which the image was read, T times or never."""
    writes: list[Window]
    """Windows through which the canvas was written, T times."""


class DRAW(nn.Module):
    r"""A variational autoencoder with a recurrent encoder and decoder that read and write through windows.

    With :math:`\hat x_t = x - \sigma(c_{t-1})`, for each glimpse t:

    .. math::
        r_t &= \mathrm{read}(x, \hat x_t, h^{dec}_{t-1}), \quad
        h^{enc}_t = \mathrm{LSTM}^{enc}(h^{enc}_{t-1}, [r_t, h^{dec}_{t-1}]) \\
        z_t &\sim \mathcal N(\mu(h^{enc}_t), \sigma(h^{enc}_t)^2), \quad
        h^{dec}_t = \mathrm{LSTM}^{dec}(h^{dec}_{t-1}, z_t), \quad
        c_t = c_{t-1} + \mathrm{write}(h^{dec}_t)

    Args:
        side: A, height and width of the images.
        width: Units of each LSTM.
        latent: Z, numbers of a glimpse's latent vector.
        glimpses: T.
        read: N of the windows that read.
        write: N of the windows that write.
        norm: Factory of the norms, from the width; one in each LSTM, where its cell is read.
        start: Initial values of windows and canvas.

    Raises:
        ValueError: If the statistics of the norm are not those of a row.

    References:
        Gregor et al. (2015). DRAW: A recurrent neural network for image generation. arXiv:1502.04623, eqs. 3-11, 19-29.
        Departs from it in: nothing. Initial states are learned, and start at zero; of the other initial values, torch's
        and ``start``, the source says nothing.
    """

    def __init__(
        self,
        *,
        side: int,
        width: int,
        latent: int,
        glimpses: int,
        read: int,
        write: int,
        norm: Callable[[int], nn.Module],
        start: Start = NO_START,
    ) -> None:
        super().__init__()
        self.start = start
        self.side, self.latent, self.glimpses, self.sizes = side, latent, glimpses, (read, write)
        self.encoder = ReadOutLSTM(2 * read * read + width, width, norm)
        self.posterior = nn.Linear(width, 2 * latent)
        self.decoder = ReadOutLSTM(latent, width, norm)
        self.windows = nn.Linear(width, 2 * WINDOW + write * write)
        self.states = nn.Parameter(torch.zeros(4, width))
        self.canvas = nn.Parameter(torch.full((side, side), start.canvas))
        offsets = torch.zeros(self.windows.out_features)
        offsets[[2, WINDOW + 2]], offsets[4] = start.variance, -start.intensity
        self.offsets: Tensor
        self.register_buffer("offsets", offsets, persistent=False)

    def reset_parameters(self) -> None:
        """Set the initial states to zero, and the initial canvas to its start."""
        nn.init.zeros_(self.states)
        nn.init.constant_(self.canvas, self.start.canvas)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        r"""Compute the variational bound of images with one sample of the latent vectors.

        .. math::
            -\log D(x \mid c_T) + \sum_t \tfrac12 \sum_j (\mu_{tj}^2 + \sigma_{tj}^2 - \log \sigma_{tj}^2 - 1)

        Args:
            x: Pixels ``[B, A, A]``, 0 or 1.
            noise: Standard normal numbers ``[T, B, Z]``.

        Returns:
            An upper bound of the negative log-likelihood of each image in nats, ``[B]``; lower is better.

        References:
            Gregor et al. (2015), eqs. 9-12. Departs from it in: eq. 11 has T/2 in place of the sum of 1/2 over t and j,
            which is the divergence only for one latent number.
        """
        found = self.look(x, noise)
        painted = F.binary_cross_entropy_with_logits(found.canvases[-1].float(), x.float(), reduction="none")
        means, logs = found.means.float(), found.log_deviations.float()
        divergence = 0.5 * (means.square() + (2 * logs).exp() - 2 * logs - 1)
        return painted.sum((1, 2)) + divergence.sum((0, 2))

    def look(self, x: Tensor, noise: Tensor) -> Glimpses:
        """Encode images ``[B, A, A]`` and paint them again, with ``noise`` as in :meth:`forward`."""
        return self._pass(noise, x)

    def generate(self, noise: Tensor) -> Glimpses:
        """Paint images from latent vectors ``[T, B, Z]`` that were drawn from the prior."""
        return self._pass(noise, None)

    def _pass(self, noise: Tensor, x: Tensor | None) -> Glimpses:
        read, write = self.sizes
        canvas = self.canvas.expand(noise.shape[1], -1, -1)
        h_encoder, c_encoder, h, c = (state.expand(noise.shape[1], -1) for state in self.states)
        found = Glimpses([], noise[:0], noise[:0], [], [])
        posteriors = []
        # A weight that is computed from others is computed once.
        with parametrize.cached():
            # One product gives the numbers of the window that writes now, and of the one that reads next.
            numbers = self.windows(h) + self.offsets
            for z in noise:
                if x is not None:
                    looks = place_window(numbers[:, WINDOW : 2 * WINDOW], size=read, side=self.side)
                    seen = read_window(torch.stack([x, x - torch.sigmoid(canvas)], 1), looks)
                    h_encoder, c_encoder = self.encoder((seen, h), h_encoder, c_encoder)
                    posteriors.append(self.posterior(h_encoder))
                    means, logs = posteriors[-1].chunk(2, -1)
                    z = means + logs.exp() * z
                    found.reads.append(looks)
                h, c = self.decoder((z,), h, c)
                numbers = self.windows(h) + self.offsets
                paints = place_window(numbers[:, :WINDOW], size=write, side=self.side)
                patches = numbers[:, 2 * WINDOW :].unflatten(-1, (write, write))
                canvas = canvas + write_window(patches, paints)
                found.canvases.append(canvas)
                found.writes.append(paints)
        if not posteriors:
            return found
        means, logs = torch.stack(posteriors).chunk(2, -1)
        return found._replace(means=means, log_deviations=logs)
