"""Prediction and synthesis of handwriting: three LSTM layers, a window over characters, a mixture of Gaussians."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normscope.models.recurrent import FORGET_BIAS
from normscope.recurrent import LSTM, Places

POINTS_PER_CHARACTER = 25
"""Number of points in which a window moves on by one character at the start, as in IAM-OnDB (Graves, section 5)."""

LARGEST_LOG_DEVIATION = 10.0
"""Bound of the logarithm of a standard deviation, so that no square overflows."""

LARGEST_CORRELATION_INPUT = 8.0
"""Bound of what tanh maps to a correlation: beyond it, float32 rounds the correlation to one."""


@dataclass(frozen=True, kw_only=True)
class PenMixture:
    r"""Distribution of the next point: a mixture of M bivariate Gaussians, and a Bernoulli variable for the pen.

    It is made of ``6 M + 1`` outputs, :math:`\hat e`, then M each of :math:`\hat\pi`, :math:`\hat\mu` of x and of y,
    :math:`\hat\sigma` of x and of y, and :math:`\hat\rho`:

    .. math::
        e = \frac{1}{1 + \exp \hat e}, \quad \pi = \mathrm{softmax}\,\hat\pi, \quad \mu = \hat\mu, \quad
        \sigma = \exp \hat\sigma, \quad \rho = \tanh \hat\rho

    References:
        Graves (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, eqs. 16-25.
        Departs from it in: :math:`|\hat\sigma| \le 10` and :math:`|\hat\rho| \le 8`, so that float32 suffices.
    """

    end: Tensor
    """e before the logistic function, ``[...]``."""
    log_weights: Tensor
    """Logarithms of the weights, ``[..., M]``."""
    means: Tensor
    """``[..., 2, M]``."""
    log_deviations: Tensor
    """Logarithms of the standard deviations, ``[..., 2, M]``."""
    correlation_inputs: Tensor
    """Correlations before tanh, ``[..., M]``."""

    @classmethod
    def read(cls, outputs: Tensor) -> "PenMixture":
        """Read the outputs of a network, ``[..., 6 M + 1]``, in float32 or float64."""
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        weights, x, y, log_x, log_y, correlations = outputs[..., 1:].chunk(6, -1)
        return cls(
            end=outputs[..., 0],
            log_weights=F.log_softmax(weights, -1),
            means=torch.stack([x, y], -2),
            log_deviations=torch.stack([log_x, log_y], -2).clamp(-LARGEST_LOG_DEVIATION, LARGEST_LOG_DEVIATION),
            correlation_inputs=correlations.clamp(-LARGEST_CORRELATION_INPUT, LARGEST_CORRELATION_INPUT),
        )

    def log_density(self, points: Tensor) -> Tensor:
        r"""Compute the log-density of points ``[..., 3]`` in nats, ``[...]``: of (dx, dy), and whether the pen lifts.

        With :math:`a, b` the offsets from a mean in standard deviations and :math:`\rho = \tanh r`, the exponent of
        eqs. 24 and 25 is :math:`Z / (1 - \rho^2) = a^2 + (b \cosh r - a \sinh r)^2` and
        :math:`\log(1 - \rho^2) = -2 \log\cosh r`, which do not divide by a difference that vanishes.
        """
        a, b = ((points[..., :2, None] - self.means) * torch.exp(-self.log_deviations)).unbind(-2)
        r = self.correlation_inputs
        log_cosh = r.abs() + torch.log1p(torch.exp(-2 * r.abs())) - math.log(2)
        exponents = a.square() + (b * torch.cosh(r) - a * torch.sinh(r)).square()
        gaussians = log_cosh - math.log(2 * math.pi) - self.log_deviations.sum(-2) - exponents / 2
        pen = -F.binary_cross_entropy_with_logits(-self.end, points[..., 2], reduction="none")
        return torch.logsumexp(self.log_weights + gaussians, -1) + pen

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a point per row of ``[B]`` distributions, ``[B, 3]``, on the generator's device."""
        device = generator.device
        chosen = torch.multinomial(self.log_weights.exp().to(device), 1, generator=generator)
        a = torch.randn(len(chosen), 2, generator=generator, device=device, dtype=self.means.dtype)
        uniform = torch.rand(len(chosen), generator=generator, device=device, dtype=self.means.dtype)
        means, log_deviations = (
            values.to(device).gather(-1, chosen[:, None].expand(-1, 2, 1))[..., 0]
            for values in (self.means, self.log_deviations)
        )
        r = self.correlation_inputs.to(device).gather(-1, chosen)[:, 0]
        correlated = torch.stack([a[:, 0], torch.tanh(r) * a[:, 0] + a[:, 1] / torch.cosh(r)], -1)
        pen = (uniform < torch.sigmoid(-self.end.to(device))).to(means.dtype)
        return torch.cat([means + log_deviations.exp() * correlated, pen[:, None]], -1)


class CharacterWindow(nn.Linear):
    r"""A soft window over the characters of a text, which a mixture of K Gaussians places.

    .. math::
        (\hat\alpha, \hat\beta, \hat\kappa) &= W h_t + b, \quad
        \alpha = \exp\hat\alpha, \quad \beta = \exp\hat\beta, \quad \kappa_t = \kappa_{t-1} + \exp\hat\kappa \\
        \phi(t, u) &= \sum_k \alpha_k \exp(-\beta_k (\kappa_k - u)^2), \quad w_t = \sum_{u=1}^{U} \phi(t, u)\, c_u

    Args:
        width: Number of units of the layer that moves the window.
        windows: Number of Gaussians, K.

    References:
        Graves (2013). arXiv:1308.0850, eqs. 46-51.
        Departs from it in: the bias of :math:`\hat\kappa`, which starts at ``-log(25)`` and not near zero, so that the
        window does not run past the text in a few points.
    """

    def __init__(self, width: int, windows: int) -> None:
        super().__init__(width, 3 * windows)

    def reset_parameters(self) -> None:
        """Draw the weights as ``nn.Linear`` does, and lower the biases of the steps."""
        super().reset_parameters()
        with torch.no_grad():
            self.bias[-self.out_features // 3 :] = -math.log(POINTS_PER_CHARACTER)

    def forward(self, h: Tensor, text: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Move the window.

        Args:
            h: ``[B, width]``.
            text: Characters as vectors, ``[B, U, C]``; zeros after the end of a text.
            position: :math:`\kappa` before, ``[B, K]``.

        Returns:
            The window ``[B, C]``, the new :math:`\kappa`, and :math:`\phi`, ``[B, U]``.
        """
        alpha, beta, step = super().forward(h).to(position.dtype).exp().chunk(3, -1)
        position = position + step
        places = torch.arange(1, text.shape[1] + 1, device=h.device, dtype=position.dtype)
        distances = (position[..., None] - places).square()
        phi = (alpha[..., None] * torch.exp(-beta[..., None] * distances)).sum(1)
        return (phi[:, None] @ text)[:, 0], position, phi


@dataclass(frozen=True, kw_only=True)
class PenState:
    """State of a network between two points of B drawings."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    """h and c of every layer, ``[1, B, width]`` each."""
    window: tuple[Tensor, Tensor, Tensor] | None
    """What :class:`CharacterWindow` returned last; None for a network without text."""


class HandwritingNetwork(nn.Module):
    r"""Stacked LSTM layers that predict the next point of a drawing, conditioned on a text or not.

    Every layer reads the last point, the window over the text if there is one, and the layer below; the outputs are a
    linear function of all layers. The first layer reads the window of the point before, since it moves the window.

    Args:
        width: Units of a layer.
        layers: Number of layers.
        mixtures: Number of Gaussians, M.
        norm: Factory of the norms of the layers, from the width.
        places: Places of the norms, as in :class:`normscope.LSTM`.
        characters: Number of kinds of characters, C; 0 for a network without text.
        windows: Number of Gaussians of the window.

    Raises:
        ValueError: If the statistics of the norm are not those of a row, or there are no such places.

    References:
        Graves (2013). arXiv:1308.0850, sections 2, 4 and 5: prediction without text, synthesis with it.
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, section 6.5 and eqs. 20-22.
        Departs from them in: no peepholes, as in Ba et al.; a forget bias that starts at 1.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        mixtures: int,
        norm: Callable[[int], nn.Module],
        places: str | Places = "paper",
        characters: int = 0,
        windows: int = 10,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LSTM(3 + characters + (width if below else 0), width, norm=norm, places=places, forget_bias=FORGET_BIAS)
            for below in range(layers)
        )
        self.window = CharacterWindow(width, windows) if characters else None
        self.width, self.characters, self.windows = width, characters, windows
        self.outputs = nn.Linear(layers * width, 6 * mixtures + 1)

    def forward(
        self, points: PackedSequence, text: Tensor | None = None, state: PenState | None = None
    ) -> tuple[Tensor, PenState]:
        """Predict the point after each of the given ones.

        Args:
            points: ``[N, 3]`` of B drawings, packed; the first of a drawing is zero.
            text: Characters as vectors, ``[B, U, C]``, zeros after the end of a text; None for a network without text.
            state: State after the points before; None at the start.

        Returns:
            Outputs ``[N, 6 M + 1]`` in the order of ``points.data``, for :class:`PenMixture`, and the new state.

        Raises:
            ValueError: If there is a text where none is expected, or none where it is.
        """
        if (text is None) != (self.window is None):
            raise ValueError(f"the network reads {self.characters} kinds of characters, got text {text is not None}")
        given: list[Any] = [None] * len(self.layers) if state is None else list(state.layers)
        if text is None:
            h, end = self.layers[0](points, given[0])
            h, below, window = h.data, points.data, None
        else:
            h, windows, end, window = self._read(points, text, given[0], None if state is None else state.window)
            below = torch.cat([points.data, windows], -1)
        outputs, ends = [h], [end]
        for layer, start in zip(list(self.layers)[1:], given[1:], strict=True):
            packed = _packed_as(points, torch.cat([below, outputs[-1]], -1))
            h, end = layer(packed, start)
            outputs.append(h.data)
            ends.append(end)
        return self.outputs(torch.cat(outputs, -1)), PenState(layers=tuple(ends), window=window)

    def _read(
        self, points: PackedSequence, text: Tensor, start: Any, window: Any
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Run the first layer point by point, with the window: return its h, the windows, and both states."""
        assert self.window is not None
        batch, length, _ = text.shape
        if start is None:
            start = (text.new_zeros(1, batch, self.width),) * 2
        if window is None:
            window = (
                text.new_zeros(batch, self.characters),
                text.new_zeros(batch, self.windows),
                text.new_zeros(batch, length),
            )
        order, back = points.sorted_indices, points.unsorted_indices
        h, c = (_taken(one, order, 1) for one in start)
        text, (seen, position, phi) = _taken(text, order, 0), (_taken(one, order, 0) for one in window)
        outputs, windows = [], []
        for x in points.data.split(points.batch_sizes.tolist()):
            # The drawings that have ended, behind these, keep their states.
            now = len(x)
            inputs = torch.cat([x, seen[:now].to(x.dtype)], -1)
            output, after = self.layers[0](inputs[None], (h[:, :now], c[:, :now]))
            moved = self.window(output[0], text[:now], position[:now])
            h, c = (torch.cat([new, old[:, now:]], 1) for new, old in zip(after, (h, c), strict=True))
            seen, position, phi = (
                torch.cat([new, old[now:]]) for new, old in zip(moved, (seen, position, phi), strict=True)
            )
            outputs.append(output[0])
            windows.append(moved[0].to(x.dtype))
        last = (_taken(seen, back, 0), _taken(position, back, 0), _taken(phi, back, 0))
        return torch.cat(outputs), torch.cat(windows), (_taken(h, back, 1), _taken(c, back, 1)), last

    @torch.no_grad()
    def sample(
        self, lengths: Tensor, generator: torch.Generator, text: Tensor | None = None, ends: Tensor | None = None
    ) -> Tensor:
        """Draw B drawings point by point.

        Args:
            lengths: Number of points of each, ``[B]`` int64.
            generator: Source of randomness.
            text: As in :meth:`forward`.
            ends: Number of characters of each text, ``[B]``: a drawing ends as soon as the window is nowhere stronger
                than behind the last character (Graves, section 5.3), or with its length; None to ignore the window.
                The text has at least one place more.

        Returns:
            ``[B, T, 3]``, NaN after the end of a drawing.
        """
        x = self.outputs.weight.new_zeros(len(lengths), 3)
        state: Any = None
        drawn: list[Tensor] = []
        alive = torch.ones(len(lengths), dtype=torch.bool)
        for step in range(int(lengths.max())):
            outputs, state = self(_packed_points(x), text, state)
            point = PenMixture.read(outputs).draw(generator).float()
            alive = alive & (step < lengths)
            drawn.append(torch.where(alive[:, None], point, torch.nan))
            if ends is not None and state.window is not None:
                phi = state.window[2].cpu()
                behind = phi.gather(1, ends[:, None])
                places = torch.arange(phi.shape[1]) < ends[:, None]
                alive = alive & (phi.masked_fill(~places, 0) >= behind).any(1)
            x = point.to(x)
        return torch.stack(drawn, 1)


class _ClippedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].clamp(-ctx.bound, ctx.bound), None


def clip_gradient(x: Tensor, bound: float) -> Tensor:
    """Return x; its gradient is clipped to ``[-bound, bound]`` entry by entry.

    References:
        Graves (2013). arXiv:1308.0850, section 4.2: 100 for the derivatives of a network's outputs.
    """
    return _ClippedGradient.apply(x, bound)  # pyright: ignore[reportReturnType]


def _packed_as(like: PackedSequence, data: Tensor) -> PackedSequence:
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def _packed_points(x: Tensor) -> PackedSequence:
    """Pack one point per drawing, ``[B, 3]``."""
    return PackedSequence(x, torch.tensor([len(x)]))


def _taken(x: Tensor, order: Tensor | None, axis: int) -> Tensor:
    return x if order is None else x.index_select(axis, order)
