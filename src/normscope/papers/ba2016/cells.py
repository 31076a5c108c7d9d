"""The results of the experiments of Ba et al. (2016), sections 6.1 to 6.7, as data.

Every cell of Tables 2 and 3, the two bounds of DRAW, what can be read off Figure 6, and every sentence that says that
training is faster. Figures of runs of other papers, which the tables repeat, are there and are not run.
"""

from typing import Any

from normscope.papers.ba2016.settings import (
    ACCURACY,
    BN,
    BN_EVERYWHERE,
    BN_UNBIASED,
    ERROR,
    LN,
    MEAN_RECALL,
    NATS,
    PER_POINT,
    PLAIN,
    READ_OFF,
    make_cell,
    make_faster,
    name_arm,
)
from normscope.papers.ba2016.tables import table2, table3
from normscope.papers.judging.cell import Cell, PaperArm
from normscope.tasks.task import Metric


def _reader() -> list[Cell]:
    where = "Section 6.2 and Figure 2: "
    sentence = (
        "not only trains faster but converges to a better validation result over both the baseline and BN variants"
    )
    shared: dict[str, Any] = {"tables": ("figure2",), "metric": ACCURACY, "source": f"{where}'{sentence}'"}
    others = {"LSTM": PLAIN, "BN-LSTM": BN, "BN everywhere": BN_EVERYWHERE}
    cells = []
    for name, baseline in others.items():
        cells += [
            make_faster("cnn_cloze", f"the reader with LN-LSTM trains faster than with {name}", LN, baseline, **shared),
            make_cell(
                "difference",
                "cnn_cloze",
                f"layer_norm-{name_arm(baseline)}",
                f"the reader with LN-LSTM reaches a better accuracy than with {name}",
                LN,
                baseline=baseline,
                **shared,
            ),
        ]
    cells.append(
        make_cell(
            "difference",
            "cnn_cloze",
            "gain-1-gain-0.1",
            "the reader with LN-LSTM is better with initial gains of 1.0 than of 0.1",
            LN,
            baseline=PaperArm(norm="layer_norm", variant="gain_0.1"),
            never_run="no norm here takes an initial gain",
            **{**shared, "source": "Section 6.2: 'the former model performed significantly better'"},
        )
    )
    return cells


def _draw() -> list[Cell]:
    shared: dict[str, Any] = {"tables": ("section6.4",), "metric": NATS}
    figures = {"baseline": (PLAIN, 82.36), "layer-norm": (LN, 82.09)}
    where = "Section 6.4, after 200 epochs"
    return [
        *(
            make_cell(
                "value",
                "draw_mnist",
                name,
                f"DRAW, {name.replace('-', ' ')}: test bound",
                arm,
                source=where,
                published=value,
                printed=(value,),
                **shared,
            )
            for name, (arm, value) in figures.items()
        ),
        make_cell(
            "difference",
            "draw_mnist",
            "layer_norm-none",
            "DRAW with LN \N{MINUS SIGN} without: test bound",
            LN,
            baseline=PLAIN,
            source=f"{where}, by subtraction",
            published=-0.27,
            printed=(82.09, 82.36),
            **shared,
        ),
        make_faster(
            "draw_mnist",
            "DRAW with LN converges almost twice as fast",
            LN,
            PLAIN,
            source="Section 6.4 and Figure 4: 'converges almost twice as fast than the baseline model'",
            published=0.5,
            **shared,
        ),
    ]


def _handwriting() -> list[Cell]:
    shared: dict[str, Any] = {"tables": ("figure5",), "metric": PER_POINT}
    shared["source"] = (
        "Section 6.5 and Figure 5: 'a comparable log likelihood as the baseline model but is much faster'"
    )
    return [
        make_faster("iam_ondb", "handwriting with LN converges much faster", LN, PLAIN, **shared),
        make_cell(
            "difference",
            "iam_ondb",
            "layer_norm-none",
            "handwriting with and without LN reaches comparable log-likelihoods",
            LN,
            baseline=PLAIN,
            published=0.0,
            **shared,
        ),
    ]


