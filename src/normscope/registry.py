"""The names: what a string on the command line stands for. Everything below this file takes objects.

The order of a dictionary is the order of every table.
"""

import contextlib
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from torch import nn

from normscope import norms, placement, tasks
from normscope.analysis import curvature, implicit_learning_rate, invariances, parity
from normscope.analysis.fisher import normalized_fisher, standard_fisher
from normscope.diagnostics import coordinate_check, gradient_shares, numeric_range
from normscope.diagnostics.depth.profile import depth_profile
from normscope.diagnostics.gradients.at_norms import gradients_at_norms
from normscope.diagnostics.gradients.history import gradients_through_training
from normscope.diagnostics.warmup import warmup_features
from normscope.tasks import images as image_tasks
from normscope.tasks import language as language_tasks
from normscope.tasks import sentences as sentence_tasks
from normscope.tasks.parsing import task as parsing_tasks
from normscope.tasks.translation import settings as translation_tasks


class PluginIgnored(UserWarning):
    """Another package's entry cannot be used; everything else can."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """What another package brought."""

    name: str
    """Its key."""
    found: Any
    """The object itself."""
    package: str
    """Name and version of the package."""


def load_plugins(group: str, *, taken: Collection[str], wanted: Callable[[Any], bool], kind: str) -> list[Plugin]:
    """Load the entries of a group from the installed packages.

    One that fails, is of another kind, or whose name is taken or cannot be typed, is left out with a
    :class:`PluginIgnored` warning that names it and its package: somebody else's mistake must not stop a study that
    has no use for it. What a package prints when it is imported goes to standard error.

    Args:
        group: Such as ``"normscope.norms"``.
        taken: Names that are ours.
        wanted: Whether an object can be of this group.
        kind: What it is then, in words.

    Returns:
        What can be used, in the order of names; of two with one name the first package's, by its name.
    """
    loaded: list[Plugin] = []
    # A folder that stands twice on the path gives its entries twice.
    entries = {(entry.name, _package(entry), entry.value): entry for entry in entry_points(group=group)}
    for (name, package, _), entry in sorted(entries.items()):
        where = f"{group} {name!r} of {package}"
        if not name.isidentifier():
            _ignore(where, "the name must be one word of letters, digits and _")
        elif name in taken:
            _ignore(where, "the name is taken")
        elif others := [plugin.package for plugin in loaded if plugin.name == name]:
            _ignore(where, f"the name is taken by {others[0]}")
        else:
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    found = entry.load()
                    fits = wanted(found)
            except (Exception, SystemExit) as error:
                _ignore(where, f"{type(error).__name__}: {error}")
                continue
            if fits:
                loaded.append(Plugin(name=name, found=found, package=package))
            else:
                _ignore(where, f"{entry.value} is of another kind, {type(found).__name__}: expected {kind}")
    return loaded


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"


def _ignore(where: str, why: str) -> None:
    # Without a place of ours, whose line would be shown as if it were at fault.
    why = " ".join(why.split())
    warnings.warn_explicit(f"{where} is ignored: {why}", PluginIgnored, filename="normscope", lineno=1)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "none": norms.NoNorm,
    "layer_norm": norms.LayerNorm,
    "layer_norm_simple": norms.LayerNormSimple,
    "detach_norm": norms.DetachNorm,
    "ada_norm": norms.AdaNorm,
    "rms_norm": norms.RMSNorm,
    "scale_norm": norms.ScaleNorm,
    "dyt": norms.DyT,
    "derf": norms.Derf,
    "batch_norm": norms.BatchNorm,
    "frn": norms.FRN,
}
"""Layers that map ``[..., D]`` to ``[..., D]``, made from a width and keyword arguments."""

PARAMETRIZATIONS: dict[str, Callable[[nn.Module], int]] = {"weight_norm": norms.apply_weight_norm}
"""Arms that act on the weights of a network built with ``none``; each returns how many weights it took."""

PLACEMENTS: dict[str, placement.Placement] = {
    "preactivation": placement.Placement(equation="h = relu(N(W x))", block=None),
    "post": placement.POST,
    "pre": placement.PRE,
    "output": placement.Placement(
        equation="x <- x + N(f(x)); N at the end", block=placement.OutputNorm, normalize_final=True
    ),
    "peri": placement.Placement(
        equation="x <- x + N(f(N(x))); N after the stem and at the end",
        block=placement.PeriNorm,
        normalize_stem=True,
        normalize_final=True,
    ),
    "deepnorm": placement.Placement(
        equation="x <- N(alpha x + f(x)), f begins at beta",
        block=placement.DeepNorm,
        gain=lambda site, constants: placement.deepnorm_constants(site, constants)[1],
        arguments={"constants": "paper"},
    ),
    "rezero": placement.Placement(equation="x <- x + a f(x), a = 0 at first; no norm", block=placement.ReZero),
    "layernorm_scaling": placement.Placement(
        equation="x <- x + f(N(x) / sqrt(layer)); N at the end", block=placement.ScaledPreNorm, normalize_final=True
    ),
    "recursive_skip": placement.Placement(
        equation="y <- N(x + f(x)), then y <- N(x + y) until `times` norms",
        block=placement.RecursiveSkip,
        arguments={"times": 2},
    ),
    "hybrid": placement.Placement(
        equation="x <- x + f(x) with N on q, k, v; x <- N(x), x <- x + f(x) around feed-forward; N at the end",
        block=placement.PlainBlock,
        other_block=placement.NormThenPlain,
        normalize_qkv=True,
        normalize_final=True,
    ),
    "mix": placement.Placement(
        equation="the first `share` of the layers post, the rest pre",
        block=None,
        choose=placement.mix,
        arguments={"share": 0.25},
    ),
    "residual_dual": placement.Placement(
        equation="x <- N(x + f(x)), s <- s + f(x); x + N(s) at the end",
        block=placement.DualBlock,
        normalize_final=True,
        stream=placement.DualStack,
    ),
    "none": placement.Placement(equation="x <- x + f(x); no norm", block=placement.PlainBlock),
}
"""Where norms stand around a residual branch; ``preactivation`` for networks without branches."""

TASKS: dict[str, tasks.Task] = {
    "digits": image_tasks.DIGITS,
    "mnist_mlp": image_tasks.MNIST_MLP,
    "mnist_mlp_batch4": image_tasks.MNIST_MLP_BATCH4,
    "mnist_cnn": image_tasks.MNIST_CNN,
    "rt": sentence_tasks.RT,
    "sst5": sentence_tasks.SST5,
    "ud_ewt": parsing_tasks.UD_EWT,
    "ud_ewt_las": parsing_tasks.UD_EWT_LAS,
    "ptb": parsing_tasks.PTB,
    "ptb_las": parsing_tasks.PTB_LAS,
    "tiny_shakespeare": language_tasks.TINY_SHAKESPEARE,
    "enwiki_small": language_tasks.ENWIKI_SMALL,
    "enwik8": language_tasks.ENWIK8,
    "multi30k_de_en": translation_tasks.MULTI30K_DE_EN,
    "iwslt14_de_en_sample": translation_tasks.IWSLT14_DE_EN_SAMPLE,
    "iwslt14_de_en": translation_tasks.IWSLT14_DE_EN,
    "evbnews_en_vi": translation_tasks.EVBNEWS_EN_VI,
    "iwslt15_en_vi": translation_tasks.IWSLT15_EN_VI,
    "wmt_en_de_10k": translation_tasks.WMT_EN_DE_10K,
    "wmt14_en_de": translation_tasks.WMT14_EN_DE,
}
"""Data sets with their network, loss, metric and recipe."""

PROBES: dict[str, Any] = {
    "gradient_shares": gradient_shares,
    "gradients_at_norms": gradients_at_norms,
    "gradients_through_training": gradients_through_training,
    "depth_profile": depth_profile,
    "coordinate_check": coordinate_check,
    "warmup_features": warmup_features,
    "numeric_range": numeric_range,
    "invariances": invariances,
    "parity": parity,
    "curvature": curvature,
    "standard_fisher": standard_fisher,
    "normalized_fisher": normalized_fisher,
    "implicit_learning_rate": implicit_learning_rate,
}
"""What is measured on a running model, or of a norm by itself; every run of a study reads the first at its
evaluations."""

Entry = TypeVar("Entry")


_OWN: dict[tasks.UserFile, tasks.CustomTask] = {}
"""Tasks in files of users, as this process has read them."""


def find_task(name: str, *, anew: bool = False, revision: int | None = None) -> tasks.Task:
    """Give a task by its key, or the one in a user's file, ``my_file.py:make``.

    A file is read once in a process: a study keeps what it began with while the file is edited.

    Args:
        name: What a person wrote.
        anew: Read a file again that has been edited.
        revision: What a file must be that is not read yet.

    Raises:
        LookupError: If there is none; the message suggests the nearest name.
        UserCodeError: If the user's file or function fails.
        UserFileChanged: If the file is not of the revision.
        TypeError: If the function is no such function.
        ValueError: If a file is named without its function.
    """
    if not name.rpartition(":")[0].endswith(".py") and not name.endswith(".py"):
        if ":" in name:
            raise ValueError(f"expected a file and a function in it, such as my_file.py:make, got {name!r}")
        return look_up("task", TASKS, name)
    file = tasks.UserFile.named(name)
    if file not in _OWN or (anew and _OWN[file].hashes != file.hashes()):
        if revision is not None:
            file.expect(revision)
        _OWN[file] = tasks.CustomTask(file, norm=NORMS["layer_norm"], placement=PLACEMENTS["pre"])
    return _OWN[file]


def look_up(kind: str, entries: Mapping[str, Entry], name: str) -> Entry:
    """Find an entry by its name.

    Args:
        kind: What it is, for the message, such as ``"norm"``.
        entries: One of the dictionaries above.
        name: Its key.

    Raises:
        LookupError: If there is none; the message suggests the nearest name and lists them all.
    """
    if name in entries:
        return entries[name]
    begins = [key for key in entries if name.startswith(key)]
    near = begins[:1] or get_close_matches(name, entries, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise LookupError(f"there is no {kind} {name!r}: {hint}There are {', '.join(entries)}")


ORIGINS: dict[tuple[str, str], str] = {}
"""Which package brought an entry, by dictionary and name; ours are not here."""

# Last, so that a package may import what stands above.
for _group, _entries, _taken, _wanted, _kind in (
    (
        "norms",
        NORMS,
        {*NORMS, *PARAMETRIZATIONS},
        # A module that is made already has one width.
        lambda found: callable(found) and not isinstance(found, nn.Module),
        "a class or function that makes a norm of a width",
    ),
    (
        "placements",
        PLACEMENTS,
        PLACEMENTS,
        lambda found: isinstance(found, placement.Placement),
        "a normscope.placement.Placement",
    ),
    ("tasks", TASKS, TASKS, lambda found: isinstance(found, tasks.Task), "a normscope.tasks.Task"),
    ("probes", PROBES, PROBES, callable, "a function"),
):
    for _plugin in load_plugins(f"normscope.{_group}", taken=_taken, wanted=_wanted, kind=_kind):
        _entries[_plugin.name] = _plugin.found
        ORIGINS[_group, _plugin.name] = _plugin.package
