"""``normscope bench``: what every norm costs on this machine's CPU."""

import json
from typing import Annotated

from cyclopts import Parameter

from normscope.cli.parsing import JSON, count, parse_shapes, split_norms


def bench(
    *,
    norms: Annotated[
        str | None, Parameter(help="such as ada_norm,rms_norm; all that work on rows where left out")
    ] = None,
    shapes: Annotated[str | None, Parameter(help="rows x widths, such as 4096x512,64x1000")] = None,
    dtypes: Annotated[str, Parameter(help="of float32, bfloat16, float16, float64")] = "float32,bfloat16",
    threads: Annotated[int, Parameter(help="of the computation")] = 1,
    seconds: Annotated[float, Parameter(help="for every shape in every dtype")] = 1.0,
    json_output: JSON = False,
) -> None:
    """Measure what every norm costs on this machine's CPU, beside what PyTorch has instead, taken in turns.

    A ratio below 1 is faster than torch. The limit is what copying the input (forward) or adding two such tensors
    (backward) takes: 100 % can only be passed by moving less. On a GPU: ./run --here bench gpu.

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

    # FRN takes feature maps, not rows.
    names = [name for name in NORMS if name != "frn"] if norms is None else split_norms(norms)
    for name in names:
        look_up("norm", NORMS, name)
    wanted = benchmark.SHAPES if shapes is None else parse_shapes(shapes)
    kinds = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
    chosen = [look_up("dtype", kinds, name.strip()) for name in dtypes.split(",")]
    console = open_console(stderr=json_output)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("measuring", total=len(wanted) * len(chosen))
        measured = benchmark.bench(
            names,
            wanted,
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
        "Forward and backward apart; ratio of both together to PyTorch's (green: three quarters of the turns were\n"
        "faster); share of the speed limit; bytes kept for the backward pass, an entry.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for table in cost_tables(measured.to_dict()):
        console.print(table)
    if measured.waited > benchmark.WAITED:
        words = f"the machine was busy: threads waited for a core for up to {measured.waited:.0%} of a turn"
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    if not measured.malloc:
        words = "glibc hands large blocks back at every call: from 16 MB on these are times of its page faults too"
        console.print(f"{words}; normscope doctor says how to keep them", markup=False, highlight=False, soft_wrap=True)
