"""Wrong types at every public function: the error is ours, raised at the boundary, and names the argument."""

import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normscope
from normscope import analysis, data, diagnostics, inspection, report, results, studies, surgery, training

PACKAGE = Path(normscope.__file__).parent

MODEL = [None, nn.LayerNorm, "model", 3, [nn.LayerNorm(4)]]
FUNCTION = [None, "mse", 3]
NUMBER = ["0.1", None, [0.1], True]
WHOLE = ["3", None, 2.5, True]
TEXTS = [
    None,
    3,
    "layer_norm",
    nn.LayerNorm,
    len,
    [nn.LayerNorm],
    [None],
    [3],
    ["layer_norm", nn.LayerNorm(4)],
]
TEXT = [None, 3, len, b"digits", ["digits"], ("digits",)]
PATH = [None, 3, len, ["a"]]
TENSOR = [None, [1.0], 3, "x", nn.LayerNorm]
GENERATOR = [0, "seed", (n for n in range(3))]
OPTIMIZER = [torch.optim.SGD, "sgd", 3]


def _mse(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))


def _measured() -> dict[str, Any]:
    return {"model": _model(), "batch": torch.randn(2, 4), "loss": _mse}


def _fisher() -> dict[str, Any]:
    return {"x": torch.randn(8, 3), "weight": torch.randn(2, 3), "bias": torch.randn(2)}


def _wrong_fisher(*more: str) -> dict[str, list[Any]]:
    return {
        **dict.fromkeys(("x", "weight", "bias", *more), TENSOR),
        "family": [None, 3, "normal"],
        "dispersion": NUMBER,
    }


def _entered(manager: Callable[..., Any]) -> Callable[..., Any]:
    def call(**arguments: Any) -> None:
        with manager(**arguments):
            pass

    return call


