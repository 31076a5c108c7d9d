"""Name the architectures of the other libraries, and build each one small."""

import importlib
import inspect
import random
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strangers.inputs import alternatives, floats_in
from strangers.shrink import SCALES, shrink


class Call:
    """The arguments of a model, kept to call it with."""

    def __init__(self, *inputs: Any, **named: Any) -> None:
        self.inputs, self.named = inputs, named

    def __call__(self, model: nn.Module) -> Any:
        return model(*self.inputs, **self.named)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way to make a small model, and ways to call it."""

    how: str
    build: Callable[[], nn.Module]
    calls: Callable[[nn.Module], Iterable[Call]]
    train_loss: Callable[[nn.Module], Tensor] | None = None
    """For models whose outputs in training are losses; None compares the outputs with a target."""
    shapes_vary: bool = False
    """Whether the shapes of the outputs depend on the weights: a detector finds more or fewer things."""


# transformers


def _transformers_names() -> list[str]:
    mapping = importlib.import_module("transformers").CONFIG_MAPPING
    return _one_of_each_first(mapping.keys(), lambda name: mapping[name].__module__)


def _one_of_each_first(names: Iterable[str], place: Callable[[str], str]) -> list[str]:
    """Order names so that the first of every file stands before the second of any."""
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        files[place(name)].append(name)
    columns = range(max(map(len, files.values())))
    return [alike[column] for column in columns for alike in files.values() if column < len(alike)]


def _transformers(name: str) -> Iterator[Attempt]:
    transformers = importlib.import_module("transformers")
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    kind = transformers.CONFIG_MAPPING[name]
    defaults = kind().to_dict()
    mappings = ("MODEL_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING")
    mappings += ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "MODEL_FOR_MASKED_LM_MAPPING")
    mappings += (
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
        "MODEL_FOR_OBJECT_DETECTION_MAPPING",
        "MODEL_FOR_CTC_MAPPING",
    )
    mappings += ("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING", "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING", "MODEL_MAPPING_NAMES")
    tables = [getattr(auto, mapping) for mapping in mappings if hasattr(auto, mapping)]
    model_class = next((table[kind] for table in tables if kind in table), None) or _in_its_module(kind)
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    for number, scale in enumerate(SCALES):
        changes = shrink(defaults, scale)

        def build(changes: dict[str, Any] = changes) -> nn.Module:
            config = kind(**changes)
            if hasattr(config, "use_cache"):
                config.use_cache = False
            config._attn_implementation = "eager"
            return model_class(config)

        def calls(model: nn.Module) -> Iterator[Call]:
            forward = model.forward
            main = getattr(model, "main_input_name", None)
            config: Mapping[str, Any] = model.config.to_dict()  # type: ignore[union-attr, operator]
            return (Call(**arguments) for arguments in alternatives(forward, config, main))

        yield Attempt(how=f"{model_class.__name__}, scale {number}", build=build, calls=calls)


def _in_its_module(config: type) -> type[nn.Module]:
    """Return the model of a configuration that no auto class names, such as that of an inner part."""
    module = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    models = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, nn.Module)]
    mine = [
        each for each in models if getattr(each, "config_class", None) is config and each.__module__ == module.__name__
    ]
    if not mine:
        raise LookupError("no model class for this configuration")
    return next((each for each in mine if each.__name__.endswith("Model")), mine[-1])


# timm

SMALL_FIRST = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxt",
    "xxs",
    "_xs",
    "tiny",
    "mini",
    "small",
    "_s",
    "050",
    "lite",
)
DEEP = {"depth": 2, "embed_dim": 32, "num_heads": 2}
"""Settings of a small vision transformer; a model that has other ones is built as it is."""


def _timm_names() -> list[str]:
    timm = importlib.import_module("timm")
    return [name for name in timm.list_modules() if timm.list_models(module=name)]


def _timm(name: str) -> Iterator[Attempt]:
    timm = importlib.import_module("timm")

    def size(model: str) -> tuple[int, int, str]:
        rank = next((i for i, word in enumerate(SMALL_FIRST) if word in model), len(SMALL_FIRST))
        return rank, sum(map(int, re.findall(r"\d+", model))), model

    for model in sorted(timm.list_models(module=name), key=size)[:3]:
        for settings in ({"img_size": 64, **DEEP}, {"img_size": 64}, DEEP, {}):
            yield Attempt(
                how=", ".join([model, *(f"{key}={value}" for key, value in settings.items())]),
                build=lambda model=model, settings=settings: timm.create_model(model, num_classes=5, **settings),
                calls=_image_calls,
            )


def _image_calls(model: nn.Module) -> Iterator[Call]:
    settings = getattr(model, "pretrained_cfg", None) or {}
    own = settings.get("input_size", (3, 224, 224))
    for side in (64, own[-1]):
        yield Call(torch.randn(2, own[0], side, side))


# torchvision


def _torchvision_names() -> list[str]:
    models = importlib.import_module("torchvision.models")
    return _one_of_each_first(models.list_models(), lambda name: models.get_model_builder(name).__module__)


def _torchvision(name: str) -> Iterator[Attempt]:
    models = importlib.import_module("torchvision.models")
    place = models.get_model_builder(name).__module__
    settings: dict[str, Any] = {"weights": None}
    if "detection" in place or "segmentation" in place:
        settings |= {"weights_backbone": None, "num_classes": 5}
        if "ssd" not in name and "detection" in place:
            settings |= {"min_size": 64, "max_size": 96}
    elif "optical_flow" not in place:
        settings["num_classes"] = 5
    if "googlenet" in name or "inception" in name:
        settings |= {"aux_logits": False, "init_weights": False}

    def calls(model: nn.Module) -> Iterator[Call]:
        if "detection" in place:
            yield Call([torch.rand(3, 64, 64), torch.rand(3, 64, 64)])
        elif "optical_flow" in place:
            yield Call(*torch.rand(2, 1, 3, 128, 128), num_flow_updates=2)
        elif "video" in place:
            yield Call(torch.randn(2, 3, 8, 64, 64))
            yield Call(torch.randn(1, 3, 16, 224, 224))
        else:
            for side in (64, 128, 224, 299):
                yield Call(torch.randn(2, 3, side, side))

    def detection_loss(model: nn.Module) -> Tensor:
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        boxes = torch.tensor([[4.0, 4.0, 40.0, 50.0], [10.0, 20.0, 60.0, 60.0]])
        target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": torch.ones(2, 64, 64, dtype=torch.uint8)}
        target["keypoints"] = torch.tensor([[[20.0, 20.0, 1.0]] * 17] * 2)
        losses = model(list(images), [dict(target), dict(target)])
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    smaller = [{"image_size": 64}] if "vision_transformer" in place or "maxvit" in place else []
    for more in (*smaller, {}):
        yield Attempt(
            how=", ".join([name, *(f"{key}={value}" for key, value in more.items())]),
            build=lambda more=more: models.get_model(name, **settings, **more),
            calls=calls,
            train_loss=detection_loss if "detection" in place else None,
            shapes_vary="detection" in place,
        )


# diffusers


def _diffusers_names() -> list[str]:
    models = importlib.import_module("diffusers.models")
    found = []
    for name in dir(models):
        try:
            each = getattr(models, name)
        except (ImportError, RuntimeError):
            continue
        if isinstance(each, type) and issubclass(each, nn.Module) and hasattr(each, "load_config"):
            found.append(name)
    return [name for name in found if name not in ("ModelMixin", "AutoModel")]


def _diffusers(name: str) -> Iterator[Attempt]:
    model_class = getattr(importlib.import_module("diffusers.models"), name)
    parameters = inspect.signature(model_class.__init__).parameters
    defaults = {
        key: parameter.default for key, parameter in parameters.items() if parameter.default is not parameter.empty
    }
    sizes = re.compile(r"(_dim|_size|_channels|_heads)$")
    for number, scale in enumerate(SCALES):
        # A size without a value, or with None, is one that every real configuration gives.
        unset = {key: scale.heads if "heads" in key else scale.width for key in parameters if sizes.search(key)}
        changes = {key: value for key, value in unset.items() if defaults.get(key) is None} | shrink(defaults, scale)
        if "norm_num_groups" in defaults:
            changes["norm_num_groups"] = min(defaults["norm_num_groups"] or 4, 4)

        def calls(model: nn.Module) -> Iterator[Call]:
            config = dict(model.config)  # type: ignore[call-overload]
            return (Call(**arguments) for arguments in alternatives(model.forward, config))

        yield Attempt(how=f"{name}, scale {number}", build=lambda changes=changes: model_class(**changes), calls=calls)


LIBRARIES: dict[str, tuple[Callable[[], list[str]], Callable[[str], Iterator[Attempt]]]] = {
    "transformers": (_transformers_names, _transformers),
    "timm": (_timm_names, _timm),
    "torchvision": (_torchvision_names, _torchvision),
    "diffusers": (_diffusers_names, _diffusers),
}
"""From a library to the names of its architectures and the ways to build one of them."""


def seed(number: int = 0) -> None:
    """Seed every generator that a model may draw from."""
    torch.manual_seed(number)
    random.seed(number)
    importlib.import_module("numpy").random.seed(number)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A small model that runs: how it is built, how it is called."""

    how: str
    build: Callable[[], nn.Module]
    call: Call
    train_loss: Callable[[nn.Module], Tensor] | None = None
    shapes_vary: bool = False

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """Return the floating-point outputs, with the generators seeded before."""
        seed()
        return floats_in(self.call(model))


