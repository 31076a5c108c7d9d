"""Checks of a custom task before the first run."""

from collections.abc import Callable

import pytest
import torch

from normscope.studies.plan import plan
from normscope.studies.preflight import ArmMisfit, preflight
from normscope.studies.rehearsal import CALLBACKS, PASSES, first_values, rehearse
from normscope.studies.spec import make_study
from normscope.tasks import CustomTask

Write = Callable[..., str]
LOSS = "return F.cross_entropy(model(batch[0]), batch[1])"
MODEL = "nn.Sequential(nn.Linear(4, 8), norm(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))"
BATCHES = "batches=list(zip(x[:32].split(4), y[:32].split(4)))"
LOOP_ENDS = "            callback(step, value)\n"
LOOP_BEGINS = "        for step in range(1, 13):\n"
SEEDED = ("    x = torch.randn(", "    torch.manual_seed(42)\n    x = torch.randn(")
CPU = torch.device("cpu")


def tried(name: str, *norms: str, seeds: int = 2) -> None:
    preflight(make_study(name, norms=norms or ["layer_norm"], seeds=range(seeds)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            (LOSS, f"{LOSS}.detach()"),
            "the loss has no gradient: it was detached, or all weights of the model are frozen",
        ),
        (("    def loss", "    model.requires_grad_(False)\n\n    def loss"), "the loss has no gradient"),
        (("nn.Linear(8, 2))", "nn.LazyLinear(2))"), r"uninitialized weights \(4.weight, 4.bias\): call it once"),
        ((LOSS, f"{LOSS} * 1j"), "scalar tensor of a floating-point dtype"),
        (
            (BATCHES, "batches=lambda step, left=iter(range(20)): (x[: 1 + next(left)], y[:1])"),
            "returned different batches",
        ),
        ((BATCHES, "batches=lambda step, left=iter(()): next(left)"), "StopIteration"),
        (
            (
                LOSS,
                "model[0].weight.data = model[0].weight.data\n        z = model(batch[0]).exp()\n        w = z.exp()\n"
                "        z += 1\n        return w.sum()",
            ),
            "modified by an inplace operation",
        ),
    ],
)
def test_what_would_fail_in_every_run_is_an_error_before_the_first(
    change: tuple[str, str], told: str, user_file: Write
) -> None:
    with pytest.raises(
        ArmMisfit, match=f"arm layer_norm cannot be trained on my_file.py:make: (?s:.*){told}"
    ) as raised:
        tried(user_file(change))
    assert "normscope/" not in str(raised.value)


def test_a_function_of_the_step_passes(user_file: Write) -> None:
    tried(
        user_file((BATCHES, "batches=lambda step: {'x': torch.randn(4), 0: x[:4], 1: y[:4], 'n': [float('nan'), 'a']}"))
    )


@pytest.mark.parametrize(
    "model",
    [
        "nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)); norm(8)",
        "nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)); model.norm = norm(8); "
        "model.forward = lambda x, model=model: model[2](model[1](model[0](x)))",
    ],
)
@pytest.mark.parametrize("driven", [False, True])
def test_a_norm_that_is_built_and_not_called_is_an_error(model: str, driven: bool, user_file: Write) -> None:
    name = user_file((MODEL, model), driven=driven)
    with pytest.raises(
        ArmMisfit, match=r"the LayerNorm that norm\(...\) returned is never called, neither in training nor in"
    ):
        tried(name)
    tried(name, "none")


@pytest.mark.parametrize(
    "model",
    [
        # Copies of what norm() made are what is called, as in torch's own encoders.
        f"__import__('copy').deepcopy({MODEL})",
        # A norm that stands in no list of modules.
        "nn.Sequential(nn.Linear(4, 8), *[nn.Identity()] * 3, nn.Linear(8, 2)); kept = [norm(8)]; "
        "model[2].forward = lambda x: kept[0](x)",
        f"torch.compile({MODEL}, backend='eager'); model.__getitem__ = None",
    ],
)
def test_a_norm_that_is_called_in_another_way_is_seen(model: str, user_file: Write) -> None:
    tried(user_file((MODEL, model)), "layer_norm", "rms_norm")


