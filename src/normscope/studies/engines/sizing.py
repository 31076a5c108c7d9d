"""The local engine of a study: on which devices, and with how many workers."""

from typing import Literal

import torch

from normscope.studies.engines.devices import cores, slots_of
from normscope.studies.engines.growth import Growth
from normscope.studies.engines.local import LocalEngine
from normscope.studies.spec import StudySpec

__tracebackhide__ = True


def local_engine(
    study_spec: StudySpec, *, workers: int | None = None, workers_per_device: int | Literal["auto"] | None = None
) -> LocalEngine:
    """Build the local engine for a study.

    A CPU has one worker per core, which each have one thread: more would share cores, fewer would leave some idle. An
    accelerator has as many as :class:`~normscope.studies.engines.growth.Growth` finds to be worth it, from one on, at
    most one per core.

    Args:
        study_spec: Study whose runs it computes.
        workers: Number of processes in all; None for what ``workers_per_device`` says.
        workers_per_device: Number of processes on each device or, if runs have several, on each group of devices;
            ``"auto"`` to add workers while that makes the study faster; None for the default of the device.

    Raises:
        ValueError: If both are given, or a number is below one.
    """
    if workers is not None and workers_per_device is not None:
        raise ValueError(f"give workers or workers_per_device, not both, got {workers} and {workers_per_device}")
    if isinstance(workers_per_device, int) and workers_per_device < 1:
        raise ValueError(f"workers_per_device must be at least 1, or auto, got {workers_per_device}")
    slots = slots_of(study_spec.device, study_spec.devices_per_run)
    on_cpu = torch.device(study_spec.device).type == "cpu"
    most = max(1, cores() // study_spec.devices_per_run // len(slots))
    if workers is None and (workers_per_device == "auto" or (workers_per_device is None and not on_cpu)):
        return LocalEngine(workers=len(slots), slots=slots, growth=Growth(slots=len(slots), most=most))
    if workers is None:
        workers = len(slots) * (most if workers_per_device is None else int(workers_per_device))
    return LocalEngine(workers=workers, slots=slots)
