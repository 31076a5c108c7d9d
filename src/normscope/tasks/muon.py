"""Muon for the hidden matrices of a network, and AdamW for the rest of its parameters."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normscope.models.layers import Embedding

_TABLES = (nn.Embedding, nn.EmbeddingBag, Embedding)


def hidden_matrices(model: nn.Module, weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the matrices of a network between its input and its output.

    Left out are tables of embeddings; in a network without one the first of the weights, which is the input layer; and
    the last, which is the output layer, unless a table is used in its place, under a second name.

    Args:
        model: The network, whose layers are registered in their order.
        weights: Its matrices and kernels in their order.

    Raises:
        ValueError: If the model has none.
    """
    named = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, _TABLES)}
    is_tied = any(sum(id(one) == table for one in named) > 1 for table in tables)
    layers = [weight for weight in weights if id(weight) not in tables]
    inner = layers[0 if tables else 1 : None if is_tied else -1]
    hidden = [weight for weight in inner if weight.ndim == 2]
    if not hidden:
        raise ValueError(
            f"optimizer muon is for the matrices of hidden layers, and {type(model).__name__} has none: of "
            f"{len(layers)} weights it has {len(layers) - len(inner)} at its input and output, and the rest are kernels"
        )
    return hidden


class MuonWithAdamW(torch.optim.Optimizer):
    r"""Muon on the first group of parameters and AdamW on the others, as one optimizer with one state.

    .. math::
        B \leftarrow \mu B + (1 - \mu) G, \quad
        W \leftarrow (1 - \gamma \lambda) W - 0.2\, \gamma \sqrt{\max(m, n)} \; \mathrm{NS}(\mu B + (1 - \mu) G)

    for a matrix ``[m, n]`` with gradient G: torch's Muon with its momentum of 0.95 and its five Newton-Schulz steps
    towards the nearest orthogonal matrix, which are computed in bfloat16. The factor gives an update the root mean
    square of AdamW's, 0.2, so that rate and decay of AdamW can be used for both; torch calls it ``match_rms_adamw``.

    Args:
        groups: Groups with ``params`` and ``weight_decay``: first the matrices, then what AdamW updates.
        lr: Learning rate of both.
        betas: Decay rates of AdamW's moments.

    References:
        Jordan et al. (2024). Muon: an optimizer for hidden layers in neural networks. kellerjordan.github.io/posts/muon
        Liu et al. (2025). Muon is scalable for LLM training. arXiv:2502.16982, section 2.2, for the factor.
        Departs from them in: packed projections (query, key and value) are one matrix; kernels of convolutions are
        updated by AdamW.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        first, *rest = (dict(group) for group in groups)
        self._muon = torch.optim.Muon([first], lr=lr, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(rest, lr=lr, betas=betas, fused=True)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # pyright: ignore
        """Make an update of all parameters.

        Args:
            closure: Computes the loss again, with gradients.

        Returns:
            What ``closure`` returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # A state that was loaded is a new object.
        for part, groups in ((self._muon, self.param_groups[:1]), (self._adamw, self.param_groups[1:])):
            part.param_groups, part.state = groups, self.state
            part.step()
        return loss
