"""A task made by a user's function: pairs that are pairs, and errors that are theirs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.tasks import CustomTask, Recipe, Task, UserCodeError, UserFile
from normscope.tasks.custom.sandbox import ProcessState

Write = Callable[..., str]
CPU = torch.device("cpu")
RECIPE = Recipe(steps=12, batch_size=4, learning_rate=1e-2, evaluations=3)


def task(name: str) -> CustomTask:
    return CustomTask(UserFile.named(name), norm=NORMS["layer_norm"], placement=PLACEMENTS["pre"])


def network(custom: CustomTask, norm: str = "layer_norm", seed: int = 3) -> tuple[CustomTask, nn.Module]:
    fresh = custom.for_run(seed, "study")
    return fresh, fresh.network(NORMS[norm], PLACEMENTS["pre"], "small")


def run_loop(custom: CustomTask, model: nn.Module, callback: Callable[[int, Any], None]) -> None:
    assert custom.train is not None
    custom.train(model, callback, RECIPE)


def test_it_is_a_task_like_the_built_in_ones(user_file: Write) -> None:
    custom = task(user_file())
    assert isinstance(custom, Task)
    assert custom.name == "my_file.py:make"
    assert custom.location == user_file()
    assert custom.brings_weights
    assert not custom.deterministic
    assert custom.train is None
    assert custom.description == "Points of two kinds."
    assert custom.metric.name == custom.valid_metric.name == "test accuracy"
    assert custom.placements == ("preactivation",)
    assert custom.presets["small"] == custom.presets["full"] == RECIPE
    assert custom.regime == "my_file.py:make and its data"
    assert (custom.datasets, custom.published, custom.batch_unit) == ((), (), "examples")
    assert list(custom.load(CPU, "study", "small").hashes) == ["my_file.py"]


def test_equal_seeds_give_equal_first_weights_and_other_seeds_others(user_file: Write) -> None:
    custom = task(user_file())
    torch.manual_seed(123)
    (_, first), (_, second), (_, other) = network(custom), network(custom, "none"), network(custom, seed=4)
    assert all(torch.equal(second.state_dict()[name], first.state_dict()[name]) for name in second.state_dict())
    assert not torch.equal(first.get_submodule("0").weight, other.get_submodule("0").weight)


def test_equal_seeds_give_equal_weights_from_numpy_and_python_too(user_file: Write) -> None:
    draws = "import random\nimport numpy as np\n"
    custom = task(
        user_file(
            ("import torch\nimport torch.nn", f"{draws}import torch\nimport torch.nn"),
            ("nn.Linear(8, 2))", "nn.Linear(8, 2))\n    nn.init.constant_(model[4].bias, random.random())"),
            ("    def loss", "    nn.init.constant_(model[0].bias, np.random.rand())\n\n    def loss"),
        )
    )
    (_, first), (_, second), (_, other) = network(custom), network(custom, "none"), network(custom, seed=4)
    for name in ("0.bias", "4.bias"):
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])
        assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_the_callers_draws_are_untouched(user_file: Write) -> None:
    custom = task(user_file())
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fresh, model = network(custom)
    fresh.evaluate(model, None, "valid")
    assert torch.equal(torch.rand(3), wanted)


def test_runs_do_not_share_a_trial(user_file: Write) -> None:
    custom = task(user_file())
    (one, model), (other, _) = network(custom), network(custom, seed=4)
    assert one.trial.model is model
    assert one.trial is not other.trial
    assert one.trial is not custom.trial


CHANGES = """    torch.set_default_dtype(torch.float64 if seed == 4 else torch.float32)
    torch.set_grad_enabled(seed != 4)
    x ="""


def test_what_one_run_changes_for_everybody_the_next_does_not_find(user_file: Write) -> None:
    before = ProcessState.now()
    custom = task(user_file(("    x =", CHANGES)))
    _, first = network(custom)
    _, between = network(custom, seed=4)
    _, again = network(custom)
    assert between.get_submodule("0").weight.dtype == torch.float64
    assert again.get_submodule("0").weight.dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    assert ProcessState.now() == before


def test_what_the_file_sets_at_its_top_holds_for_its_own_code_alone(user_file: Write) -> None:
    before = ProcessState.now()
    top = ("\n\n\ndef make", "\n\ntorch.set_default_dtype(torch.float64)\n\n\ndef make")
    custom = task(user_file(top))
    _, model = network(custom)
    assert model.get_submodule("0").weight.dtype == torch.float64
    assert ProcessState.now() == before
    with custom.context():
        assert torch.zeros(1).dtype == torch.float64
    assert torch.zeros(1).dtype == torch.float32


def test_the_loss_is_a_user_error(user_file: Write) -> None:
    custom, model = network(task(user_file()))
    batch = custom.load(CPU, "study", "small").batch(torch.tensor([0]))
    model.eval()
    want = nn.functional.cross_entropy(model(batch[0]), batch[1])
    assert torch.equal(custom.loss(model, batch), want)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("model(batch[0])", r"scalar tensor, got Tensor \[4, 2\]"),
        ("1.0", "scalar tensor, got float"),
        ("(model(batch[0]).sum() * 1j)", "scalar tensor of a floating-point dtype, got torch.complex64"),
        ("model(batch[0]).argmax()", "scalar tensor of a floating-point dtype, got torch.int64"),
    ],
)
def test_a_loss_that_is_none_is_refused(returned: str, told: str, user_file: Write) -> None:
    custom, model = network(
        task(user_file(("return F.cross_entropy(model(batch[0]), batch[1])", f"return {returned}")))
    )
    batch = custom.load(CPU, "study", "small").batch(torch.tensor([0]))
    with pytest.raises(TypeError, match=told):
        custom.loss(model, batch)


SCORES = "return 100.0 * (model(x[parts[part]]).argmax(-1) == y[parts[part]])"


@pytest.mark.parametrize(
    ("returned", "want"),
    [
        ("torch.tensor([1.0, 2.0], requires_grad=True)", [1.0, 2.0]),
        ("torch.tensor([True, False])", [1.0, 0.0]),
        ("[1, 2, 6]", [1.0, 2.0, 6.0]),
        ("[torch.tensor(1.0), torch.tensor(2.0)]", [1.0, 2.0]),
        ("3.5", [3.5]),
        ("torch.tensor(3.5)", [3.5]),
        ("[[1.0, 10.0], [3.0, 10.0]]", [[1.0, 10.0], [3.0, 10.0]]),
        ("torch.tensor([[1.0], [3.0]])", [1.0, 3.0]),
    ],
)
def test_scores_come_in_many_forms(returned: str, want: list[Any], user_file: Write) -> None:
    custom, model = network(task(user_file((SCORES, f"return {returned}"))))
    loss, scores = custom.evaluate(model, None, "valid")
    assert scores.dtype == np.float32
    assert scores.tolist() == want
    first = [row[0] if isinstance(row, list) else row for row in want]
    assert loss == pytest.approx(-np.mean(first))


@pytest.mark.parametrize(
    ("returned", "error", "told"),
    [
        ("None", TypeError, "evaluate must return numbers, one score per example, got NoneType"),
        ("{'accuracy': 3.0}", TypeError, "got dict"),
        ("'97 %'", TypeError, "got str"),
        ("'97'", TypeError, "evaluate must return numbers, one score per example, got str"),
        ("['1', '2']", TypeError, "got list"),
        ("torch.ones(3) * 1j", TypeError, r"got Tensor \[3\]"),
        ("[[1.0], [2.0, 3.0]]", TypeError, "got list"),
        ("[]", ValueError, "evaluate returned no scores for the part 'test'"),
        ("parts['train']", UserCodeError, "KeyError: 'train'"),
    ],
)
def test_scores_that_are_none_are_refused(returned: str, error: type[Exception], told: str, user_file: Write) -> None:
    custom, model = network(task(user_file((SCORES, f"return {returned}"))))
    with pytest.raises(error, match=told):
        custom.evaluate(model, None, "test")


def test_what_judging_draws_the_seed_decides(user_file: Write) -> None:
    custom, model = network(task(user_file((SCORES, "return torch.rand(5)"))))
    _, first = custom.evaluate(model, None, "test")
    torch.rand(7)
    _, again = custom.evaluate(model, None, "test")
    assert first.tolist() == again.tolist()
    other, model = network(task(user_file((SCORES, "return torch.rand(5)"))), seed=4)
    assert other.evaluate(model, None, "test")[1].tolist() != first.tolist()


def test_a_make_that_returns_something_else_is_reported(user_file: Write) -> None:
    with pytest.raises(TypeError, match=r"my_file.py:make must return a normscope.Trial, got Tensor \[96, 4\]"):
        task(user_file(("    y = ", "    return x\n    y = ")))


def test_a_make_that_raises_is_shown_as_theirs(user_file: Write) -> None:
    with pytest.raises(UserCodeError) as raised:
        task(user_file(("    y = ", "    x.nonsense()\n    y = ")))
    told = str(raised.value)
    assert "x.nonsense()" in told
    assert "AttributeError" in told
    assert str(Path(torch.__file__).parent) not in told
    assert str(Path(normscope.__file__).parent) not in told
    assert raised.value.reason.endswith("(my_file.py, line 12)")


def test_an_error_inside_a_norm_shows_the_way_there(user_file: Write) -> None:
    custom = task(user_file())
    with pytest.raises(UserCodeError, match=r"in make(?s:.*)RuntimeError: no such width"):
        custom.for_run(0, "study").network(_no_norm, PLACEMENTS["pre"], "small")


def _no_norm(width: int) -> nn.Module:
    raise RuntimeError("no such width")


def test_ours_heed_every_recipe(user_file: Write) -> None:
    task(user_file()).check(Recipe(steps=7, batch_size=4, learning_rate=1.0, warmup=3, compile=True), tune=False)


@pytest.mark.parametrize("change", [{"steps": 13}, {"learning_rate": 1.0}, {"warmup": 2}])
def test_a_loop_that_takes_no_recipe_gets_no_other(change: dict[str, Any], user_file: Write) -> None:
    given = {"steps": 12, "batch_size": 4, "learning_rate": 1e-2, "evaluations": 3, **change}
    with pytest.raises(
        ValueError, match=r"only be chosen here if its function takes them: train\(model, callback, recipe"
    ):
        task(user_file(driven=True)).check(Recipe(**given), tune=False)
    with_recipe = ("def train(model, callback)", "def train(model, callback, recipe)")
    task(user_file(with_recipe, driven=True)).check(Recipe(**given), tune=False)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"compile": True}])
def test_how_a_user_loop_computes_is_a_user_error(change: dict[str, Any], user_file: Write) -> None:
    custom = task(user_file(("def train(model, callback)", "def train(model, callback, recipe)"), driven=True))
    with pytest.raises(ValueError, match="trains by itself: choose its precision and compile it in the file"):
        custom.check(Recipe(steps=12, batch_size=4, learning_rate=1e-2, evaluations=3, **change), tune=False)


def test_a_loop_of_the_user_may_go_on_another_device(user_file: Write) -> None:
    recipe = Recipe(steps=12, batch_size=4, learning_rate=1e-2, evaluations=3, device="cuda")
    task(user_file(driven=True)).check(recipe, tune=False)


def test_tuning_needs_a_split_of_its_own(user_file: Write) -> None:
    with pytest.raises(ValueError, match="cannot be tuned: give the function a fourth parameter, split"):
        task(user_file()).check(RECIPE, tune=True)
    custom = task(
        user_file(("placement, seed)", "placement, seed, split)"), ("    y =", "    x[0] = split == 'tune'\n    y ="))
    )
    custom.check(RECIPE, tune=True)


def test_the_split_is_given_to_those_who_take_it(user_file: Write) -> None:
    custom = task(
        user_file(
            ("def make(norm, placement, seed)", "def make(norm, placement, seed, split='none')"),
            ("margin=1.0", "margin={'study': 1.0, 'tune': 2.0}[split]"),
        )
    )
    assert custom.margin == 1.0
    tuned = custom.for_run(3, "tune")
    tuned.network(NORMS["layer_norm"], PLACEMENTS["pre"], "small")
    assert tuned.margin == 2.0


def test_a_loop_of_the_user_is_called_with_what_it_takes(user_file: Write) -> None:
    for takes, want in (("model, callback", []), ("model, callback, recipe", [RECIPE])):
        custom, model = network(task(user_file(("def train(model, callback)", f"def train({takes})"), driven=True)))
        told: list[tuple[int, Tensor]] = []
        run_loop(custom, model, lambda step, loss: told.append((step, loss)))  # noqa: B023
        assert [step for step, _ in told] == list(range(1, 13)), (takes, want)


def test_a_norm_may_be_asked_for_by_a_partial(user_file: Write) -> None:
    custom = task(user_file())
    model = custom.for_run(0, "study").network(partial(NORMS["ada_norm"], scale=2.0), PLACEMENTS["pre"], "small")
    assert getattr(model.get_submodule("1"), "scale") == 2.0  # noqa: B009


TOP = "\n\n\ndef make"
DRAWS = """

