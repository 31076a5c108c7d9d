"""Ba, Kiros and Hinton (2016): their experiments as studies, and their paper with its cells and statements."""

from normscope.papers.ba2016.cells import CELLS
from normscope.papers.ba2016.equations import section52, table1
from normscope.papers.ba2016.settings import (
    BN,
    BN_EVERYWHERE,
    BN_UNBIASED,
    LN,
    PLAIN,
    STAND_IN_WORDS,
    STAND_INS,
)
from normscope.papers.judging.cell import Paper, PaperArm, PaperStudy, Probe, Setup
from normscope.results.targets import TargetPlan
from normscope.results.targets.record import BASELINE
from normscope.studies.looks import plan_looks
from normscope.studies.spec import Arm, StudySpec
from normscope.tasks import TASKS

ARMS: dict[str, tuple[PaperArm, ...]] = {
    "coco_order": (PLAIN, LN),
    "cnn_cloze": (PLAIN, LN, BN, BN_EVERYWHERE),
    "book_corpus_skip_thoughts": (PLAIN, LN),
    "draw_mnist": (PLAIN, LN),
    "iam_ondb": (PLAIN, LN),
    "mnist_mlp": (PLAIN, LN, BN),
    "mnist_mlp_batch4": (PLAIN, LN, BN_UNBIASED),
    "cifar10": (PLAIN, LN, BN),
}
"""Arms of an experiment; the first is the baseline of the study."""

FIXED_TARGETS: dict[str, float] = {
    "multi30k_order": 55.0,
    "novels_skip_thoughts": 3.8,
    "draw_mnist": 120.0,
    "omniglot_strokes": 0.6,
    "kanji_strokes": -0.4,
    "cifar10_part": 60.0,
}
"""Values of the validation metric that the small presets pass in the second half of their training, fixed after the
pilot runs and before the studies; a target beside the baseline's best value."""

WHOLE_LAYERS = "whole_layers"
"""Variant of ``mnist_cnn``, whose layer norms are over the channels of a position otherwise."""


def studies(task: str, setup: Setup) -> tuple[PaperStudy, ...]:
    """Build the study of a task: the arms of the paper, the network without a norm as baseline, its best as target.

    In the small presets a fixed value is another target.

    Raises:
        ValueError: If the preset is unknown.
    """
    original = next((name for name, others in STAND_INS.items() if task in others), task)
    entry, wanted = TASKS[task], ARMS[original]
    if setup.preset not in entry.presets:
        raise ValueError(f"preset must be one of {', '.join(entry.presets)}, got {setup.preset!r}")
    fixed = (FIXED_TARGETS[task],) if setup.preset == "small" and task in FIXED_TARGETS else ()
    usual = WHOLE_LAYERS if task == "mnist_cnn" else None
    looks, seeds = plan_looks(
        setup.seeds,
        setup.looks,
        until_decided=setup.until_decided,
        most=setup.max_seeds,
        spending=None,
        level=StudySpec.alpha / ((len(wanted) - 1) * (2 if setup.tune else 1)),
    )
    spec = StudySpec(
        question=f"Does layer norm train faster, and better, on {task}?",
        task=task,
        arms=tuple(Arm.parse(arm.norm, entry.placements[0], variant=arm.variant or usual) for arm in wanted),
        baseline=wanted.index(PLAIN),
        margin=entry.margin,
        seeds=seeds,
        looks=looks,
        steps=entry.presets[setup.preset].steps if setup.steps is None else setup.steps,
        preset=setup.preset,
        precision=setup.precision,
        device=setup.device,
        compile=setup.compile,
        splits=next(iter(entry.splits)),
        tune=setup.tune,
        targets=TargetPlan(values=(BASELINE, *fixed)),
    )
    labels = dict(zip(wanted, spec.labels(), strict=True))
    return (PaperStudy(name=task + "-tuned" * setup.tune, spec=spec, labels=labels),)


BA2016 = Paper(
    name="ba2016",
    title="Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450",
    cells=CELLS,
    counts=(),
    studies=studies,
    stand_ins=STAND_IN_WORDS,
    figures={},
    probes={
        "table1": Probe(
            what="invariances of batch, weight and layer norm", source="Table 1 and section 5.1", run=table1
        ),
        "section5.2": Probe(
            what="Fisher matrices of normalized models, and what follows from them", source="Section 5.2", run=section52
        ),
    },
)
