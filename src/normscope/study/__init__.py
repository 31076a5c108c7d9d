"""Many runs: the question, the plan, the engine, the answer."""

from normscope.study.arm import Arm as Arm
from normscope.study.card import Card as Card
from normscope.study.card import make_card as make_card
from normscope.study.compare import compare as compare
