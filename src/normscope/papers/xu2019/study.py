"""Xu, Sun, Zhang, Zhao, Lin (2019): the results of their three tables, and the studies that reproduce them.

The figures are those of the authors' poster, which prints one figure per cell, without seeds or a spread. They are
declared with the tasks, as ``published``.
"""

from normscope.papers.judging.cell import Cell, Count, Paper, PaperArm, PaperStudy, Setup
from normscope.studies.spec import make_study
from normscope.tasks import TASKS
from normscope.tasks.task import Metric

STAND_INS = {
    "wmt14_en_de": ("wmt_en_de_10k",),
    "iwslt14_de_en": ("multi30k_de_en", "iwslt14_de_en_sample"),
    "iwslt15_en_vi": ("evbnews_en_vi",),
    "enwik8": ("enwiki_small",),
    "ptb": ("ud_ewt",),
}

STAND_IN_WORDS = {
    "wmt_en_de_10k": "trained on 10,000 of the 4.5 million pairs",
    "iwslt14_de_en_sample": "trained on 8,627 of the 160,239 pairs",
    "multi30k_de_en": "29,000 image captions in place of 153,000 sentences of talks",
    "evbnews_en_vi": "trained on 43,286 pairs of news in place of 133,000 of talks",
    "enwiki_small": "6.1 MB of a later Wikipedia in place of 100 MB",
    "ud_ewt": "the English Web Treebank, its own labels and tags, in place of the Penn Treebank",
}

RELEASED = ("iwslt14_de_en", "multi30k_de_en", "iwslt14_de_en_sample")
"""De-En and its stand-ins: tasks on which only the two final norms of 32 can be replaced, as in the released code."""

_PLACEMENT = "the placement is not printed, ours is Pre-LN"
_TRANSLATION = (
    f"6+6 layers; {_PLACEMENT}; vocabulary, batch, rate, dropout, steps and C are not printed; neither are the "
    "checkpoint that is tested and the scorer"
)
DIFFERS = {
    "wmt14_en_de": _TRANSLATION,
    "iwslt14_de_en": (
        "released code: Pre-LN, 6+6 layers, width 512, dropout 0.3, AdamW, 8,000 updates of warm-up, best checkpoint, "
        "beam 5, C = 1 or 2, statistics with n - 1 and eps outside the root, and a flag that reaches 2 norms of 32, "
        "the final ones, where the paper says all; ours: n, eps inside, C = 1, in full the mean of the last five looks "
        "in place of the best one, all norms or, with --norms-at final, those two; the scorer is not printed"
    ),
    "iwslt15_en_vi": _TRANSLATION,
    "enwik8": f"12-layer Transformer-XL; {_PLACEMENT}; width, rate, batch, steps and C are not printed",
    "rt": (
        f"4-layer encoder; {_PLACEMENT}; width, dropout, optimizer, test split and C are not printed; ours: a fixed "
        "tenth, C = 1"
    ),
    "sst5": (
        f"4-layer encoder; {_PLACEMENT}; width, dropout, optimizer and C are not printed, nor if phrases train; ours: "
        "sentences"
    ),
    "mnist_cnn": "3-layer CNN; channels, pooling, optimizer, epochs and C are not printed",
    "ptb": "3-layer MLP parser; sections, features, width, optimizer and C are not printed",
}

EXAMPLES = {
    "rt": (1066, "a tenth of RT, our test side; the paper's split is not printed"),
    "sst5": (2210, ""),
    "mnist_cnn": (10_000, ""),
    "ptb": (
        56_684,
        "words of section 23, the usual test side, which the paper does not name; words are not independent",
    ),
}


NORMS = ("none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm")
"""Norms in the rows of the tables."""

NAMES = {
    "none": "w/o Norm",
    "layer_norm": "LayerNorm",
    "layer_norm_simple": "LayerNorm-simple",
    "detach_norm": "DetachNorm",
    "ada_norm": "AdaNorm",
}
"""Names of the norms in the paper."""

