"""Mathematical properties of a norm or a model: invariances, parity, curvature, Fisher information."""

from normscope.analysis.curvature import Curvature, curvature
from normscope.analysis.fisher import normalized_fisher, standard_fisher
from normscope.analysis.implicit_learning_rate import ImplicitLearningRate, implicit_learning_rate
from normscope.analysis.invariances import Invariances, invariances
from normscope.analysis.parity import Parity, parity

__all__ = [
    "Curvature",
    "ImplicitLearningRate",
    "Invariances",
    "Parity",
    "curvature",
    "implicit_learning_rate",
    "invariances",
    "normalized_fisher",
    "parity",
    "standard_fisher",
]