def _mnist() -> list[Cell]:
    cells = []
    batches: dict[str, tuple[int, PaperArm, dict[PaperArm, float]]] = {
        "mnist_mlp": (128, BN, {PLAIN: 1.5, LN: 1.3, BN: 1.35}),
        "mnist_mlp_batch4": (4, BN_UNBIASED, {PLAIN: 1.55, LN: 1.45, BN_UNBIASED: 2.0}),
    }
    names = {PLAIN: "no norm", LN: "LN", BN: "BN", BN_UNBIASED: "BN"}
    for task, (size, batch_norm, figures) in batches.items():
        shared: dict[str, Any] = {"tables": ("figure6",), "metric": ERROR, "examples": 10_000}
        where = f"Figure 6, batch {size}, read off the plot to 0.1"
        cells += [
            make_cell(
                "value",
                task,
                name_arm(arm),
                f"MNIST at batch {size}, {names[arm]}: test error",
                arm,
                source=where,
                published=value,
                printed=(value,),
                **shared,
            )
            for arm, value in figures.items()
        ]
        cells += [
            make_cell(
                "difference",
                task,
                f"layer_norm-{name_arm(baseline)}",
                f"MNIST at batch {size}, LN \N{MINUS SIGN} {names[baseline]}: test error",
                LN,
                baseline=baseline,
                source=f"{where}, by subtraction",
                published=round(figures[LN] - figures[baseline], 2),
                printed=(figures[LN], figures[baseline]),
                epsilon=READ_OFF,
                **shared,
            )
            for baseline in (PLAIN, batch_norm)
        ]
        cells.append(
            make_faster(
                task,
                f"MNIST at batch {size}: LN trains faster than BN",
                LN,
                batch_norm,
                source="Section 6.6: 'a faster training convergence comparing to batch normalization'",
                **shared,
            )
        )
    cells.append(
        make_cell(
            "value",
            "mnist_mlp",
            "layer_norm-train",
            "MNIST at batch 128, LN: training loss below 1e-7 near epoch 32",
            LN,
            tables=("figure6",),
            source="Figure 6, read off the plot",
            metric=Metric(name="training loss", unit="nats", higher_is_better=False),
            published=1e-7,
            printed=(1e-7,),
            never_run="the loss over all training images is not recorded, only that of the batches",
        )
    )
    return cells


def _convnets() -> list[Cell]:
    shared: dict[str, Any] = {"tables": ("section6.7",), "metric": ACCURACY}
    where = "Section 6.7, preliminary: "
    outperforms = f"{where}'batch normalization outperforms the other methods'"
    return [
        make_faster(
            "cifar10",
            "a ConvNet with LN trains faster than without",
            LN,
            PLAIN,
            source=f"{where}'a speedup over the baseline model'",
            **shared,
        ),
        *(
            make_cell(
                "difference",
                "cifar10",
                f"batch_norm-{name_arm(baseline)}",
                f"a ConvNet with BN is better than {words}",
                BN,
                baseline=baseline,
                source=outperforms,
                **shared,
            )
            for baseline, words in ((PLAIN, "without a norm"), (LN, "with LN"))
        ),
    ]


CELLS = (
    *table2(),
    make_faster(
        "coco_order",
        "OE + LN reaches its best validation figures in 60 % of the time of OE",
        LN,
        PLAIN,
        MEAN_RECALL,
        tables=("figure1",),
        source="Section 6.1 and Figure 1: 'its best validation model in 60% of the time it takes the baseline model'",
        published=0.6,
    ),
    *_reader(),
    *table3(),
    make_faster(
        "book_corpus_skip_thoughts",
        "skip-thoughts with LN train faster",
        LN,
        PLAIN,
        ACCURACY,
        tables=("figure3",),
        source="Section 6.3 and Figure 3: 'both in speedup over the baseline as well as better final results'",
    ),
    *_draw(),
    *_handwriting(),
    *_mnist(),
    *_convnets(),
)
"""All results, in the order of the paper."""
