"""Conversion of LayerNorm to RMSNorm without a change of the function, by centering what writes into the stream."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.inspection.find import find_norms
from normscope.inspection.norm_in_model import NormInModel
from normscope.inspection.preserve_state import untouched
from normscope.surgery.guards import check_replaceable, share_hooks
from normscope.surgery.install import install
from normscope.surgery.replacement import Replacement
from normscope.surgery.swap import Where, choose
from normscope.surgery.to_rms_norm.norms import BiasedRMSNorm, converted
from normscope.surgery.to_rms_norm.proof import Proof, prove
from normscope.surgery.to_rms_norm.same_function import (
    Call,
    check_copies,
    largest_difference,
    median_difference,
    replay,
)
from normscope.surgery.to_rms_norm.variations import varied_call
from normscope.surgery.to_rms_norm.writers import CONVERSIONS, owner_of
from normscope.torch_internals import buffers_of, parameters_of


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion changed, and the measurement that the function of the model stayed the same.

    Example:
        >>> import torch
        >>> import normscope
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
        >>> report = normscope.to_rms_norm(model, torch.arange(10))
        >>> report.norms, report.centered
        (('1',), ('0.weight',))
        >>> report.undo()
        >>> type(model[1]).__name__
        'LayerNorm'
    """

    model: str
    norms: tuple[str, ...]
    """Layer norms that were replaced by an RMSNorm."""
    biased: tuple[str, ...]
    """Those of them with a bias other than zero, which is kept: ``BiasedRMSNorm``."""
    centered: tuple[str, ...]
    """Parameters (and buffers) that were centered over the features."""
    untied: tuple[str, ...]
    """Parameters that were untied by a copy, as only one of the tied ones may be centered."""
    unreached: tuple[str, ...]
    """Parameters as wide as the stream on which no output depended for these inputs: of an expert, a mask token or a
    cross attention that did not run. They are unchanged. If one writes into the stream, the function differs from the
    original whenever it is used."""
    unvaried: tuple[str, ...]
    """Arguments that the model accepts only as they were given; the proof holds for these values alone."""
    same_in_training: bool | None
    """Whether the function is the same in training mode, too, whatever is drawn at random there; None if the model did
    not run in it."""
    training: str
    """Why it is not the same, or was not compared."""
    lost: tuple[str, ...]
    """Hooks of layer norms that are bound to the old module."""
    difference: float
    """Largest difference of any number in float64 over all inputs and parameters tried, relative to the larger of the
    number and the size of its output. The size is the change of an output with the outputs of all layer norms."""
    own_difference: float
    """The same in the dtype of the model."""
    outputs: int
    """Number of values compared in float64."""
    _undo: Callable[[], None] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Restore layer norms, weights and ties to the bit.

        Raises:
            RuntimeError: If it was undone before, another module is in one of the places, or a later conversion
                centered the same tensors and must be undone first. Nothing is changed then.
        """
        self._undo()

    def __str__(self) -> str:
        """Return a summary."""
        kept = f", {len(self.biased)} with their bias" if self.biased else ""
        lines = [
            f"{self.model}: {len(self.norms)} LayerNorm -> RMSNorm{kept}; {len(self.centered)} tensors centered",
            f"proof: {self.outputs:,} outputs differ by at most {self.difference:.1e} of their size in float64, "
            f"by {self.own_difference:.1e} in the dtype of the model",
        ]
        if self.untied:
            lines.append(f"untied: {', '.join(self.untied)}")
        if self.unreached:
            more = f" and {len(self.unreached) - 6} more" if len(self.unreached) > 6 else ""
            lines.append(
                f"not reached by these inputs: {', '.join(self.unreached[:6])}{more}. If one writes into the stream, "
                f"the function changes when it is used: call to_rms_norm with inputs that use it"
            )
        if self.unvaried:
            lines.append(
                f"not varied: {', '.join(self.unvaried)}, for the model does not accept random or permuted values: the "
                f"proof holds for those given"
            )
        if self.training:
            lines.append(f"training: {self.training}")
        if self.lost:
            lines.append(f"lost: {'; '.join(self.lost)}")
        return "\n".join(lines)


def register_conversion(tensors: Sequence[Tensor]) -> object:
    """Record on tensors that a conversion centered them.

    Returns:
        A token of the conversion.
    """
    token = object()
    for tensor in tensors:
        vars(tensor)[CONVERSIONS] = (*vars(tensor).get(CONVERSIONS, ()), token)
    return token


def check_last_conversion(tensors: Sequence[Tensor], token: object) -> None:
    """Refuse to undo a conversion before later ones of the same tensors.

    Raises:
        RuntimeError: If a later conversion centered some of them and was not undone.
    """
    if later := sum(vars(tensor)[CONVERSIONS][-1] is not token for tensor in tensors):
        raise RuntimeError(
            f"a later to_rms_norm stands on {later} of the {len(tensors)} tensors that this one centered: undo it first"
        )


def forget_conversion(tensors: Sequence[Tensor], token: object) -> None:
    """Remove the record of a conversion that was undone."""
    for tensor in tensors:
        left = tuple(other for other in vars(tensor).pop(CONVERSIONS) if other is not token)
        vars(tensor).update({CONVERSIONS: left} if left else {})


@check_arguments
def to_rms_norm(
    model: nn.Module,
    *args: Any,
    where: Where | None = None,
    generator: torch.Generator | None = None,
    **inputs: Any,
) -> ConversionReport:
    r"""Convert the layer norms of a Pre-LN model to RMS norms, in place, and verify that its function is the same.

    The layer norms of a Pre-LN model read a sum to which embeddings and output projections are added. A sum of centered
    rows is centered, and the mean square of a centered row is its variance:

    .. math:: x = \sum_k W_k h_k, \quad W_k \leftarrow (I - \tfrac{1}{D} 1 1^T) W_k \quad \Rightarrow \quad
        \mathrm{LayerNorm}(x) = g \odot \frac{x}{\sqrt{\tfrac{1}{D} \sum_i x_i^2 + \epsilon}} + b

    Residual-stream writers are read from the autograd graph of a float64 copy; the result is then verified numerically,
    in evaluation, on the given inputs and on others of their shapes (random ones, whole numbers drawn from the given
    ones or below ``config.vocab_size``; permuted ones where the model does not accept those), with layer norms that do
    not round to float32 internally. This is done for the parameters of the model and for other values of them, so that
    a bias that is still zero hides nothing. All layer norms must run and read rows with a mean of zero, and no value
    that the model returns may differ. Only then is the model changed. This needs memory for a float64 copy of the
    model and for a copy in its dtype, and for one of the centered tensors until the report is deleted.

    The functions are equal in evaluation. A dropout on the stream, or any other operation in training that gives rows a
    mean, makes training start as another function; the report says whether it does, as measured in training mode. They
    are equal for the way in which the model was called: a part that did not run, such as an expert, a mask token or an
    embedding of types, is not centered; the report names its parameters. Embeddings passed as an argument
    (``inputs_embeds``) must be centered by the caller.

    A bias of zero is dropped, any other is kept in a :class:`~normscope.surgery.to_rms_norm.norms.BiasedRMSNorm`. An
    embedding that is tied to the output layer is untied, because the output layer must not be centered; this adds
    parameters. Build an optimizer afterwards.

    Args:
        model: Any module; all layer norms selected by ``where`` must read a stream that can be centered.
        *args: Arguments of the model. Without any, the ``dummy_inputs`` of a Hugging Face model are used.
        where: Which layer norms: a pattern of names, or a function of name and module; None for all.
        generator: Draws the random inputs; None for a fixed seed.
        **inputs: Keyword arguments of the model.

    Returns:
        What was changed, and the measured differences.

    Raises:
        TypeError: If there are no inputs and the model has no ``dummy_inputs``, or ``generator`` is no generator.
        ValueError: If the function would differ, with these or other parameters; the message names the layer norms and
            what they read. Also if a layer norm does not run; if the model returns no floating-point tensor, or none
            that depends on the layer norms; if an instance has its own ``forward``; if a tensor is on the meta device;
            if a float64 copy does not run; if the model itself changes by more than rounding; and as for ``swap``.
            Nothing is changed then.

    References:
        Jiang et al. (2023). Pre-RMSNorm and Pre-CRMSNorm transformers. arXiv:2305.14858.
        Departs from it in: the bias is kept with the norm and not folded into what reads it.

    Example:
        >>> import torch
        >>> import normscope
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        >>> encoder = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(8), enable_nested_tensor=False)
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 8), encoder)
        >>> report = normscope.to_rms_norm(model, torch.arange(10).reshape(2, 5))
        >>> report.norms
        ('1.layers.0.norm1', '1.layers.0.norm2', '1.layers.1.norm1', '1.layers.1.norm2', '1.norm')
        >>> report.difference < 1e-9
        True
    """
    check_replaceable(model)
    check_copies(model)
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
    norms, unreachable = find_norms(model, for_replacement=True)
    chosen, _ = choose(model, norms, unreachable, "layer_norm", where)
    if strange := [norm.name for norm in chosen if norm.traits.eps_place != "variance" or norm.traits.unbiased]:
        raise ValueError(f"{strange[0]} has eps outside the root or the divisor n - 1, which no RMS norm here has")
    if not args and not inputs:
        if not hasattr(model, "dummy_inputs"):
            raise TypeError("to_rms_norm expects the arguments of the model: to_rms_norm(model, batch)")
        dummy: Any = model.dummy_inputs
        device = next((p.device for p in model.parameters()), None)
        inputs = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in dummy.items()}
    # In inference mode the copy would have no graph to find the writers in.
    with torch.inference_mode(False), untouched(model, copies=False):
        calls, first, unvaried = _calls(model, (args, inputs), generator or torch.Generator().manual_seed(0))
        proof = prove(model, chosen, calls)
    built = [_built(norm) for norm in chosen]
    with ExitStack() as failure:
        undo = _change(model, built, proof)
        failure.callback(undo)
        second = replay(model, calls, copies=True)
        own_difference = _own_difference(model, proof, first, second)
        failure.pop_all()
    return ConversionReport(
        model=type(model).__name__,
        norms=tuple(norm.name for norm in chosen),
        biased=tuple(one.old.name for one in built if isinstance(one.module, BiasedRMSNorm)),
        centered=tuple(proof.writers),
        untied=tuple(proof.untied),
        unreached=tuple(proof.unreached),
        unvaried=tuple(unvaried),
        same_in_training=proof.same_in_training,
        training=proof.training,
        lost=tuple(f"{one.old.name}: {lost}" for one in built for lost in one.lost),
        difference=proof.difference,
        own_difference=own_difference,
        outputs=sum(one.numel() for given in proof.before for one in given.values()),
        _undo=undo,
    )


def _calls(
    model: nn.Module, given: Call, generator: torch.Generator
) -> tuple[list[Call], list[dict[str, Tensor]], list[str]]:
    """Run a model on the given call and on a varied one.

    Returns:
        The calls, the outputs, and the names of arguments that could not be varied.
    """
    calls, first = [given], replay(model, [given], copies=True)

    def runs(call: Call) -> bool:
        """Run the model; it must return what the given call returned, but for the values."""
        try:
            (found,) = replay(model, [call], copies=True)
        except Exception:
            # Random values are not valid for every model, and its code may raise anything.
            return False
        kinds = [{name: (one.shape, bool(one.isnan().any())) for name, one in run.items()} for run in (first[0], found)]
        if kinds[0] == kinds[1]:
            first.append(found)
        return kinds[0] == kinds[1]

    varied, unvaried = varied_call(model, given, runs, generator)
    return [*calls, varied], [first[0], first[-1]], unvaried


def _change(model: nn.Module, built: Sequence[Replacement], proof: Proof) -> Callable[[], None]:
    """Change the model itself as its copy was changed; return a function that undoes it."""
    ties: list[tuple[nn.Module, str, nn.Parameter]] = []
    saved: list[tuple[Tensor, Tensor]] = []

    def weights_back() -> None:
        with torch.no_grad():
            for tensor, values in saved:
                tensor.copy_(values)
        for owner, key, tied in ties:
            parameters_of(owner)[key] = tied

    with ExitStack() as failure:
        failure.callback(weights_back)
        for name in proof.untied:
            owner, key = owner_of(model, name)
            tied = parameters_of(owner)[key]
            assert tied is not None
            untied = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)
            ties.append((owner, key, tied))
            parameters_of(owner)[key] = untied
        for name, values in proof.writers.items():
            owner, key = owner_of(model, name)
            tensor = parameters_of(owner).get(key, buffers_of(owner).get(key))
            assert tensor is not None
            saved.append((tensor, tensor.detach().clone()))
            with torch.no_grad():
                tensor.copy_(values)
        norms_back, _ = install(model, built)
        failure.pop_all()
    centered = [tensor for tensor, _ in saved]
    token = register_conversion(centered)
    undone = False

    def undo() -> None:
        nonlocal undone
        if not undone:
            check_last_conversion(centered, token)
        norms_back()
        undone = True
        forget_conversion(centered, token)
        weights_back()

    return undo


def _own_difference(model: nn.Module, proof: Proof, first: Sequence[Any], second: Sequence[Any]) -> float:
    """Measure the change of the outputs in the dtype of the model.

    Raises:
        ValueError: If it is more than rounding explains.
    """
    compared = list(zip(first, second, proof.before, proof.sizes, strict=True))
    changed = max(largest_difference(one, two, sizes) for one, two, _, sizes in compared)
    # The rounding of the dtype itself, and of a coarser one inside, such as under autocast.
    rounding = max(median_difference(wide, one, sizes) for one, _, wide, sizes in compared)
    coarsest = max((torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0)
    if not changed <= (most := 8 * coarsest**0.5 + 100 * rounding):
        raise ValueError(
            f"the proof holds in a copy of {type(model).__name__}, but not in the model itself: after the change "
            f"its outputs differ by {changed:.1e} of their size, of which rounding explains {most:.1e}. A hook or a "
            f"function that refers to another module than its own could cause this. Nothing is changed"
        )
    return changed


def _built(norm: NormInModel) -> Replacement:
    module = converted(norm, norm.module)
    module.train(norm.module.training)
    kept, lost = share_hooks(norm.module, module)
    return Replacement(old=norm, module=module, kept=tuple(kept), lost=tuple(lost))
