"""PyTorch's own cases for its recurrent modules, on ours: without norms the same numbers, with norms the same rules."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import (
    ModuleErrorEnum,
    ModuleInfo,
    module_db,
    module_inputs_torch_nn_RNN_GRU,
)
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from normscope.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

KINDS = {RNN: nn.RNN, LSTM: nn.LSTM, GRU: nn.GRU, RNNCell: nn.RNNCell, LSTMCell: nn.LSTMCell, GRUCell: nn.GRUCell}
KNOWN: dict[type[nn.Module], ModuleInfo] = {info.module_cls: info for info in module_db}
ALL = pytest.mark.parametrize("ours", KINDS, ids=lambda kind: kind.__name__)
NORMS = pytest.mark.parametrize("norm", [None, "layer_norm"])
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def cases(ours: type) -> list[Any]:
    """Return the cases that torch tests its module with, in float64."""
    info: Any = KNOWN[KINDS[ours]]
    given = {"device": "cpu", "dtype": torch.float64, "requires_grad": True, "training": True}
    found = list(info.module_inputs_func(info, **given))
    if ours in (RNN, GRU):
        packed = module_inputs_torch_nn_RNN_GRU(info, with_packed_sequence=True, is_rnn=ours is RNN, **given)
        found += [case for case in packed if isinstance(case.forward_input.args[0], PackedSequence)]
    return found


def built(ours: type, case: Any, norm: str | None) -> Any:
    torch.manual_seed(0)
    given = case.constructor_input
    return ours(*given.args, **{**given.kwargs, "dtype": torch.float64, "norm": norm})


def leaves(values: Any) -> list[Tensor]:
    """Return the tensors in what a module takes or returns; of packed sequences the data."""
    found = [one.data if isinstance(one, PackedSequence) else one for one in tree_leaves(values)]
    return [one for one in found if isinstance(one, Tensor) and one.is_floating_point()]


def gradients(module: nn.Module, inputs: Any) -> list[Tensor | None]:
    outputs = leaves(module(*inputs))
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(one.shape, dtype=one.dtype, generator=generator) for one in outputs]
    wanted = [*(one for one in leaves(inputs) if one.requires_grad), *module.parameters()]
    return [*outputs, *torch.autograd.grad(outputs, wanted, upstream, allow_unused=True)]


@ALL
def test_without_norms_the_numbers_and_gradients_are_torchs(ours: type) -> None:
    assert len(cases(ours)) >= 2
    for case in cases(ours):
        layer, theirs = (
            built(ours, case, None),
            KINDS[ours](*case.constructor_input.args, **case.constructor_input.kwargs),
        )
        theirs.double().load_state_dict(layer.state_dict())
        inputs = case.forward_input.args
        torch.testing.assert_close(gradients(layer, inputs), gradients(theirs, inputs), **EXACT)


@ALL
@NORMS
def test_torchs_reference_of_a_single_sequence(ours: type, norm: str | None) -> None:
    seen = 0
    for case in cases(ours):
        if case.reference_fn is None or isinstance(case.forward_input.args[0], PackedSequence):
            continue
        layer, inputs = built(ours, case, norm), case.forward_input.args
        want = case.reference_fn(layer, *inputs)
        torch.testing.assert_close(leaves(layer(*inputs)), leaves(want), **EXACT)
        seen += 1
    assert seen


@ALL
@NORMS
def test_gradients_of_orders_one_and_two(ours: type, norm: str | None) -> None:
    padded = [case for case in cases(ours) if not isinstance(case.forward_input.args[0], PackedSequence)]
    for case in padded[:: 1 if "Cell" in ours.__name__ else 7]:
        layer = built(ours, case, norm)
        inputs, form = tree_flatten(case.forward_input.args)

        def call(*values: Tensor, layer: Any = layer, form: Any = form) -> tuple[Tensor, ...]:
            return tuple(leaves(layer(*tree_unflatten(values, form))))

        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def errors(ours: type) -> Iterator[Any]:
    info: Any = KNOWN[KINDS[ours]]
    given = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": True}
    yield from info.module_error_inputs_func(info, **given)


@ALL
@NORMS
def test_what_torch_refuses_is_refused_with_the_same_error(ours: type, norm: str | None) -> None:
    for error in errors(ours):
        case = error.module_error_input
        # Where the sentence comes from torch, it is torch's.
        words = error.error_regex if norm is None or "Cell" not in ours.__name__ else " takes "
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=words):
                ours(*case.constructor_input.args, **case.constructor_input.kwargs, norm=norm)
            continue
        layer = ours(*case.constructor_input.args, **case.constructor_input.kwargs, norm=norm)
        with pytest.raises(error.error_type, match=words):
            layer(*case.forward_input.args)


@ALL
@NORMS
def test_devices_dtypes_copies_and_texts(ours: type, norm: str | None) -> None:
    for case in cases(ours)[::3]:
        layer, inputs = built(ours, case, norm), case.forward_input.args
        want = leaves(layer(*inputs))
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(leaves(twin(*inputs)), want, rtol=0, atol=0)
        fresh = ours(
            *case.constructor_input.args, **case.constructor_input.kwargs, norm=norm, device="meta", dtype=torch.float64
        )
        assert all(one.device.type == "meta" and one.dtype == torch.float64 for one in fresh.parameters())
        fresh = fresh.to_empty(device="cpu")
        fresh.load_state_dict(layer.state_dict())
        torch.testing.assert_close(leaves(fresh(*inputs)), want, rtol=0, atol=0)
        theirs = KINDS[ours](*case.constructor_input.args, **case.constructor_input.kwargs)
        assert theirs.extra_repr() in repr(layer)
        assert leaves(layer.eval()(*inputs))[0].shape == want[0].shape
        narrow = layer.float()
        assert all(one.dtype == torch.float32 for one in narrow.parameters())


@ALL
@NORMS
def test_memory_that_is_not_contiguous(ours: type, norm: str | None) -> None:
    for case in cases(ours)[::2]:
        layer, inputs = built(ours, case, norm), case.forward_input.args
        if isinstance(inputs[0], PackedSequence):
            continue

        def spread(one: Tensor) -> Tensor:
            wide = one.detach().repeat_interleave(2, -1)[..., ::2]
            return wide.requires_grad_()

        apart = tuple(tree_map(spread, inputs))
        torch.testing.assert_close(gradients(layer, apart), gradients(layer, inputs), **EXACT)


@pytest.mark.parametrize("ours", [RNN, LSTM, GRU], ids=lambda kind: kind.__name__)
@NORMS
@pytest.mark.parametrize(
    ("x", "shapes", "error"),
    [
        ((4, 3, 2), None, RuntimeError),
        ((4, 3, 3), (1, 4, 5), RuntimeError),
        ((4, 3, 3), (2, 3, 5), RuntimeError),
        ((4, 3, 3), (1, 3, 4), RuntimeError),
        ((4, 3, 3), (1, 5), RuntimeError),
        ((4, 3), (1, 3, 5), RuntimeError),
        ((2, 4, 3, 3), None, ValueError),
        ((3,), None, ValueError),
    ],
)
def test_other_shapes_are_refused_as_by_torch(
    ours: type, norm: str | None, x: tuple[int, ...], shapes: tuple[int, ...] | None, error: type[Exception]
) -> None:
    state = None if shapes is None else torch.zeros(shapes)
    hx = (state, state) if ours is LSTM and state is not None else state
    for layer in (ours(3, 5, norm=norm), KINDS[ours](3, 5)):
        with pytest.raises(error):
            layer(torch.zeros(x), hx)


@pytest.mark.parametrize("ours", [RNN, LSTM, GRU], ids=lambda kind: kind.__name__)
@NORMS
def test_dropout_between_layers_is_that_of_training_and_can_be_changed(ours: type, norm: str | None) -> None:
    layer, plain = ours(3, 8, 2, dropout=0.5, norm=norm), ours(3, 8, 2, norm=norm)
    plain.load_state_dict(layer.state_dict())
    x, torchs = torch.randn(6, 4, 3), KINDS[ours](3, 8, 2, dropout=1.0)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    torch.manual_seed(3)
    first = layer(x)[0]
    torch.manual_seed(3)
    assert torch.equal(layer(x)[0], first)
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])
    layer.train()
    layer.dropout = 0.0
    assert torch.equal(layer(x)[0], plain(x)[0])
    # Everything is dropped: the second layer sees zeros.
    layer.dropout = 1.0
    for one in (layer, torchs):
        output = one(x)[0]
        assert output.isfinite().all()
        torch.testing.assert_close(output, output[:, :1].expand_as(output))


@pytest.mark.parametrize("ours", [RNN, LSTM, GRU], ids=lambda kind: kind.__name__)
@NORMS
def test_an_initial_state_of_zeros_is_no_initial_state(ours: type, norm: str | None) -> None:
    layer, x, zeros = ours(3, 5, 2, norm=norm), torch.randn(6, 4, 3), torch.zeros(2, 4, 5)
    want, got = layer(x), layer(x, (zeros, zeros) if ours is LSTM else zeros)
    torch.testing.assert_close(leaves(got), leaves(want), rtol=0, atol=0)
