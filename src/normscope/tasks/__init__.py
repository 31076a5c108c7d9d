"""Tasks: a data set with its network, loss, metric and recipe in a single object; one file or folder per family."""

from normscope.registry import Registry
from normscope.tasks.batching import BatchOrder
from normscope.tasks.custom.loader import UserFile, UserFileChanged
from normscope.tasks.custom.sandbox import UserCodeError
from normscope.tasks.custom.task import CustomTask
from normscope.tasks.custom.trial import Trial
from normscope.tasks.images import ImageClassification
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import BaseTask, Metric, Part, Published, Split, Splits, Task

TASKS: Registry[Task] = Registry(
    "task",
    {
        "digits": "normscope.tasks.images:DIGITS",
        "mnist_mlp": "normscope.tasks.images:MNIST_MLP",
        "mnist_mlp_batch4": "normscope.tasks.images:MNIST_MLP_BATCH4",
        "mnist_cnn": "normscope.tasks.images:MNIST_CNN",
        "cifar10": "normscope.tasks.images:CIFAR10",
        "cifar10_part": "normscope.tasks.images:CIFAR10_PART",
        "draw_mnist": "normscope.tasks.draw:DRAW_MNIST",
        "sequential_mnist": "normscope.tasks.recurrent:SEQUENTIAL_MNIST",
        "sequential_mnist_gru": "normscope.tasks.recurrent:SEQUENTIAL_MNIST_GRU",
        "permuted_mnist": "normscope.tasks.recurrent:PERMUTED_MNIST",
        "permuted_mnist_gru": "normscope.tasks.recurrent:PERMUTED_MNIST_GRU",
        "novels_cloze": "normscope.tasks.cloze:NOVELS_CLOZE",
        "cnn_cloze": "normscope.tasks.cloze:CNN_CLOZE",
        "rt": "normscope.tasks.sentences:RT",
        "cr": "normscope.tasks.sentences:CR",
        "subj": "normscope.tasks.sentences:SUBJ",
        "mpqa": "normscope.tasks.sentences:MPQA",
        "sst5": "normscope.tasks.sentences:SST5",
        "ud_ewt": "normscope.tasks.parsing.task:UD_EWT",
        "ud_ewt_las": "normscope.tasks.parsing.task:UD_EWT_LAS",
        "ptb_wsj_sample": "normscope.tasks.parsing.task:PTB_WSJ_SAMPLE",
        "ptb": "normscope.tasks.parsing.task:PTB",
        "ptb_las": "normscope.tasks.parsing.task:PTB_LAS",
        "tiny_shakespeare": "normscope.tasks.language:TINY_SHAKESPEARE",
        "tiny_shakespeare_lstm": "normscope.tasks.recurrent:TINY_SHAKESPEARE_LSTM",
        "tiny_shakespeare_gru": "normscope.tasks.recurrent:TINY_SHAKESPEARE_GRU",
        "novels_skip_thoughts": "normscope.tasks.skip_thoughts.task:NOVELS_SKIP_THOUGHTS",
        "book_corpus_skip_thoughts": "normscope.tasks.skip_thoughts.task:BOOK_CORPUS_SKIP_THOUGHTS",
        "enwiki_small": "normscope.tasks.language:ENWIKI_SMALL",
        "enwik8": "normscope.tasks.language:ENWIK8",
        "multi30k_order": "normscope.tasks.captions:MULTI30K_ORDER",
        "coco_order": "normscope.tasks.captions:COCO_ORDER",
        "omniglot_strokes": "normscope.tasks.handwriting:OMNIGLOT_STROKES",
        "kanji_strokes": "normscope.tasks.handwriting:KANJI_STROKES",
        "iam_ondb": "normscope.tasks.handwriting:IAM_ONDB",
        "multi30k_de_en": "normscope.tasks.translation.settings:MULTI30K_DE_EN",
        "iwslt14_de_en_sample": "normscope.tasks.translation.settings:IWSLT14_DE_EN_SAMPLE",
        "iwslt14_de_en": "normscope.tasks.translation.settings:IWSLT14_DE_EN",
        "evbnews_en_vi": "normscope.tasks.translation.settings:EVBNEWS_EN_VI",
        "iwslt15_en_vi": "normscope.tasks.translation.settings:IWSLT15_EN_VI",
        "wmt_en_de_10k": "normscope.tasks.translation.settings:WMT_EN_DE_10K",
        "wmt14_en_de": "normscope.tasks.translation.settings:WMT14_EN_DE",
    },
    group="normscope.tasks",
    accepts=lambda entry: isinstance(entry, Task),
    wanted="a normscope.tasks.Task",
)
"""Data sets with their network, loss, metric and recipe; imported at the first look-up."""

__all__ = [
    "TASKS",
    "BaseTask",
    "BatchOrder",
    "CustomTask",
    "ImageClassification",
    "Metric",
    "Part",
    "Published",
    "Recipe",
    "Split",
    "Splits",
    "Task",
    "Trial",
    "UserCodeError",
    "UserFile",
    "UserFileChanged",
]
