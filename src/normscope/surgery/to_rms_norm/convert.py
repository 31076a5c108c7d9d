"""From LayerNorm to RMSNorm with the same function: center what writes into the residual stream."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from normscope.inspection.find import find_norms
from normscope.inspection.kinds import Norm
from normscope.surgery.guards import check_open, share_hooks
from normscope.surgery.install import put
from normscope.surgery.replacement import Built
from normscope.surgery.swap import Where, choose
from normscope.surgery.to_rms_norm.norms import BiasedRMSNorm, converted
from normscope.surgery.to_rms_norm.proof import Proof, prove
from normscope.surgery.to_rms_norm.same_function import (
    apart,
    check_copies,
    evaluating,
    outputs,
    random_call,
    usually_apart,
)
from normscope.surgery.to_rms_norm.writers import owner_of


@dataclass(frozen=True, kw_only=True)
class CenterReport:
    """A model whose layer norms are RMS norms now, and the proof that its function is the same."""

    model: str
    norms: tuple[str, ...]
    """Layer norms that are an RMSNorm now."""
    biased: tuple[str, ...]
    """Those of them that have a bias other than zero, and keep it: ``BiasedRMSNorm``."""
    centered: tuple[str, ...]
    """Parameters (and buffers) whose mean over the features is zero now."""
    untied: tuple[str, ...]
    """Parameters that are copies now, for the one they shared is centered and this one must not be."""
    unreached: tuple[str, ...]
    """Parameters as wide as the stream that no output depended on, as the model was called: of an expert, a mask token
    or a cross attention that did not run. They are as they were. If one writes into the stream, the function is another
    one once it does."""
    dropouts: int
    """Active dropouts on the stream. Where there are some, the function in training is another one from the start."""
    lost: tuple[str, ...]
    """Hooks of layer norms that are bound to the old module."""
    difference: float
    """Proof: largest difference of any number, over the larger of itself and its output's size, in float64, over all
    inputs tried. The size is how far an output moves with all that the layer norms give."""
    own_difference: float
    """The same in the model's own dtype."""
    outputs: int
    """How many numbers were compared in float64."""
    _undo: Callable[[], None] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Put layer norms, weights and ties back, to the bit.

        Raises:
            RuntimeError: If it was undone before, something else stands in a place now, or a later conversion stands
                on tensors that this one centered, and is to be undone first. Nothing is changed then.
        """
        self._undo()

    def __str__(self) -> str:
        """Return it in words."""
        kept = f", {len(self.biased)} with their bias" if self.biased else ""
        lines = [
            f"{self.model}: {len(self.norms)} LayerNorm -> RMSNorm{kept}; {len(self.centered)} tensors centered",
            f"proof: {self.outputs:,} outputs differ by at most {self.difference:.1e} of their size in float64, "
            f"by {self.own_difference:.1e} in the model's own dtype",
        ]
        if self.untied:
            lines.append(f"untied: {', '.join(self.untied)}")
        if self.unreached:
            more = f" and {len(self.unreached) - 6} more" if len(self.unreached) > 6 else ""
            lines.append(
                f"not reached by these inputs: {', '.join(self.unreached[:6])}{more}. If one writes into the stream, "
                f"the function changes when it is used: call to_rms_norm with inputs that use it"
            )
        if self.dropouts:
            lines.append(
                f"{self.dropouts} dropouts on the stream: the function is the same in evaluation; in training, where "
                f"they bring a mean back, it is another one from the first step"
            )
        if self.lost:
            lines.append(f"lost: {'; '.join(self.lost)}")
        return "\n".join(lines)


_ORDER = WeakTensorKeyDictionary()
"""From a tensor to the conversions that centered it and were not undone, in their order. It keeps no tensor alive."""


def enter(tensors: Sequence[Tensor]) -> object:
    """Note that a conversion centered some tensors.

    Returns:
        What stands for the conversion.
    """
    turn = object()
    for tensor in tensors:
        _ORDER[tensor] = [*(_ORDER.get(tensor) or ()), turn]
    return turn


def check_last(tensors: Sequence[Tensor], turn: object) -> None:
    """See that no other conversion stands on tensors of this one.

    Raises:
        RuntimeError: If a later one centered some of them, too, and was not undone.
    """
    if later := sum(_ORDER[tensor][-1] is not turn for tensor in tensors):
        raise RuntimeError(
            f"a later to_rms_norm stands on {later} of the {len(tensors)} tensors that this one centered: undo it first"
        )


def leave(tensors: Sequence[Tensor], turn: object) -> None:
    """Forget a conversion that was undone."""
    for tensor in tensors:
        _ORDER[tensor] = [one for one in _ORDER[tensor] if one is not turn]


def to_rms_norm(
    model: nn.Module,
    *args: Any,
    where: Where | None = None,
    generator: torch.Generator | None = None,
    **inputs: Any,
) -> CenterReport:
    r"""Make RMS norms of a Pre-LN model's layer norms, in place, and prove that its function is the same.

    The layer norms of a Pre-LN model read a sum, to which embeddings and output projections write. Centered rows stay
    centered under sums, and of centered rows the mean square is the variance:

    .. math:: x = \sum_k W_k h_k, \quad W_k \leftarrow (I - \tfrac{1}{D} 1 1^T) W_k \quad \Rightarrow \quad
        \mathrm{LayerNorm}(x) = g \odot \frac{x}{\sqrt{\tfrac{1}{D} \sum_i x_i^2 + \epsilon}} + b

    What writes is found in the graph of a backward pass, in a copy of the model in float64; whether it was all of it is
    not believed, but measured: on the inputs given and on random ones of their shapes (whole numbers are drawn from
    those that were given, or below ``config.vocab_size``), in evaluation, with layer norms that do not round to float32
    within. All layer norms must run there and read rows without a mean, and no number that the model returns may
    differ. Only then the model is changed. It takes a copy of the model in float64 for that time, and one of what is
    centered until the report is forgotten.

    The equality is one of evaluation. Dropout on the stream brings a mean back: with it, training starts as another
    function, and the report says so. And it is one of the way the model was called: what did not run then, such as an
    expert, a mask token or an embedding of types, is not centered; the report names such parameters. Embeddings that
    are given from outside (``inputs_embeds``) must be centered there.

    A bias of zero goes; another stays, in a :class:`~normscope.surgery.to_rms_norm.norms.BiasedRMSNorm`. An embedding
    that is tied to the output layer is untied, for the output layer must not be centered; the model grows by that. Make
    an optimizer afterwards.

    Args:
        model: Any module; all layer norms that ``where`` leaves must read a stream that can be centered.
        *args: What the model is called with. Without any, the ``dummy_inputs`` of a Hugging Face model.
        where: Which layer norms: a pattern of names, or a function of name and module; None for all.
        generator: Draws the random inputs; None for a fixed one.
        **inputs: What the model is called with.

    Returns:
        What was changed, and the proof.

    Raises:
        TypeError: If there are no inputs and the model has no ``dummy_inputs``.
        ValueError: If the function would be another one: the message says which layer norms read what. If a layer norm
            does not run; the model returns no tensor of a floating dtype; no output depends on the layer norms; a
            ``forward`` stands on an instance; a tensor is on the meta device; a copy in float64 does not run; the model
            itself changes by more than roundings; or as for ``swap``. Nothing is changed then, nor where the model
            itself raises something.

    References:
        Jiang et al. (2023). Pre-RMSNorm and Pre-CRMSNorm transformers. arXiv:2305.14858.
        Departs from it in: the bias is kept with the norm and not folded into what reads it.
    """
    check_open(model)
    check_copies(model)
    found, unreached = find_norms(model)
    chosen, _ = choose(model, found, unreached, "layer_norm", where)
    if strange := [norm.name for norm in chosen if norm.eps_place != "variance" or norm.unbiased]:
        raise ValueError(f"{strange[0]} has eps outside the root or the divisor n - 1, which no RMS norm here has")
    if not args and not inputs:
        if not hasattr(model, "dummy_inputs"):
            raise TypeError("to_rms_norm wants what the model is called with: to_rms_norm(model, batch)")
        dummy: Any = model.dummy_inputs
        device = next((p.device for p in model.parameters()), None)
        inputs = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in dummy.items()}
    calls = [(args, inputs), random_call(model, (args, inputs), generator or torch.Generator().manual_seed(0))]
    with torch.no_grad(), evaluating(model):
        first = [outputs(model, call) for call in calls]
    proof = prove(model, chosen, calls)
    built = [_built(norm) for norm in chosen]
    with ExitStack() as failure:
        undo = _change(model, built, proof)
        failure.callback(undo)
        with torch.no_grad(), evaluating(model):
            second = [outputs(model, call) for call in calls]
        own_difference = _own_difference(model, proof, first, second)
        failure.pop_all()
    return CenterReport(
        model=type(model).__name__,
        norms=tuple(norm.name for norm in chosen),
        biased=tuple(one.norm.name for one in built if isinstance(one.module, BiasedRMSNorm)),
        centered=tuple(proof.writers),
        untied=tuple(proof.untied),
        unreached=tuple(proof.unreached),
        dropouts=proof.dropouts,
        lost=tuple(f"{one.norm.name}: {lost}" for one in built for lost in one.lost),
        difference=proof.difference,
        own_difference=own_difference,
        outputs=sum(one.numel() for given in proof.before for one in given.values()),
        _undo=undo,
    )


def _change(model: nn.Module, built: Sequence[Built], proof: Proof) -> Callable[[], None]:
    """Change the model itself as its copy was changed; return what undoes it."""
    ties: list[tuple[nn.Module, str, nn.Parameter]] = []
    saved: list[tuple[Tensor, Tensor]] = []

    def weights_back() -> None:
        with torch.no_grad():
            for tensor, values in saved:
                tensor.copy_(values)
        for owner, key, tied in ties:
            owner._parameters[key] = tied

    with ExitStack() as failure:
        failure.callback(weights_back)
        for name in proof.untied:
            owner, key = owner_of(model, name)
            tied = owner._parameters[key]
            assert tied is not None
            own = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)
            ties.append((owner, key, tied))
            owner._parameters[key] = own
        for name, values in proof.writers.items():
            owner, key = owner_of(model, name)
            tensor = owner._parameters.get(key, owner._buffers.get(key))
            assert tensor is not None
            saved.append((tensor, tensor.detach().clone()))
            with torch.no_grad():
                tensor.copy_(values)
        norms_back, _ = put(model, built)
        failure.pop_all()
    centered = [tensor for tensor, _ in saved]
    turn = enter(centered)
    undone = False

    def undo() -> None:
        nonlocal undone
        if not undone:
            check_last(centered, turn)
        norms_back()
        undone = True
        leave(centered, turn)
        weights_back()

    return undo


def _own_difference(model: nn.Module, proof: Proof, first: Sequence[Any], second: Sequence[Any]) -> float:
    """Measure what the change did in the model's own dtype.

    Raises:
        ValueError: If it is more than roundings explain.
    """
    compared = list(zip(first, second, proof.before, proof.sizes, strict=True))
    changed = max(apart(one, two, sizes) for one, two, _, sizes in compared)
    # What the dtype does by itself, and a coarser one within, such as autocast.
    rounding = max(usually_apart(wide, one, sizes) for one, _, wide, sizes in compared)
    coarsest = max((torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0)
    if not changed <= (most := 8 * coarsest**0.5 + 100 * rounding):
        raise ValueError(
            f"the proof holds in a copy of {type(model).__name__}, but the model itself does something else: after the "
            f"change its outputs differ by {changed:.1e} of their size, of which roundings explain {most:.1e}. A hook "
            f"or a function that holds another module than its own would do that. Nothing is changed"
        )
    return changed


def _built(norm: Norm) -> Built:
    module = converted(norm, norm.module)
    module.train(norm.module.training)
    kept, lost = share_hooks(norm.module, module)
    return Built(norm=norm, module=module, kept=tuple(kept), lost=tuple(lost), difference=0.0)
