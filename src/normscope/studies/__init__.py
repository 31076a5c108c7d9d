"""Studies: the specification, the plan of its runs, the engine that computes them, and the verdict."""

from normscope.studies.arm import Arm
from normscope.studies.compare import StudyMismatch, compare
from normscope.studies.engines.engine import Engine, EngineError, RunEvent
from normscope.studies.options import StudyOptions
from normscope.studies.plan import RunSpec, plan
from normscope.studies.preflight import ArmMisfit
from normscope.studies.spec import StudySpec, make_study

__all__ = [
    "Arm",
    "ArmMisfit",
    "Engine",
    "EngineError",
    "RunEvent",
    "RunSpec",
    "StudyMismatch",
    "StudyOptions",
    "StudySpec",
    "compare",
    "make_study",
    "plan",
]
