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

    engine: Annotated[
        Literal["local", "ray"],
        Parameter(help="local: worker processes on this machine; ray: the nodes of an existing Ray cluster"),
    ] = "local"
    address: Annotated[
        str | None,
        Parameter(help="with ray: HOST:PORT of the cluster, as `ray start --head` prints it; no other one is used"),
    ] = None
    cpus_per_run: Annotated[float | None, Parameter(help="with ray: CPUs that a run reserves; default: 1")] = None
    gpus_per_run: Annotated[
        float | None, Parameter(help="with ray: GPUs that a run reserves, such as 0.5; default: 0, or 1 with --device")
    ] = None
    shared_folder: Annotated[
        bool | None,
        Parameter(
            help="with ray: whether the nodes see the study's folder; if not, the files come back through Ray; "
            "default: each node looks"
        ),
    ] = None


DEFAULT_ENGINE = EngineOptions()


def make_engine(options: EngineOptions, study_spec: "StudySpec", *, workers: int | None) -> "Engine":
    """Build the engine that the options name.

    Args:
        options: Options of the command line.
        study_spec: Study whose runs it computes.
        workers: Number of processes, or of runs at a time; one per core, or as many as a cluster has room for, if None.

    Raises:
        ValueError: If an option is out of range.
    """
    from normscope.studies.compare import default_workers
    from normscope.studies.engines.local import LocalEngine

    if options.engine == "local":
        for name in ("address", "cpus_per_run", "gpus_per_run", "shared_folder"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for --engine ray; the engine is local")
        return LocalEngine(workers=default_workers(study_spec) if workers is None else workers)
    from normscope.studies.engines.ray import RayEngine

    gpus = 0.0 if study_spec.device == "cpu" else 1.0
    return RayEngine(
        address=options.address or "",
        cpus_per_run=1 if options.cpus_per_run is None else options.cpus_per_run,
        gpus_per_run=gpus if options.gpus_per_run is None else options.gpus_per_run,
        at_most=workers,
        shared=options.shared_folder,
    )
