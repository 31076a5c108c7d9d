"""Xiong, Yang, He, Zheng, … (2020): published results on warm-up for IWSLT'14, and the studies that reproduce them.

Numbers of IWSLT'14 are from the text; where a source says "about", they are read off plots.
"""

from normscope.papers.judging.cell import Cell, Epsilon, Paper, PaperArm, PaperStudy, Setup
from normscope.studies.looks import plan_looks
from normscope.studies.spec import Arm, StudySpec
from normscope.tasks import TASKS, Recipe
from normscope.tasks.task import Metric

TASK = "iwslt14_de_en"
BLEU = Metric(name="test BLEU", unit="BLEU", higher_is_better=True, aggregate="bleu")
LOSS = Metric(name="validation loss", unit="nats a token", higher_is_better=False)
LONGEST = 4000
"""Number of updates of the full warm-up of the paper."""
WARMUPS = (0, 500, LONGEST)
RATES = (5e-4, 1e-3)
NORM = "layer_norm"

READ_OFF = Epsilon(value=1.0, reason="'about 34': read off a plot, to half a point each")

DIFFERS = (
    "paper: 6+6 layers, width 512, dropout 0.1, Adam (0.9, 0.98), 4,096 tokens, beam 5, length penalty 1.2; Post-LN "
    "falls as 1/sqrt(step), Pre-LN without warm-up holds 5e-4 until epoch 8; seeds and scorer are not printed; ours: "
    "every arm has the task's schedule after its own warm-up: linear to zero in the small preset; in the full one the "
    "rate stays at its largest until the later of the warm-up's end and a tenth of the updates, K, then falls as "
    "sqrt(K / step); rates are the paper's; warm-ups are scaled, 4,000 being the task's own, but for De-En in full, "
    "which has the paper's and dropout 0.3"
)


def arm_of(placement: str, warmup: int, rate: float) -> PaperArm:
    """Return an arm of the paper."""
    return PaperArm(norm=NORM, placement=placement, warmup=warmup, learning_rate=rate)


def _bleu(name: str, arm: PaperArm, figure: float, where: str) -> Cell:
    warmup = "no warm-up" if arm.warmup == 0 else f"{arm.warmup:,} updates of warm-up"
    return Cell(
        id=f"{TASK}/{name}",
        tables=("figure2",),
        source=where,
        kind="value",
        says=f"{'Post' if arm.placement == 'post' else 'Pre'}-LN, {warmup}, rate {arm.learning_rate:g}",
        arm=arm,
        published=figure,
        printed=(figure,),
        **_SHARED,
    )


def _difference(name: str, says: str, arm: PaperArm, baseline: PaperArm, ours: float, where: str) -> Cell:
    return Cell(
        id=f"{TASK}/{name}",
        tables=("figure2",),
        source=where,
        kind="difference",
        says=says,
        arm=arm,
        baseline=baseline,
        published=round(ours - 34.0, 2),
        printed=(ours, 34.0),
        epsilon=READ_OFF,
        **_SHARED,
    )


_SHARED: dict = {
    "task": TASK,
    "stand_ins": ("multi30k_de_en", "iwslt14_de_en_sample"),
    "metric": BLEU,
    "differs": DIFFERS,
}
_NEVER: dict = {"task": TASK, "differs": DIFFERS}

