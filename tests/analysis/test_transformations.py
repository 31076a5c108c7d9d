"""Effect of each transformation on numbers."""

import pytest
import torch

from normscope.analysis.invariances import TRANSFORMATIONS, data_changes, weight_changes


def made():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 6, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    return (
        x,
        weight,
        {
            **weight_changes(weight, 3.0, generator),
            **data_changes(x, 3.0, generator),
        },
    )


def test_there_is_one_for_every_name_in_order() -> None:
    assert list(made()[2]) == list(TRANSFORMATIONS)


def test_factors() -> None:
    x, weight, changes = made()
    assert torch.equal(changes["weight_matrix_rescaling"](weight), 3 * weight)
    assert torch.equal(changes["data_rescaling"](x), 3 * x)
    for name, given, axis in (
        ("weight_vector_rescaling", weight, 0),
        ("case_rescaling", x, 0),
        ("feature_rescaling", x, -1),
    ):
        ratio = (changes[name](given) / given).movedim(axis, 0).flatten(1)
        # One slice has the factor, the others stay.
        assert sorted(ratio.mean(1).tolist()) == pytest.approx([1.0] * (len(ratio) - 1) + [3.0])
        assert ratio.std(1).max() < 1e-12


def test_shifts() -> None:
    x, weight, changes = made()
    by_unit = changes["weight_matrix_recentering"](weight) - weight
    torch.testing.assert_close(by_unit, by_unit[:1].expand_as(by_unit))
    assert by_unit[0].std() > 0.1
    by_feature = changes["data_recentering"](x) - x
    torch.testing.assert_close(by_feature, by_feature[:1, :1].expand_as(by_feature))
    assert by_feature[0, 0].std() > 0.1
    uniform = changes["uniform_recentering"](x) - x
    assert uniform.min() == pytest.approx(float(uniform.max()))
    assert uniform.min() > 1
    one_case = changes["case_recentering"](x) - x
    assert one_case[0].min() > 1
    assert not one_case[1:].any()


def test_shifts_grow_with_the_data() -> None:
    x, _, changes = made()
    larger = data_changes(10 * x, 3.0, torch.Generator().manual_seed(0))
    assert float((larger["uniform_recentering"](x) - x).mean()) == pytest.approx(
        10 * float((changes["uniform_recentering"](x) - x).mean())
    )
