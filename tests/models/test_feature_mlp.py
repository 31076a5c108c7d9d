"""The perceptron of the parser against its equations in float64, with weights away from their beginning."""

import pytest
import torch
from torch import Tensor, nn

from normscope.models.classifiers import EMBEDDING_STD, FeatureMLP
from normscope.training.randomness import initialize

SIZES = {"words": 40, "tags": 9, "labels": 7, "transitions": 5, "width": 4, "hidden": 6}


def sample(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    highs = (40,) * 18 + (9,) * 18 + (7,) * 12
    return torch.stack([torch.randint(high, (rows,), generator=generator) for high in highs], dim=1)


def spread(model: FeatureMLP) -> FeatureMLP:
    """Draw every parameter anew, so that no gain is one and no bias zero."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def standardized(x: Tensor) -> Tensor:
    """Normalize rows as Ba et al. write it, eq. (4), with torch's eps."""
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def test_norm_stands_on_the_summed_inputs_with_its_gain_and_bias_inside_the_relu() -> None:
    model = spread(FeatureMLP(**SIZES, norm=nn.LayerNorm)).double()
    features = sample(5)
    embedded = [model.words.weight[features[:, i]] for i in range(18)]
    embedded += [model.tags.weight[features[:, i]] for i in range(18, 36)]
    embedded += [model.labels.weight[features[:, i]] for i in range(36, 48)]
    h = torch.cat(embedded, dim=1)
    assert h.shape == (5, 48 * 4)
    p = model.state_dict()
    for layer in "01":
        a = h @ p[f"hidden.{layer}.weight"].T + p[f"hidden.{layer}.bias"]
        h = (p[f"norms.{layer}.weight"] * standardized(a) + p[f"norms.{layer}.bias"]).clamp(min=0)
    expected = h @ p["logits.weight"].T + p["logits.bias"]
    # Sums of up to 192 float64 products of size 1 to 100.
    torch.testing.assert_close(model(features), expected, rtol=1e-11, atol=1e-11)


def test_three_layers_of_weights_and_a_norm_on_both_hidden_ones() -> None:
    widths = []
    model = FeatureMLP(**SIZES, norm=lambda width: widths.append(width) or nn.Identity())
    assert widths == [6, 6]
    shapes = [list(module.weight.shape) for module in model.modules() if isinstance(module, nn.Linear)]
    assert shapes == [[6, 192], [6, 6], [5, 6]]


def test_relu_is_left_out_after_a_norm_that_brings_its_own() -> None:
    class Softplus(nn.Softplus):
        brings_activation = True

    model = spread(FeatureMLP(**SIZES, norm=lambda width: Softplus()))
    peer = nn.Sequential(model.hidden[0], nn.Softplus(), model.hidden[1], nn.Softplus(), model.logits)
    features = sample(5)
    words, tags, labels = features[:, :18], features[:, 18:36], features[:, 36:]
    x = torch.cat([model.words(words), model.tags(tags), model.labels(labels)], dim=1).flatten(1)
    assert torch.equal(model(features), peer(x))


def test_dropout_zeroes_hidden_units_in_training_alone() -> None:
    model = spread(FeatureMLP(**SIZES, norm=nn.LayerNorm, dropout=0.5))
    seen = []
    model.logits.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = sample(1000)
    torch.manual_seed(5)
    model(features)
    model.eval()
    model(features)
    alive = seen[1] > 0
    # A hidden unit is zeroed with probability 1/2, and more of them are zero for what came from the layer below.
    assert 0.4 < (seen[0][alive] == 0).float().mean() < 0.8
    assert (seen[1] == 0).float().mean() < 0.7
    assert torch.equal(model(features), model(features))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_any_integer_dtype_gives_the_same(dtype: torch.dtype) -> None:
    model = FeatureMLP(**SIZES, norm=nn.LayerNorm)
    assert torch.equal(model(sample(4).to(dtype)), model(sample(4)))


def test_every_module_begins_anew_as_a_run_does_it() -> None:
    model = spread(FeatureMLP(**SIZES | {"words": 5000}, norm=nn.LayerNorm))
    initialize(model, seed=1)
    # The standard deviation of 20,000 normal draws is known to 0.5 %.
    assert model.words.weight.std().item() == pytest.approx(EMBEDDING_STD, rel=0.03)


@pytest.mark.parametrize("shape", [(4, 47), (48,), (2, 3, 48)])
def test_another_number_of_features_is_refused(shape: tuple[int, ...]) -> None:
    model = FeatureMLP(**SIZES, norm=nn.LayerNorm)
    with pytest.raises(ValueError, match=r"features must be \[B, 48\], got \["):
        model(torch.zeros(shape, dtype=torch.int64))
