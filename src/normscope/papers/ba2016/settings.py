"""What the experiments of Ba et al. (2016) share: arms, stand-ins, departures, metrics, and how a cell is written."""

from typing import Any, Literal

from normscope.papers.judging.cell import Cell, Epsilon, PaperArm
from normscope.tasks.task import Metric

LN, PLAIN, BN = PaperArm(norm="layer_norm"), PaperArm(norm="none"), PaperArm(norm="batch_norm")
BN_EVERYWHERE = PaperArm(norm="batch_norm", variant="everywhere")
BN_UNBIASED = PaperArm(norm="batch_norm(unbiased=True)")

STAND_INS = {
    "coco_order": ("multi30k_order",),
    "cnn_cloze": ("novels_cloze",),
    "book_corpus_skip_thoughts": ("novels_skip_thoughts",),
    "iam_ondb": ("omniglot_strokes", "kanji_strokes"),
    "cifar10": ("cifar10_part", "mnist_cnn"),
}

STAND_IN_WORDS = {
    "multi30k_order": "29,000 images that are known by their German descriptions in place of 113,287 with VGG features",
    "novels_cloze": "a missing word among ten candidates in eleven novels in place of entities in 380,000 questions",
    "novels_skip_thoughts": "eleven novels in place of 11,038 books",
    "omniglot_strokes": "30,000 drawn characters, without a text to condition on, in place of 12,179 lines",
    "kanji_strokes": "10,000 drawn kanji, without a text to condition on, in place of 12,179 lines",
    "cifar10_part": "22,500 JPEG images; the paper does not say what its ConvNets were trained on",
    "mnist_cnn": "MNIST; the paper does not say what its ConvNets were trained on",
}

DIFFERS = {
    "coco_order": (
        "settings are those of Vendrov et al. and not printed; their code: GRU of 1,024 units, margin 0.05, batch 128, "
        "Adam at 1e-3 without bias correction, each parameter's gradient clipped to 2; the mean of five test splits of "
        "one run; its 60 % are of the times to each model's own best, validated every 300 updates; ours: the time to "
        "the baseline's best mean of six recalls; in full the same settings, Adam corrected"
    ),
    "cnn_cloze": (
        "only curves of the validation error are printed (Figure 2), those with batch norm from Cooijmans et al.; "
        "hyper-parameters, seeds and test figures are not; ours: test accuracy, and validation accuracy for speed"
    ),
    "book_corpus_skip_thoughts": (
        "hyper-parameters are those of Kiros et al. (2015); one run, after 1M updates, with error bars over the folds "
        "alone; ours: SICK by a penalized regression, and a target that is nats per word, where the paper plots the "
        "seven tasks"
    ),
    "draw_mnist": (
        "one run; learning rate 'default'; the bound after 200 epochs; ours: the small preset is smaller and shorter"
    ),
    "iam_ondb": "only curves are printed (Figure 5): no figure, no seeds, learning rate or split",
    "mnist_mlp": (
        "65 epochs; learning rate and seeds are not printed; batch norm on the logits, too; figures read off Figure 6"
    ),
    "mnist_mlp_batch4": (
        "65 epochs; learning rate and seeds are not printed; batch norm on the logits, too; figures read off Figure 6"
    ),
    "cifar10": "preliminary, in words: data, network, optimizer and figures are not printed; ours: four convolutions",
}

RECALL, RANK = "%", "rank"
NATS = Metric(name="test bound", unit="nats", higher_is_better=False)
PER_POINT = Metric(name="test negative log-likelihood", unit="nats/point", higher_is_better=False, aggregate="ratio")
ERROR = Metric(name="test error", unit="%", higher_is_better=False)
ACCURACY = Metric(name="test accuracy", unit="%", higher_is_better=True)
MEAN_RECALL = Metric(name="mean recall", unit="%", higher_is_better=True, aggregate="retrieval")

OF_ANOTHER_PAPER = "the figure of another paper, repeated in the table"
A_MONTH = "a run of a month, with 1.7 million updates"
RANKS = Epsilon(value=0.5, reason="half a rank, our margin")
CORRELATIONS = Epsilon(value=0.005, reason="0.005 of a correlation or of a squared point, our margin")
READ_OFF = Epsilon(value=0.14, reason="two errors read off a plot, to 0.1 points each")

Kind = Literal["value", "difference", "faster"]


def make_cell(kind: Kind, task: str, name: str, says: str, arm: PaperArm, **given: Any) -> Cell:
    """Build a cell of an experiment, with its stand-ins and departures.

    Args:
        kind: Kind of the cell.
        task: Task of the paper.
        name: What follows the task in the cell's id.
        says: Claim in words.
        arm: Arm of the paper.
        **given: The remaining fields.
    """
    shared = {"stand_ins": STAND_INS.get(task, ()), "differs": DIFFERS[task]}
    return Cell(id=f"{task}/{name}", kind=kind, task=task, says=says, arm=arm, **{**shared, **given})


def make_faster(task: str, says: str, arm: PaperArm, baseline: PaperArm, metric: Metric, **given: Any) -> Cell:
    """Build a claim that an arm is faster than a baseline.

    Args:
        task: Task of the paper.
        says: Claim in words.
        arm: Arm of the paper.
        baseline: Arm that is claimed to be slower.
        metric: Metric of the task.
        **given: The remaining fields.
    """
    name = f"{name_arm(arm)}-faster-{name_arm(baseline)}"
    return make_cell("faster", task, name, says, arm, baseline=baseline, metric=metric, **given)


def name_arm(arm: PaperArm) -> str:
    """Return the name of an arm in the id of a cell."""
    return arm.norm.partition("(")[0] + ("" if arm.variant is None else f"-{arm.variant}")
