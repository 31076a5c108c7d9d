"""Networks: each takes what makes its norms, ``norm`` or ``stack``, and imports no norm."""

from normscope.models.attention import Attention as Attention
from normscope.models.attention import Context as Context
from normscope.models.attention import CrossAttention as CrossAttention
from normscope.models.convnet import ConvNet as ConvNet
from normscope.models.feature_mlp import FeatureMLP as FeatureMLP
from normscope.models.feed_forward import FeedForward as FeedForward
from normscope.models.mlp import MLP as MLP
from normscope.models.residual_mlp import ResidualMLP as ResidualMLP
from normscope.models.seq2seq import Seq2Seq as Seq2Seq
from normscope.models.seq2seq import State as State
from normscope.models.text_classifier import TextClassifier as TextClassifier
from normscope.models.transformer_xl import Memory as Memory
from normscope.models.transformer_xl import TransformerXL as TransformerXL
