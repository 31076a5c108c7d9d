"""Many runs: the question, the plan, the engine, the answer."""

from normscope.studies.compare import compare
from normscope.studies.spec import Arm, StudySpec, make_study

__all__ = [
    "Arm",
    "StudySpec",
    "compare",
    "make_study",
]