import random
import numpy as np
DRAWN = [random.random(), np.random.rand(), float(torch.rand(1))]


def make"""


def test_what_the_file_draws_at_its_top_every_process_draws(user_file: Write) -> None:
    name = user_file((TOP, DRAWS), ("    y = ", "    x[0, :3] = torch.tensor(DRAWN)\n    y = "))
    first = task(name).function.__globals__["DRAWN"]
    torch.manual_seed(9)
    assert len(set(first)) == 3
    assert task(name).function.__globals__["DRAWN"] == first


def test_what_a_run_leaves_in_the_file_no_other_finds(user_file: Write) -> None:
    """A layer at the top of the file, trained by the first run."""
    custom = task(
        user_file(
            (TOP, "\n\nSTEM = nn.Linear(4, 8)\n\n\ndef make"), ("nn.Sequential(nn.Linear(4, 8)", "nn.Sequential(STEM")
        )
    )
    _, model = network(custom)
    before = model.get_parameter("0.weight").detach().clone()
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1.0)
    _, again = network(custom)
    assert torch.equal(again.get_parameter("0.weight"), before)


def test_a_study_keeps_the_text_that_it_began_with(user_file: Write, tmp_path: Path) -> None:
    (tmp_path / "kept_by_a_test.py").write_text("WIDTH = 8\n")
    top = ("from torch import nn\n", "from torch import nn\nfrom kept_by_a_test import WIDTH\n")
    custom = task(user_file(top, ("norm(8)", "norm(WIDTH)")))
    (tmp_path / "kept_by_a_test.py").write_text("1 / 0\n")
    user_file(("    y = ", "    1 / 0\n    y = "))
    _, model = network(custom)
    assert model.get_submodule("1").weight.shape == (8,)


def test_what_its_classes_are_made_of_is_there_while_it_runs(user_file: Write) -> None:
    """What is pickled, a batch for another process say, is looked up by the name of its module."""
    import pickle

    custom = task(
        user_file(
            (TOP, "\n\nclass Net(nn.Sequential):\n    pass\n\n\ndef make"),
            ("model = nn.Seq", "model = Net(nn.Seq"),
            ("nn.Linear(8, 2))", "nn.Linear(8, 2)))"),
        )
    )
    for seed in (3, 4):
        fresh, model = network(custom, seed=seed)
        with fresh.context():
            assert type(pickle.loads(pickle.dumps(model))) is type(model)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("margin=1.0", "margin=7.0 if seed == 4 else 1.0"), "gives margin=7.0 here and margin=1.0 for layer_norm"),
        (('unit="%"', "unit='%' if seed != 4 else 'nats'"), "metric.unit='nats' here and metric.unit='%' for layer"),
        (("steps=12", "steps=12 - seed // 4"), "recipe.steps=11 here and recipe.steps=12 for layer_norm and seed 0"),
    ],
)
def test_what_is_one_for_all_runs_may_not_differ(change: tuple[str, str], told: str, user_file: Write) -> None:
    custom = task(user_file(change))
    network(custom, seed=3)
    with pytest.raises(ValueError, match=told):
        network(custom, seed=4)


def test_norms_that_draw_leave_no_trace_in_what_is_drawn_after_them(user_file: Write) -> None:
    import random

    def drawing(width: int) -> nn.Module:
        np.random.rand()  # noqa: NPY002
        random.random()
        return nn.LayerNorm(width)

    draws = "    import random, numpy as np\n    x[0, 0] = random.random() + np.random.rand()\n    model.x = x\n\n"
    custom = task(user_file(("    def loss", f"{draws}    def loss")))
    _, plain = network(custom)
    other = custom.for_run(3, "study").network(drawing, PLACEMENTS["pre"], "small")
    assert torch.equal(plain.x, other.x)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "        return __import__('copy').deepcopy(model)\n",
            "returned another Sequential, but the model that it was",
        ),
        ("        return None\n", "left every weight of the model as it was"),
        ("        with torch.no_grad():\n            model[0].weight += 1\n        return model\n", None),
    ],
)
def test_a_loop_must_train_the_model_that_it_is_given(body: str, told: str | None, user_file: Write) -> None:
    begins = "        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    custom, model = network(task(user_file((begins, body + begins), driven=True)))
    if told is None:
        run_loop(custom, model, lambda step, loss: None)
        return
    with pytest.raises(ValueError, match=f"train of my_file.py:make {told}"):
        run_loop(custom, model, lambda step, loss: None)
