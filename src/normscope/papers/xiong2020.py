"""Xiong, Yang, He, Zheng, … (2020): does Post-LN need a warm-up, and how large are gradients at initialization."""

from collections.abc import Sequence

from normscope.catalogue import TASKS
from normscope.papers.cell import Paper, PaperArm, Setup, Study
from normscope.papers.xiong2020_cells import CELLS, LONGEST, RATES, TASK, WARMUPS, arm_of
from normscope.study import Arm, Card
from normscope.tasks import Recipe


def scaled(recipe: Recipe, warmup: int, rate: float) -> tuple[int, float]:
    """Give our warm-up and learning rate for the paper's, which are 4,000 and 1e-3 where ours are the recipe's.

    Raises:
        ValueError: If the recipe has no warm-up of at least eight updates to be shortened.
    """
    if recipe.warmup < LONGEST // WARMUPS[1]:
        least = LONGEST // WARMUPS[1]
        raise ValueError(f"expected a recipe with at least {least} updates of warm-up, got {recipe.warmup}")
    return round(recipe.warmup * warmup / LONGEST), recipe.learning_rate * rate / max(RATES)


def studies(task: str, setup: Setup) -> tuple[Study, ...]:
    """Write a card for either learning rate: Post-LN and Pre-LN with three warm-ups each.

    The baseline is Post-LN with the full warm-up. At the paper's own task in full, warm-ups and rates are the paper's;
    elsewhere they are :func:`scaled`.

    Raises:
        ValueError: If the preset is unknown, or has no warm-up to be scaled.
    """
    entry = TASKS[task]
    if setup.preset not in entry.presets:
        raise ValueError(f"preset must be one of {', '.join(entry.presets)}, got {setup.preset!r}")
    recipe = entry.presets[setup.preset]
    literal = task == TASK and setup.preset == "full"
    made = []
    for rate in RATES:
        wanted = [arm_of(placement, warmup, rate) for placement in ("post", "pre") for warmup in WARMUPS]
        ours = [(warmup, rate) if literal else scaled(recipe, warmup, rate) for _, warmup in _settings(wanted)]
        arms = tuple(
            Arm(norm=arm.norm, placement=str(arm.placement), warmup=warmup, learning_rate=own)
            for arm, (warmup, own) in zip(wanted, ours, strict=True)
        )
        card = Card(
            question=f"Does Post-LN need a warm-up on {task}, and Pre-LN not, at a rate of {ours[0][1]:g}?",
            task=task,
            arms=arms,
            baseline=wanted.index(arm_of("post", LONGEST, rate)),
            margin=entry.margin,
            seeds=setup.seeds,
            steps=recipe.steps if setup.steps is None else setup.steps,
            preset=setup.preset,
            precision=setup.precision,
            device=setup.device,
            compile=setup.compile,
        )
        name = f"{task}-rate-{ours[0][1]:g}"
        made.append(Study(name=name, card=card, labels=dict(zip(wanted, card.labels(), strict=True))))
    return tuple(made)


def _settings(arms: Sequence[PaperArm]) -> list[tuple[str, int]]:
    return [(str(arm.placement), arm.warmup or 0) for arm in arms]


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
