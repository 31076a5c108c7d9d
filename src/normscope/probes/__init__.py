"""What is measured on a running model. A probe changes nothing in it."""

from normscope.probes.coordinate_check import coordinate_check as coordinate_check
from normscope.probes.curvature import Curvature as Curvature
from normscope.probes.curvature import curvature as curvature
from normscope.probes.depth import StackDepth as StackDepth
from normscope.probes.depth import depth_profile as depth_profile
from normscope.probes.diagnosis import Diagnosis as Diagnosis
from normscope.probes.diagnosis import diagnose as diagnose
from normscope.probes.findings import Finding as Finding
from normscope.probes.fisher import normalized_fisher as normalized_fisher
from normscope.probes.fisher import standard_fisher as standard_fisher
from normscope.probes.gradient_history import gradients_through_training as gradients_through_training
from normscope.probes.gradient_shares import GradientShares as GradientShares
from normscope.probes.gradient_shares import gradient_shares as gradient_shares
from normscope.probes.implicit_learning_rate import implicit_learning_rate as implicit_learning_rate
from normscope.probes.invariances import invariances as invariances
from normscope.probes.norm_gradients import NormGradients as NormGradients
from normscope.probes.norm_gradients import gradients_at_norms as gradients_at_norms
from normscope.probes.norms_in import find_norms as find_norms
from normscope.probes.numeric_range import NormRange as NormRange
from normscope.probes.numeric_range import numeric_range as numeric_range
from normscope.probes.parity import Parity as Parity
from normscope.probes.parity import parity as parity
from normscope.probes.warmup import warmup_features as warmup_features
