"""Networks: each takes a factory of its norms, ``norm`` or ``stack``, and imports no norm."""

from normscope.models.attention import Attention, Context, CrossAttention
from normscope.models.attentive_reader import AttentiveReader, ReaderStart
from normscope.models.classifiers import MLP, ConvNet, FeatureMLP, ResidualMLP, TextClassifier
from normscope.models.draw import DRAW
from normscope.models.handwriting import HandwritingNetwork, PenMixture
from normscope.models.layers import FeedForward
from normscope.models.order_embedding import OrderEmbedding
from normscope.models.recurrent import RecurrentLanguageModel, SequenceClassifier
from normscope.models.seq2seq import DecoderState, Seq2Seq
from normscope.models.skip_thoughts import SkipThoughts
from normscope.models.transformer_xl import Memory, TransformerXL

__all__ = [
    "DRAW",
    "MLP",
    "Attention",
    "AttentiveReader",
    "Context",
    "ConvNet",
    "CrossAttention",
    "DecoderState",
    "FeatureMLP",
    "FeedForward",
    "HandwritingNetwork",
    "Memory",
    "OrderEmbedding",
    "PenMixture",
    "ReaderStart",
    "RecurrentLanguageModel",
    "ResidualMLP",
    "Seq2Seq",
    "SequenceClassifier",
    "SkipThoughts",
    "TextClassifier",
    "TransformerXL",
]