_NONE, _SHORT = "Section 3.3 and Figure 2: 8.45", "Section 3.3 and Figure 2"
CELLS = (
    _bleu("post-none-1e-3", arm_of("post", 0, 1e-3), 8.45, f"{_NONE}; the rate is our reading"),
    _bleu("post-500-5e-4", arm_of("post", 500, 5e-4), 31.16, _SHORT),
    _bleu("post-500-1e-3", arm_of("post", 500, 1e-3), 2.77, _SHORT),
    _bleu("post-4000-1e-3", arm_of("post", LONGEST, 1e-3), 34.0, "Figure 2, about 34"),
    _bleu("pre-none-5e-4", arm_of("pre", 0, 5e-4), 34.0, "Figure 4, about 34"),
    _difference(
        "post-needs-warmup",
        "Post-LN needs warm-up: without \N{MINUS SIGN} with, rate 1e-3",
        arm_of("post", 0, 1e-3),
        arm_of("post", LONGEST, 1e-3),
        8.45,
        f"{_NONE} against about 34; the rate is our reading",
    ),
    _difference(
        "post-short-5e-4",
        "a short warm-up costs Post-LN: 500 \N{MINUS SIGN} 4,000 updates, rate 5e-4",
        arm_of("post", 500, 5e-4),
        arm_of("post", LONGEST, 5e-4),
        31.16,
        f"{_SHORT}: 31.16 against about 34",
    ),
    _difference(
        "post-short-1e-3",
        "a short warm-up ruins Post-LN: 500 \N{MINUS SIGN} 4,000 updates, rate 1e-3",
        arm_of("post", 500, 1e-3),
        arm_of("post", LONGEST, 1e-3),
        2.77,
        f"{_SHORT}: 2.77 against about 34",
    ),
    _difference(
        "pre-needs-none",
        "Pre-LN needs none: Pre-LN without \N{MINUS SIGN} Post-LN with warm-up, rate 5e-4",
        arm_of("pre", 0, 5e-4),
        arm_of("post", LONGEST, 5e-4),
        34.0,
        "Section 4 and Figure 4: both about 34",
    ),
    Cell(
        id=f"{TASK}/post-small-rate",
        tables=("figure2",),
        source="Section 3.3: about 4.3 after 27 epochs",
        kind="value",
        says="validation loss of Post-LN without warm-up at a constant rate of 1e-4",
        metric=LOSS,
        arm=arm_of("post", 0, 1e-4),
        published=4.3,
        printed=(4.3,),
        never_run="a study's arms share the schedule, and this one is constant",
        **_NEVER,
    ),
    Cell(
        id=f"{TASK}/post-sgd",
        tables=("figure2",),
        source="Section 3.3 and Figure 2: just above 0 BLEU in 15 epochs",
        kind="diverges",
        says="Post-LN by SGD without warm-up does not train",
        metric=BLEU,
        arm=arm_of("post", 0, 5e-3),
        baseline=arm_of("post", LONGEST, 1e-3),
        never_run="the arms of this reproduction are trained by Adam, and this one by SGD without momentum",
        **_NEVER,
    ),
    Cell(
        id="bert/updates",
        tables=("figure5",),
        source="Section 4, BERT: loss 1.69 after 500k and 700k updates; the text read gives them the wrong way round",
        kind="difference",
        says="updates that Pre-LN needs for the loss of Post-LN, in thousands",
        metric=Metric(name="updates to a loss of 1.69", unit="thousands", higher_is_better=False),
        arm=PaperArm(norm=NORM, placement="pre"),
        baseline=PaperArm(norm=NORM, placement="post"),
        published=-200.0,
        printed=(500.0, 700.0),
        task="bert",
        never_run="3.4 billion words and weeks of GPUs",
        differs="not tried",
    ),
)


def scaled(recipe: Recipe, warmup: int) -> int:
    """Scale a warm-up of the paper: 4,000 updates become those of the recipe.

    Raises:
        ValueError: If the warm-up of the recipe has fewer than eight updates and cannot be shortened.
    """
    if recipe.warmup < LONGEST // WARMUPS[1]:
        least = LONGEST // WARMUPS[1]
        raise ValueError(f"expected a recipe with at least {least} updates of warm-up, got {recipe.warmup}")
    return round(recipe.warmup * warmup / LONGEST)


def studies(task: str, setup: Setup) -> tuple[PaperStudy, ...]:
    """Build one study per learning rate: Post-LN and Pre-LN with three warm-ups each.

    The baseline is Post-LN with the full warm-up. The rates are those of the paper, and so are the warm-ups in the full
    preset of the paper's task; elsewhere they are :func:`scaled`.

    Raises:
        ValueError: If the preset is unknown, or its warm-up is too short to be scaled.
    """
    entry = TASKS[task]
    if setup.preset not in entry.presets:
        raise ValueError(f"preset must be one of {', '.join(entry.presets)}, got {setup.preset!r}")
    recipe = entry.presets[setup.preset]
    literal = task == TASK and setup.preset == "full"
    made = []
    for rate in RATES:
        wanted = [arm_of(placement, warmup, rate) for placement in ("post", "pre") for warmup in WARMUPS]
        looks, seeds = plan_looks(
            setup.seeds,
            setup.looks,
            until_decided=setup.until_decided,
            most=setup.max_seeds,
            spending=None,
            level=StudySpec.alpha / (len(wanted) - 1),
        )
        arms = tuple(
            Arm.parse(
                arm.norm,
                str(arm.placement),
                warmup=(arm.warmup or 0) if literal else scaled(recipe, arm.warmup or 0),
                learning_rate=rate,
            )
            for arm in wanted
        )
        spec = StudySpec(
            question=f"Does Post-LN need a warm-up on {task}, and Pre-LN not, at a rate of {rate:g}?",
            task=task,
            arms=arms,
            baseline=wanted.index(arm_of("post", LONGEST, rate)),
            margin=entry.margin,
            seeds=seeds,
            looks=looks,
            steps=recipe.steps if setup.steps is None else setup.steps,
            preset=setup.preset,
            precision=setup.precision,
            device=setup.device,
            compile=setup.compile,
        )
        name = f"{task}-rate-{rate:g}"
        made.append(PaperStudy(name=name, spec=spec, labels=dict(zip(wanted, spec.labels(), strict=True))))
    return tuple(made)


XIONG2020 = Paper(
    name="xiong2020",
    title="Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745",
    cells=CELLS,
    counts=(),
    studies=studies,
    stand_ins={
        "multi30k_de_en": "29,000 image captions in place of 153,000 sentences of talks, and a smaller network",
        "iwslt14_de_en_sample": "trained on 8,627 of the 160,239 pairs, by a smaller network",
    },
    figures={"gradients": "Figure 3: gradient norms of the feed-forward matrices at initialization, 6-6 to 14-14"},
)
