"""``normscope bench``: the cost of every norm on the CPU of this machine."""

import json
from typing import Annotated

from cyclopts import Parameter

from normscope.cli.parsing import JSON, count, parse_shapes, split_norms


def bench(
    *,
    norms: Annotated[
        str | None,
        Parameter(help="norms to measure, such as ada_norm,rms_norm; default: all that accept [rows, width]"),
    ] = None,
    shapes: Annotated[
        str | None, Parameter(help="input shapes, rows x width, such as 4096x512,64x1000; default: six typical shapes")
    ] = None,
    dtypes: Annotated[
        str, Parameter(help="dtypes to measure, of float32, bfloat16, float16, float64")
    ] = "float32,bfloat16",
    threads: Annotated[int, Parameter(help="number of threads of the computation")] = 1,
    seconds: Annotated[float, Parameter(help="duration per shape and dtype; longer gives narrower intervals")] = 1.0,
    json_output: JSON = False,
) -> None:
    """Measure the time and memory of every norm on this CPU, relative to the corresponding PyTorch module.

    The norms are measured in alternation. A ratio below 1 means faster than PyTorch. The speed limit is the time to
    copy the input (forward) or to add two such tensors (backward); only a norm that moves less memory can exceed 100 %.
    For a GPU: ./run --here bench gpu.

    For example:

    normscope bench

    normscope bench --norms ada_norm,layer_norm --shapes 4096x512 --threads 2 --json
    """
    import torch
    from rich.progress import Progress

    from normscope.cli import costs as benchmark
    from normscope.cli.tables import cost_tables, open_console
    from normscope.norms import NORMS
    from normscope.registry import look_up

    names = list(NORMS) if norms is None else split_norms(norms)
    for name in names:
        look_up("norm", NORMS, name)
    cases = benchmark.SHAPES if shapes is None else parse_shapes(shapes)
    kinds = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
    chosen = [look_up("dtype", kinds, name.strip()) for name in dtypes.split(",")]
    console = open_console(stderr=json_output)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("measuring", total=len(cases) * len(chosen))
        measured = benchmark.bench(
            names,
            cases,
            chosen,
            threads=threads,
            seconds=seconds,
            callback=lambda done: progress.update(bar, completed=done),
        )
    if json_output:
        print(json.dumps(measured.to_dict(), indent=1, allow_nan=False))
        return
    threads_used = count(range(measured.threads), "thread")
    console.print(
        f"torch {measured.torch} on {measured.device}, {threads_used}; backend {measured.backend}.\n"
        "Forward and backward time; ratio of their sum to PyTorch's (green: faster in three quarters of the rounds);\n"
        "share of the speed limit; bytes saved for the backward pass per element.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for table in cost_tables(measured.to_dict()):
        console.print(table)
    if measured.waited > benchmark.MAX_WAIT:
        note = f"the machine was busy: threads waited for a core for up to {measured.waited:.0%} of a round"
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if not measured.malloc:
        note = "glibc returns large blocks to the system at every call, so above 16 MB the times include page faults"
        console.print(
            f"{note}; normscope doctor shows the settings that prevent it",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