def _exhausted(read: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
    return lambda **arguments: list(read(**arguments))


CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]], dict[str, list[Any]]]] = {
    "make_study": (
        normscope.make_study,
        lambda: {"task": "digits"},
        {
            "task": TEXT,
            "norms": TEXTS,
            "placements": TEXTS,
            "seeds": ["0-3", 2.5, True, [True], [1.5], ["0"], [None], nn.LayerNorm, -1, [-1]],
            "looks": ["10,20", None, 10, [2.5, 20], ["10", "20"], [True, 20], [-1, 20], [20, 10]],
            "until_decided": ["no", None, 3],
            "max_seeds": ["20", 2.5, True, [20]],
            "spending": [3, "early", ["pocock"]],
            "warmups": ["0", None, 3, [2.5], ["0"], [True], [-1]],
            "steps": ["5", 2.5, True, [5], -1],
            "preset": [None, 3, "large"],
            "margin": ["0.5", True, [1.0], float("nan")],
            "baseline": [3, nn.LayerNorm],
            "precision": [None, 3, torch.bfloat16],
            "device": [3, None, "gpu"],
            "compile": ["no", None, 3],
            "tune": ["no", None, 3],
            "question": [3, len],
        },
    ),
    "compare": (
        normscope.compare,
        lambda: {"study": "digits", "norms": ["none", "layer_norm"], "seeds": 1, "steps": 2},
        {
            "study": TEXT,
            "out": [3, len],
            "workers": ["2", 2.5, True, 0],
            "engine": ["local", 3],
            "callback": ["print", 3],
            "command": [3, len],
            "retry_failed": ["no", 3],
            "minutes": ["5", True, [5.0], 3],
            "keep_going": ["no", 3],
            "after_look": ["print", 3],
        },
    ),
    "plan": (studies.plan, lambda: {"study_spec": normscope.make_study("digits")}, {"study_spec": [None, "digits", 3]}),
    "find_task": (normscope.find_task, lambda: {"name": "digits"}, {"name": TEXT}),
    "NormSpec": (normscope.NormSpec, lambda: {"name": "ada_norm"}, {"name": TEXT, "arguments": [None, "scale=2", [1]]}),
    "NormSpec.parse": (normscope.NormSpec.parse, lambda: {"text": "ada_norm"}, {"text": TEXT}),
    "PlacementSpec": (normscope.PlacementSpec, lambda: {"text": "pre"}, {"text": TEXT}),
    "Arm.parse": (
        normscope.Arm.parse,
        lambda: {"norm": "ada_norm", "placement": "pre"},
        {"norm": [None, 3, nn.LayerNorm], "placement": [None, 3, len]},
    ),
    "diagnose": (
        normscope.diagnose,
        _measured,
        {
            "model": MODEL,
            "loss": FUNCTION,
            "optimizer": OPTIMIZER,
            "learning_rate": ["0.1", [0.1], True],
            "warmup": ["3", 2.5, True],
            "precision": [16, torch.float16],
            "generator": GENERATOR,
        },
    ),
    **{
        name: (getattr(diagnostics, name), _measured, {"model": MODEL, "loss": FUNCTION, "generator": GENERATOR})
        for name in ("depth_profile", "gradients_at_norms")
    },
    "numeric_range": (
        diagnostics.numeric_range,
        _measured,
        {
            "model": MODEL,
            "loss": FUNCTION,
            "precision": [16, torch.float16],
            "optimizer": OPTIMIZER,
            "generator": GENERATOR,
        },
    ),
    "warmup_features": (
        diagnostics.warmup_features,
        lambda: {**_measured(), "learning_rate": 0.1},
        {"model": MODEL, "loss": FUNCTION, "learning_rate": NUMBER, "update": [None, 3], "generator": GENERATOR},
    ),
    "gradient_shares": (_entered(diagnostics.gradient_shares), lambda: {"model": _model()}, {"model": MODEL}),
    "gradients_through_training": (
        _entered(diagnostics.gradients_through_training),
        lambda: {"model": _model()},
        {"model": MODEL, "every": [*WHOLE, 0]},
    ),
    "coordinate_check": (
        diagnostics.coordinate_check,
        lambda: {
            "make": lambda size: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
            "sizes": [1, 2],
            "batch": torch.randn(2, 4),
            "loss": _mse,
            "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        },
        {
            "make": [*FUNCTION, nn.LayerNorm(4)],
            "sizes": [None, 3, "12", [1.5, 2], ["1", "2"]],
            "loss": FUNCTION,
            "optimizer": [None, "sgd", 3],
            "steps": WHOLE,
            "seeds": [None, 3, "012", [1.5]],
        },
    ),
    "find_norms": (normscope.find_norms, lambda: {"model": _model()}, {"model": MODEL}),
    "traits_of": (inspection.traits_of, lambda: {"module": _model()}, {"module": MODEL}),
    "norm_parameters": (normscope.norm_parameters, lambda: {"model": _model()}, {"model": MODEL}),
    "norm_parameter_groups": (
        normscope.norm_parameter_groups,
        lambda: {"model": _model(), "weight_decay": 0.1},
        {"model": MODEL, "weight_decay": [*NUMBER, -1.0]},
    ),
    "apply_weight_norm": (normscope.apply_weight_norm, lambda: {"model": _model()}, {"model": MODEL}),
    "swap": (
        normscope.swap,
        lambda: {"model": _model(), "what": "layer_norm", "to": "rms_norm"},
        {
            "model": MODEL,
            "what": [None, 3, nn.LayerNorm(4), [3], [], int],
            "to": [None, 3, nn.LayerNorm(4), ["rms_norm"]],
            "where": [3, ["0"], nn.LayerNorm(4)],
            "optimizer": OPTIMIZER,
        },
    ),
    "to_rms_norm": (
        lambda model, **options: surgery.to_rms_norm(model, torch.randn(2, 4), **options),
        lambda: {"model": _model()},
        {"model": MODEL, "where": [3, ["0"]], "generator": GENERATOR},
    ),
    "curvature": (
        analysis.curvature,
        lambda: {
            "model": nn.Linear(4, 2),
            "inputs": torch.randn(2, 4),
            "loss": "mse",
            "generator": torch.Generator(),
            "top": 1,
            "probes": 1,
        },
        {
            "model": MODEL,
            "inputs": [None, 3, "x", [1.0]],
            "loss": [None, _mse, "nll"],
            "generator": [None, *GENERATOR],
            "kind": [None, 3, "hessian"],
            "top": WHOLE,
            "probes": WHOLE,
            "tolerance": NUMBER,
            "only": [3, "weight", [3]],
        },
    ),
    "implicit_learning_rate": (
        analysis.implicit_learning_rate,
        lambda: {**_fisher(), "y": torch.randn(8, 2), "gain": torch.ones(2), "family": "gaussian"},
        {
            **_wrong_fisher("y", "gain"),
            "learning_rate": NUMBER,
            "factors": [None, 3, "12", ["1"]],
        },
    ),
    "standard_fisher": (analysis.standard_fisher, lambda: {**_fisher(), "family": "gaussian"}, _wrong_fisher()),
    "normalized_fisher": (
        analysis.normalized_fisher,
        lambda: {**_fisher(), "gain": torch.ones(2), "method": "layer", "family": "gaussian"},
        {**_wrong_fisher("gain"), "method": [None, 3, "group"]},
    ),
    "invariances": (
        analysis.invariances,
        lambda: {"module": nn.LayerNorm(4), "x": torch.randn(8, 4), "generator": torch.Generator()},
        {
            "module": MODEL,
            "x": TENSOR,
            "generator": [None, *GENERATOR],
            "weight": [3, torch.ones(3)],
            "factor": NUMBER,
            "scales": [None, 3, "12", ["1"]],
        },
    ),
    "parity": (
        analysis.parity,
        lambda: {
            "first": nn.LayerNorm(4),
            "second": normscope.LayerNorm(4),
            "width": 4,
            "generator": torch.Generator(),
        },
        {
            "first": [*FUNCTION, nn.LayerNorm],
            "second": [*FUNCTION, nn.LayerNorm],
            "width": [*WHOLE, 0, (4,)],
            "generator": [None, *GENERATOR],
            "names": [None, 3, "ab", ("a",), (1, 2)],
            "rows": [*WHOLE, 0],
            "dtypes": [None, torch.float32, "float32", ["float32"]],
        },
    ),
    **{
        name: (function, lambda: {"directory": Path("nowhere")}, {"directory": PATH})
        for name, function in {
            "summarize": normscope.summarize,
            "read_summary": results.read_summary,
            "write_report": normscope.write_report,
            "read_study": report.study.read_study,
        }.items()
    },
    "write_diagnosis": (
        report.write_diagnosis,
        lambda: {"content": {}, "path": "page.html"},
        {"content": [None, 3, "text", [1]], "path": PATH},
    ),
    "render": (report.diagnosis.render, lambda: {"content": {}}, {"content": [None, 3, "text", [1]]}),
    "initialize": (training.initialize, lambda: {"model": _model(), "seed": 0}, {"model": MODEL, "seed": WHOLE}),
    "fetch": (data.fetch, dict, {"names": [3, None, "mnist", [3], [None]]}),
    "verify": (data.verify, dict, {"names": [3, None, "mnist", [3], [None]]}),
    "state": (data.state, lambda: {"dataset": data.SETS["digits"]}, {"dataset": ["digits", None, 3]}),
    "locate": (data.locate, lambda: {"dataset": data.SETS["digits"]}, {"dataset": ["digits", None, 3]}),
    "load_bytes": (data.load_bytes, lambda: {"name": "enwik8"}, {"name": TEXT}),
    "load_parallel": (data.load_parallel, lambda: {"name": "multi30k"}, {"name": TEXT}),
    **{
        name: (getattr(data, name), dict, {"fold": ["1", 2.5, True, [1]], "seed": ["1", 2.5, True, [1]]})
        for name in ("load_rt", "load_cr", "load_subj", "load_mpqa")
    },
    "load_digits": (data.load_digits, dict, {"seed": ["1", 2.5, True, [1]]}),
    "load_ptb_sample": (data.load_ptb_sample, dict, {"seed": ["1", 2.5, True, [1]]}),
    "read_captions": (
        data.read_captions,
        lambda: {"path": Path("nowhere"), "images": 1},
        {"path": PATH, "images": WHOLE},
    ),
    "read_features": (data.read_features, lambda: {"path": Path("nowhere")}, {"path": PATH}),
    **{
        name: (_exhausted(getattr(data, name)), lambda: {"path": Path("nowhere")}, {"path": PATH})
        for name in ("read_lines", "read_trees", "read_conllu")
    },
}

CASES = [
    pytest.param(name, argument, wrong, id=f"{name}-{argument}-{number}")
    for name, (_, _, arguments) in CALLS.items()
    for argument, values in arguments.items()
    for number, wrong in enumerate(values)
]


@pytest.mark.parametrize(("name", "argument", "wrong"), CASES)
def test_a_wrong_type_is_refused_at_the_boundary(
    name: str, argument: str, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function, valid, _ = CALLS[name]
    with pytest.raises((TypeError, ValueError, normscope.NormscopeError)) as told:
        function(**{**valid(), argument: wrong})
    assert Path(traceback.extract_tb(told.tb)[-1].filename).is_relative_to(PACKAGE), told.getrepr()
    # "warmup must be at least 0" names warmups.
    assert re.search(rf"\b{argument.removesuffix('s')}", str(told.value)), told.value
    assert not list(tmp_path.iterdir())
