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
    workers_per_device: Annotated[
        int | Literal["auto"] | None,
        Parameter(
            help="number of worker processes on each device, such as 4 small runs on one GPU; auto: add workers while "
            "that makes the study faster; default: one per core of a CPU, auto on GPUs",
            show_default=False,
        ),
    ] = None
    devices_per_run: Annotated[
        int, Parameter(help="number of devices that share every batch of a run; with --device cpu, processes")
    ] = 1


DEFAULT_ENGINE = EngineOptions()


def make_engine(options: EngineOptions, study_spec: "StudySpec", *, workers: int | None) -> "Engine":
    """Build the engine that the options name.

    Args:
        options: Options of the command line.
        study_spec: Study whose runs it computes.
        workers: Number of processes in all; None for what the options say.

    Raises:
        ValueError: If an option is out of range.
    """
    from normscope.studies.engines.sizing import local_engine

    return local_engine(study_spec, workers=workers, workers_per_device=options.workers_per_device)
