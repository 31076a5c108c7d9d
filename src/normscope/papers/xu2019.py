"""Xu, Sun, Zhang, Zhao, Lin (2019): what their three tables say, and the studies that try it.

The figures are those of the authors' poster, which prints one figure a cell, without seeds or a spread. They stand
beside the tasks, as ``published``, and are read from there.
"""

from normscope.catalogue import TASKS
from normscope.papers.cell import Cell, Count, Paper, PaperArm, Setup, Study
from normscope.papers.xu2019_settings import DIFFERS, EXAMPLES, RELEASED, STAND_IN_WORDS, STAND_INS
from normscope.study import make_card
from normscope.tasks.task import Metric

NORMS = ("none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm")
"""The rows of the tables."""

NAMES = {
    "none": "w/o Norm",
    "layer_norm": "LayerNorm",
    "layer_norm_simple": "LayerNorm-simple",
    "detach_norm": "DetachNorm",
    "ada_norm": "AdaNorm",
}
"""As the paper writes them."""

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
"""The poster's, in its order, by task."""

PAIRS = {
    ("none", "layer_norm"): (("table1",), "Table 1, by subtraction"),
    ("layer_norm_simple", "layer_norm"): (("table1",), "Table 1, by subtraction"),
    ("detach_norm", "none"): (("table2",), "Table 2, printed as an improvement"),
    ("layer_norm_simple", "detach_norm"): (("table2",), "Table 2, printed as an improvement"),
    ("ada_norm", "layer_norm"): (("table3",), "Table 3, by subtraction; stated in the text for most sets"),
}
"""Which differences the paper speaks of, and where."""

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
    """Give the poster's column of a task by norm, as it stands beside the task; None where the run diverges.

    Raises:
        LookupError: If the task has no such column.
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
    found = []
    for task in COLUMNS:
        column = figures(task)
        found += [_value(norm, task, figure) for norm, figure in column.items()]
        for arm, baseline in PAIRS:
            ours, theirs = column[arm], column[baseline]
            if ours is not None and theirs is not None:
                found.append(_difference(arm, baseline, task, ours, theirs))
    return tuple(found)


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


def studies(task: str, setup: Setup) -> tuple[Study, ...]:
    """Write the card of a task: the five rows, paired, LayerNorm the baseline, the placement the task's own.

    With ``norms_at="final"`` De-En and its stand-ins replace the final norms alone, as the released code does, in a
    study of their own; the other tasks, whose code is not released, stay the same.
    """
    final = setup.norms_at == "final" and task in RELEASED
    norms = [norm if norm == "layer_norm" or not final else f"layer_norm+{norm}:final" for norm in NORMS]
    card = make_card(
        task,
        norms=norms,
        seeds=setup.seeds,
        steps=setup.steps,
        preset=setup.preset,
        precision=setup.precision,
        device=setup.device,
        compile=setup.compile,
        question=f"Do the differences of Xu et al. (2019) appear on {task}{' at the final norms' if final else ''}?",
    )
    labels = dict(zip([PaperArm(norm=norm) for norm in NORMS], card.labels(), strict=True))
    name = f"{task}-final" if final else task
    return (Study(name=name, card=card, labels=labels, norms_at="final" if final else "all"),)


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
