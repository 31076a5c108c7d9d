"""Tables 2 and 3 of Ba et al. (2016): order embeddings and skip-thoughts, cell by cell."""

from typing import Any

from normscope.papers.ba2016.settings import (
    A_MONTH,
    CORRELATIONS,
    LN,
    OF_ANOTHER_PAPER,
    PLAIN,
    RANK,
    RANKS,
    RECALL,
    make_cell,
)
from normscope.papers.judging.cell import Cell, PaperArm
from normscope.tasks.task import Metric

TABLE2_ROWS = {
    "sym": ("Sym (Vendrov et al. 2016)", (45.4, None, 88.7, 5.8, 36.3, None, 85.8, 9.0)),
    "oe-vendrov": ("OE (Vendrov et al. 2016)", (46.7, None, 88.9, 5.7, 37.9, None, 85.9, 8.1)),
    "oe": ("OE (ours)", (46.6, 79.3, 89.1, 5.2, 37.8, 73.6, 85.7, 7.9)),
    "oe-ln": ("OE + LN", (48.5, 80.6, 89.8, 5.1, 38.9, 74.3, 86.3, 7.6)),
}
"""Rows of Table 2: four figures of the retrieval of captions, then four of the retrieval of images."""

TABLE2_COLUMNS = tuple(
    f"{sought} {figure}" for sought in ("caption", "image") for figure in ("R@1", "R@5", "R@10", "mean rank")
)
"""Columns of Table 2 by the names of the scores of ``coco_order``."""


def table2() -> list[Cell]:
    """Return all figures of Table 2, and the differences of its two rows that are the paper's own."""
    cells = []
    for number, column in enumerate(TABLE2_COLUMNS):
        sought, _, figure = column.partition(" ")
        is_rank = figure == "mean rank"
        shared: dict[str, Any] = {
            "tables": ("table2",),
            "metric": Metric(name=column, unit=RANK if is_rank else RECALL, higher_is_better=not is_rank),
            "measure": column,
            # Among 1,000 images; the best of five captions of an image has a better rank by chance, which is left out.
            "chance": 500.5 if is_rank else float(figure[2:]) / 10,
            "epsilon": RANKS if is_rank else None,
            "examples": None if is_rank else 5000 if sought == "caption" else 25_000,
            "examples_note": "" if is_rank else "five splits of 1,000 images with five captions each",
        }
        slug = column.replace(" ", "-").replace("@", "")
        for row, (title, figures) in TABLE2_ROWS.items():
            value = figures[number]
            if value is None:
                continue
            copied = row in ("sym", "oe-vendrov")
            arm = PaperArm(norm="none", variant="symmetric" if row == "sym" else None)
            cells.append(
                make_cell(
                    "value",
                    "coco_order",
                    f"{row}/{slug}",
                    f"{title}: {column}",
                    LN if row == "oe-ln" else arm,
                    source=f"Table 2, {title}",
                    published=value,
                    printed=(value,),
                    never_run=OF_ANOTHER_PAPER if copied else "",
                    **shared,
                )
            )
        ours, theirs = TABLE2_ROWS["oe-ln"][1][number], TABLE2_ROWS["oe"][1][number]
        assert ours is not None
        assert theirs is not None
        cells.append(
            make_cell(
                "difference",
                "coco_order",
                f"oe-ln-oe/{slug}",
                f"OE + LN \N{MINUS SIGN} OE: {column}",
                LN,
                baseline=PLAIN,
                source="Table 2, by subtraction; 'improves' in the text",
                published=round(ours - theirs, 2),
                printed=(ours, theirs),
                **shared,
            )
        )
    return cells


TABLE3_ROWS = {
    "original": ("Original (Kiros et al. 2015)", (0.848, 0.778, 0.287, 75.5, 79.3, 92.1, 86.9)),
    "ours": ("Ours", (0.842, 0.767, 0.298, 77.3, 81.8, 92.6, 87.9)),
    "ours-ln": ("Ours + LN", (0.854, 0.785, 0.277, 79.5, 82.6, 93.4, 89.0)),
    "ours-ln-dagger": ("Ours + LN, a month", (0.858, 0.788, 0.270, 79.4, 83.1, 93.7, 89.3)),
}
"""Rows of Table 3."""

TABLE3_COLUMNS: dict[str, tuple[str, bool, float, int | None]] = {
    "SICK r": ("correlation", True, 0.0, None),
    "SICK rho": ("correlation", True, 0.0, None),
    "SICK MSE": ("squared points", False, 1.02, None),
    "MR": ("%", True, 50.0, 10_662),
    "CR": ("%", True, 63.8, 3_775),
    "SUBJ": ("%", True, 50.0, 10_000),
    "MPQA": ("%", True, 68.8, 10_606),
}
"""Columns of Table 3 by the names of the measures: unit, direction, chance (the mean, or the largest class), size."""


def table3() -> list[Cell]:
    """Return all figures of Table 3, and the differences after a million updates with and without layer norm."""
    task, cells = "book_corpus_skip_thoughts", []
    for number, (column, (unit, higher, chance, examples)) in enumerate(TABLE3_COLUMNS.items()):
        shared: dict[str, Any] = {
            "tables": ("table3",),
            "metric": Metric(name=column, unit=unit, higher_is_better=higher),
            "measure": column,
            "chance": chance,
            "epsilon": None if unit == "%" else CORRELATIONS,
            "examples": examples,
            "examples_note": "" if examples is None else "all, by cross-validation",
        }
        slug = column.replace(" ", "-")
        reasons = {"original": OF_ANOTHER_PAPER, "ours-ln-dagger": A_MONTH}
        for row, (title, figures) in TABLE3_ROWS.items():
            cells.append(
                make_cell(
                    "value",
                    task,
                    f"{row}/{slug}",
                    f"{title}: {column}",
                    LN if "ln" in row else PaperArm(norm="none", variant="conditioned" if row == "original" else None),
                    source=f"Table 3, {title}",
                    published=figures[number],
                    printed=(figures[number],),
                    never_run=reasons.get(row, ""),
                    **shared,
                )
            )
        ours, theirs = TABLE3_ROWS["ours-ln"][1][number], TABLE3_ROWS["ours"][1][number]
        cells.append(
            make_cell(
                "difference",
                task,
                f"ours-ln-ours/{slug}",
                f"Ours + LN \N{MINUS SIGN} Ours: {column}",
                LN,
                baseline=PLAIN,
                source="Table 3, by subtraction",
                published=round(ours - theirs, 3),
                printed=(ours, theirs),
                **shared,
            )
        )
    return cells