COLUMNS = {
    "wmt14_en_de": "En-De",
    "iwslt14_de_en": "De-En",
    "iwslt15_en_vi": "En-Vi",
    "enwik8": "Enwiki8",
    "rt": "RT",
    "sst5": "SST5",
    "mnist_cnn": "MNIST",
    "ptb": "PTB",
}
"""Columns of the poster, in its order, by task."""

PAIRS = {
    ("none", "layer_norm"): (("table1",), "Table 1, by subtraction"),
    ("layer_norm_simple", "layer_norm"): (("table1",), "Table 1, by subtraction"),
    ("detach_norm", "none"): (("table2",), "Table 2, printed as an improvement"),
    ("layer_norm_simple", "detach_norm"): (("table2",), "Table 2, printed as an improvement"),
    ("ada_norm", "layer_norm"): (("table3",), "Table 3, by subtraction; stated in the text for most sets"),
}
"""Differences that the paper discusses: arm and baseline, with tables and source."""

PRINTED_IN = {
    "none": ("table1", "table2", "table3"),
    "layer_norm": ("table1", "table3"),
    "layer_norm_simple": ("table1", "table2", "table3"),
    "detach_norm": ("table2",),
    "ada_norm": ("table3",),
}

BLEU = Metric(name="test BLEU", unit="BLEU", higher_is_better=True, aggregate="bleu")
ACCURACY = Metric(name="test accuracy", unit="%", higher_is_better=True)
METRICS = {
    "wmt14_en_de": BLEU,
    "iwslt14_de_en": BLEU,
    "iwslt15_en_vi": BLEU,
    "enwik8": Metric(name="test bits per character", unit="bpc", higher_is_better=False),
    "rt": ACCURACY,
    "sst5": ACCURACY,
    "mnist_cnn": ACCURACY,
    "ptb": Metric(name="test UAS", unit="%", higher_is_better=True),
}


def figures(task: str) -> dict[str, float | None]:
    """Return the column of a task on the poster by norm; None if the run diverges.

    Raises:
        LookupError: If the task does not have this column exactly once.
    """
    columns = [each.rows for each in TASKS[task].published if each.source.startswith("Xu et al. (2019)")]
    if len(columns) != 1:
        raise LookupError(f"{task} should have the figures of Xu et al. (2019) beside it once, it has {len(columns)}")
    return {norm: columns[0].get(norm) for norm in NORMS}


def _value(norm: str, task: str, figure: float | None) -> Cell:
    return Cell(
        id=f"{task}/{norm}",
        tables=PRINTED_IN[norm],
        source=f"Tables {', '.join(name.removeprefix('table') for name in PRINTED_IN[norm])}, {COLUMNS[task]} (poster)",
        kind="diverges" if figure is None else "value",
        says=f"{NAMES[norm]} on {COLUMNS[task]}" + (" diverges" if figure is None else ""),
        arm=PaperArm(norm=norm),
        baseline=PaperArm(norm="layer_norm") if figure is None else None,
        published=figure,
        printed=() if figure is None else (figure,),
        **_shared(task),
    )


def _difference(arm: str, baseline: str, task: str, ours: float, theirs: float) -> Cell:
    tables, source = PAIRS[arm, baseline]
    return Cell(
        id=f"{task}/{arm}-{baseline}",
        tables=tables,
        source=f"{source}, {COLUMNS[task]} (poster)",
        kind="difference",
        says=f"{NAMES[arm]} \N{MINUS SIGN} {NAMES[baseline]} on {COLUMNS[task]}",
        arm=PaperArm(norm=arm),
        baseline=PaperArm(norm=baseline),
        published=round(ours - theirs, 2),
        printed=(ours, theirs),
        **_shared(task),
    )


def _shared(task: str) -> dict:
    examples, note = EXAMPLES.get(task, (None, ""))
    return {
        "task": task,
        "stand_ins": STAND_INS.get(task, ()),
        "metric": METRICS[task],
        "examples": examples,
        "examples_note": note,
        "differs": DIFFERS[task],
    }


