"""The options of ``compare`` that say what computes the runs of a study."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from normscope.studies import StudySpec
    from normscope.studies.engines.engine import Engine


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What computes the runs."""

    engine: Annotated[Literal["local"], Parameter(help="local: worker processes on this machine")] = "local"
    stack_seeds: Annotated[
        bool,
        Parameter(
            help="train the seeds of an arm as one stacked model: small image tasks only, faster, equal to single runs "
            "up to rounding, no times or memory per arm"
        ),
    ] = False


DEFAULT_ENGINE = EngineOptions()


def make_engine(options: EngineOptions, study_spec: "StudySpec", *, workers: int | None) -> "Engine":
    """Build the engine that the options name.

    Args:
        options: Options of the command line.
        study_spec: Study whose runs it computes.
        workers: Number of processes; one per core if None.

    Raises:
        ValueError: If an option is out of range.
    """
    from normscope.studies.compare import default_workers
    from normscope.studies.engines.local import LocalEngine

    return LocalEngine(workers=default_workers(study_spec) if workers is None else workers)