class CannotBuild(RuntimeError):
    """No attempt gave a model that is small, built in time and runs."""


def first_that_runs(
    attempts: Iterable[Attempt],
    *,
    limited: Callable[[], Any],
    largest: int = 25_000_000,
    slowest: float = 0.1,
    patience: float = 4.0,
) -> Subject:
    """Return the first attempt whose model is built in time and has finite outputs.

    Args:
        attempts: Tried in their order.
        limited: Makes a context that raises a TimeoutError when the build takes too long.
        largest: The most parameters that a small model has.
        slowest: The most processor time that a call of it takes, in seconds.
        patience: Processor time after which no further attempt begins, in seconds.

    Returns:
        The attempt with the call that worked.

    Raises:
        CannotBuild: If there is none; the message has the first error and the number of attempts.
    """
    errors: list[str] = []
    began = time.process_time()
    for attempt in attempts:
        if time.process_time() - began > patience:
            break
        try:
            with limited(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seed()
                model = attempt.build()
            size = sum(parameter.numel() for parameter in model.parameters())
            if size > largest:
                raise CannotBuild(f"{size:,} parameters: not small")
        except Exception as error:
            errors.append(f"build: {type(error).__name__}: {error}")
            continue
        model.eval()
        seed(1)
        for call in attempt.calls(model):
            kept = {"train_loss": attempt.train_loss, "shapes_vary": attempt.shapes_vary}
            subject = Subject(how=attempt.how, build=attempt.build, call=call, **kept)
            try:
                with torch.no_grad():
                    started = time.process_time()
                    outputs = subject.outputs(model)
                    spent = time.process_time() - started
                if spent > slowest:
                    raise CannotBuild(f"a call takes {spent:.1f} s: not small")
                if not outputs:
                    raise CannotBuild("no output is a floating-point tensor")
                if not all(output.isfinite().all() for output in outputs):
                    raise CannotBuild("its own output is not finite")
                return subject
            except Exception as error:
                errors.append(f"call: {type(error).__name__}: {error}")
    calls = [error for error in errors if error.startswith("call")]
    raise CannotBuild(f"{(calls or errors or ['no way to call it is known'])[0]}")
