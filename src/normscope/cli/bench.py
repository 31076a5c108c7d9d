"""``normscope bench``: the cost of every norm, or of recurrent layers with norms, on the CPU of this machine."""

import json
from functools import partial
from itertools import product
from typing import Annotated, Any

from cyclopts import Parameter

from normscope.cli.parsing import JSON, count, parse_shapes, parse_sizes, split_norms


def bench(
    *,
    norms: Annotated[
        str | None,
        Parameter(
            help="norms to measure, such as ada_norm,rms_norm; default: all that accept [rows, width], with "
            "--recurrent layer_norm,rms_norm,ada_norm"
        ),
    ] = None,
    shapes: Annotated[
        str | None, Parameter(help="input shapes, rows x width, such as 4096x512,64x1000; default: six typical shapes")
    ] = None,
    recurrent: Annotated[
        bool, Parameter(help="measure recurrent layers with norms inside, beside PyTorch's without any")
    ] = False,
    cell: Annotated[
        str | None, Parameter(help="with --recurrent: cells, of lstm, gru, rnn; default: all three")
    ] = None,
    batch: Annotated[str | None, Parameter(help="with --recurrent: batch sizes, such as 8,64; default: 8")] = None,
    hidden: Annotated[
        str | None, Parameter(help="with --recurrent: numbers of units, and of inputs, such as 256; default: 256")
    ] = None,
    steps: Annotated[
        str | None, Parameter(help="with --recurrent: lengths of the sequences, such as 100,400; default: 100")
    ] = None,
    dtypes: Annotated[
        str | None,
        Parameter(
            help="dtypes to measure, of float32, bfloat16, float16, float64; default: float32,bfloat16, with "
            "--recurrent float32"
        ),
    ] = None,
    threads: Annotated[int, Parameter(help="number of threads of the computation")] = 1,
    seconds: Annotated[float, Parameter(help="duration per shape and dtype; longer gives narrower intervals")] = 1.0,
    json_output: JSON = False,
) -> None:
    """Measure the time and memory of every norm on this CPU, relative to the corresponding PyTorch module.

    The norms are measured in alternation. A ratio below 1 means faster than PyTorch. The speed limit is the time to
    copy the input (forward) or to add two such tensors (backward); only a norm that moves less memory can exceed 100 %.
    With --recurrent, layers with norms inside are measured beside nn.LSTM, nn.GRU and nn.RNN. For a GPU: ./run --here
    bench gpu.

    For example:

    normscope bench

    normscope bench --norms ada_norm,layer_norm --shapes 4096x512 --threads 2 --json

    normscope bench --recurrent --cell lstm,gru --batch 8,64 --hidden 256 --steps 100

    Raises:
        UnknownName: If there is no such norm, cell or dtype.
        ValueError: If options of norms and of recurrent layers are mixed, or a size has another form.
    """
    sizes = {"batch": batch, "hidden": hidden, "steps": steps}
    if recurrent and shapes is not None:
        raise ValueError("--shapes is for norms: with --recurrent give --batch, --hidden and --steps")
    given = [name for name, value in {"cell": cell, **sizes}.items() if value is not None]
    if given and not recurrent:
        raise ValueError(f"--{given[0]} is for recurrent layers: give --recurrent, too")
    import torch
    from rich.progress import Progress

    from normscope.cli.costs.timing import MAX_WAIT
    from normscope.cli.tables import cost_tables, open_console, recurrent_cost_tables
    from normscope.registry import look_up

    kinds = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
    chosen = [
        look_up("dtype", kinds, name.strip())
        for name in (dtypes or ("float32" if recurrent else "float32,bfloat16")).split(",")
    ]
    cases: list[Any]
    if recurrent:
        from normscope.cli.costs.recurrent import CELLS, bench_recurrent

        cells = list(CELLS) if cell is None else [name.strip() for name in cell.split(",")]
        usual = {"batch": "8", "hidden": "256", "steps": "100"}
        cases = list(product(*(parse_sizes(name, sizes[name] or usual[name]) for name in usual)))
        inside = split_norms(norms or "layer_norm,rms_norm,ada_norm")
        measure, total = partial(bench_recurrent, cells, inside, cases, chosen), len(cells) * len(cases) * len(chosen)
        tables = recurrent_cost_tables
    else:
        from normscope.cli.costs.norms import SHAPES, bench_norms
        from normscope.norms import NORMS

        names = list(NORMS) if norms is None else split_norms(norms)
        for name in names:
            look_up("norm", NORMS, name)
        cases = list(SHAPES) if shapes is None else parse_shapes(shapes)
        measure, total = partial(bench_norms, names, cases, chosen), len(cases) * len(chosen)
        tables = cost_tables
    console = open_console(stderr=json_output)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("measuring", total=total)
        measured = measure(threads=threads, seconds=seconds, callback=lambda done: progress.update(bar, completed=done))
    if json_output:
        print(json.dumps(measured.to_dict(), indent=1, allow_nan=False))
        return
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(
        f"torch {measured.torch} on {measured.device}, {count(range(measured.threads), 'thread')}; "
        f"backend {measured.backend}.\n"
        "Forward and backward time; ratio of their sum to PyTorch's (green: faster in three quarters of the rounds);\n"
        + (
            "memory saved for the backward pass, and its ratio to PyTorch's; what computed it."
            if recurrent
            else "share of the speed limit; bytes saved for the backward pass per element."
        )
    )
    for table in tables(measured.to_dict()):
        console.print(table)
    if measured.waited > MAX_WAIT:
        say(f"the machine was busy: threads waited for a core for up to {measured.waited:.0%} of a round")
    if not measured.malloc:
        say(
            "glibc returns large blocks to the system at every call, so above 16 MB the times include page faults; "
            "normscope doctor shows the settings that prevent it"
        )