def test_a_seed_without_effect_is_an_error(user_file: Write) -> None:
    told = (
        "the seed changes nothing in my_file.py:make: seeds 0 and 1 give equal initial weights and equal first losses"
    )
    plain = ("nn.Dropout(0.3), ", "")
    one_batch = (BATCHES, "batches=lambda step: (x[:32], y[:32])")
    with pytest.raises(ArmMisfit, match=told):
        tried(user_file(SEEDED, one_batch, plain))
    with pytest.raises(ArmMisfit, match=told):
        tried(user_file(SEEDED, plain, driven=True))
    with pytest.raises(ArmMisfit, match=told):
        tried(user_file(SEEDED, (LOOP_BEGINS, "        torch.manual_seed(42)\n" + LOOP_BEGINS), driven=True))
    tried(user_file(SEEDED, one_batch, plain), seeds=1)


@pytest.mark.slow
def test_equal_first_weights_alone_are_no_fault(user_file: Write) -> None:
    """Weights that were trained before, and what the seed decides then: order, dropout, draws of a loop."""
    for name in (
        user_file(SEEDED, ("nn.Dropout(0.3), ", "")),
        user_file(SEEDED, (BATCHES, "batches=lambda step: (x[:32], y[:32])")),
        user_file(SEEDED, driven=True),
    ):
        with pytest.warns(UserWarning, match="the initial weights are the same in all seeds"):
            tried(name)


def test_arms_must_have_equal_batches(user_file: Write) -> None:
    fewer = (BATCHES, "batches=list(zip(x[:32].split(4), y[:32].split(4)))[: 8 if hasattr(model[1], 'bias') else 5]")
    with pytest.raises(ArmMisfit, match=r"my_file.py:make has 8 batches for arm layer_norm and 5 for arm rms_norm"):
        tried(user_file(fewer), "layer_norm", "rms_norm")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((LOOP_ENDS, "            callback(step, torch.ones(2))\n"), r"got callback\(1, a tensor \[2\]"),
        ((LOOP_BEGINS, "        return\n" + LOOP_BEGINS), "left every weight of the model as it was"),
        ((LOOP_BEGINS, LOOP_BEGINS + "            optimizer.nonsense()\n"), "optimizer.nonsense"),
        (
            ("        optimizer =", "        model = __import__('copy').deepcopy(model)\n        optimizer ="),
            "calls a Linear",
        ),
    ],
)
def test_a_training_function_is_begun(change: tuple[str, str], told: str, user_file: Write) -> None:
    with pytest.raises(ArmMisfit, match=told):
        tried(user_file(change, driven=True))


@pytest.mark.parametrize(
    "ends",
    [
        LOOP_ENDS,
        "            pass\n",
        LOOP_ENDS.replace("callback", "try:\n                callback")
        + "            except BaseException:\n                pass\n",
    ],
)
def test_it_is_left_after_a_few_steps(ends: str, user_file: Write) -> None:
    name = user_file((LOOP_ENDS, ends), driven=True)
    spec = plan(make_study(name, norms=["layer_norm"], seeds=[0]))[0]
    task = spec.begin()
    assert isinstance(task, CustomTask)
    with task.context():
        values = first_values(spec, task, CPU)
    calls = [value for value in values if isinstance(value, tuple)]
    assert [step for step, _ in calls] == list(range(1, CALLBACKS + 1)) * (ends.strip() != "pass")
    # Of every pass five modules and the whole.
    assert len(values) <= (PASSES + 1) * 6 < 12 * 6
    with task.context():
        result = rehearse(spec, spec.begin(), CPU)  # pyright: ignore[reportArgumentType]
    assert len(result.weights) == 6
    assert result.batches == 1
    assert result.broken == {}


def test_a_loop_that_compiles_its_model_passes(user_file: Write) -> None:
    compiles = "        ready = torch.compile(model, backend='eager')\n        optimizer ="
    tried(user_file(("        optimizer =", compiles), ("value = loss(model,", "value = loss(ready,"), driven=True))