def _cells() -> tuple[Cell, ...]:
    cells = []
    for task in COLUMNS:
        column = figures(task)
        cells += [_value(norm, task, figure) for norm, figure in column.items()]
        for arm, baseline in PAIRS:
            ours, theirs = column[arm], column[baseline]
            if ours is not None and theirs is not None:
                cells.append(_difference(arm, baseline, task, ours, theirs))
    return tuple(cells)


def _across(pair: str) -> tuple[str, ...]:
    return tuple(f"{task}/{pair}" for task in COLUMNS)


COUNTS = (
    Count(
        id="simple-better",
        tables=("table1",),
        source="Table 1 and its text",
        says="LayerNorm-simple is better than LayerNorm on 4 of 8 data sets",
        cells=_across("layer_norm_simple-layer_norm"),
        wanted=(1,),
        published=4,
        ties=2,
    ),
    Count(
        id="simple-no-worse",
        tables=("table1",),
        source="Table 1 and its text",
        says="LayerNorm-simple is not worse than LayerNorm on 6 of 8 data sets",
        cells=_across("layer_norm_simple-layer_norm"),
        wanted=(0, 1),
        published=6,
        ties=2,
    ),
    Count(
        id="detach-worse",
        tables=("table2",),
        source="Table 2; on En-De DetachNorm diverges",
        says="DetachNorm is worse than LayerNorm-simple on 6 of 8 data sets",
        cells=("wmt14_en_de/detach_norm", *_across("layer_norm_simple-detach_norm")[1:]),
        wanted=(1,),
        published=6,
    ),
    Count(
        id="ada-better",
        tables=("table3",),
        source="Table 3 and the abstract",
        says="AdaNorm is better than LayerNorm on 7 of 8 data sets",
        cells=_across("ada_norm-layer_norm"),
        wanted=(1,),
        published=7,
        ties=1,
    ),
)


def studies(task: str, setup: Setup) -> tuple[PaperStudy, ...]:
    """Build the study of a task: the norms of the five rows, with LayerNorm as baseline and the task's placement.

    With ``norms_at="final"``, De-En and its stand-ins replace only the final norms, as the released code does, in a
    separate study; the other tasks, whose code is not released, are unchanged. With ``without_norms``, the row "w/o
    Norm" is the network with that placement, and the plain one is a further arm.
    """
    final = setup.norms_at == "final" and task in RELEASED
    norms = [norm if norm == "layer_norm" or not final else f"layer_norm+{norm}:final" for norm in NORMS]
    chosen = "" if final else setup.without_norms
    spec = make_study(
        task,
        norms=norms,
        placements=[TASKS[task].placements[0], chosen] if chosen else (),
        tune=setup.tune,
        seeds=setup.seeds,
        looks=setup.looks,
        until_decided=setup.until_decided,
        max_seeds=setup.max_seeds,
        steps=setup.steps,
        preset=setup.preset,
        precision=setup.precision,
        device=setup.device,
        compile=setup.compile,
        question=f"Do the differences of Xu et al. (2019) appear on {task}{' at the final norms' if final else ''}?",
    )
    plain = dict(zip([PaperArm(norm=norm) for norm in NORMS], spec.labels()[: len(NORMS)], strict=True))
    labels = {**plain, PaperArm(norm="none"): spec.labels()[-1]} if chosen else plain
    name = task + "-final" * final + "-tuned" * setup.tune
    beside = plain if chosen else {}
    return (PaperStudy(name=name, spec=spec, labels=labels, plain=beside, norms_at="final" if final else "all"),)


XU2019 = Paper(
    name="xu2019",
    title="Xu, Sun, Zhang, Zhao, Lin (2019). Understanding and improving layer normalization. arXiv:1911.07013",
    cells=_cells(),
    counts=COUNTS,
    studies=studies,
    stand_ins=STAND_IN_WORDS,
    figures={},
    norms_at=("all", "final"),
)
