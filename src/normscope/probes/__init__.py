"""What is measured on a running model. A probe changes nothing in it."""

from normscope.probes.gradient_shares import GradientShares as GradientShares
from normscope.probes.gradient_shares import gradient_shares as gradient_shares
